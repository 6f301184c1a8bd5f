/** L2 tables in memory: read on demand by pages, bounded, each page read once however many wait for it. */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { RecentPages } from '../../src/base/pages.ts';
import { METADATA } from '../../src/base/shared-budget.ts';
import { viewOf } from '../../src/base/struct.ts';
import { entriesPerTable, type Qcow2Header } from './header.ts';

/** What one image keeps of its L2 tables: enough for 128 GiB of disk with 64 KiB clusters. */
const BUDGET: Bytes = 16 * 2 ** 20;
const PAGE: Bytes = 65536;

/** Bits 9 to 55 of an L1 or L2 entry: an offset in the file. */
export const offsetOf = (high: number, low: number): Bytes =>
  (high & 0x00ff_ffff) * 0x1_0000_0000 + ((low & 0xffff_fe00) >>> 0);

/** The L1 table of one mapping (the disk, or an internal snapshot of it); always resident. */
export class L2Tables {
  readonly #source: ByteSource;
  readonly #l1: DataView;
  readonly #clusterSize: Bytes;
  readonly #pageBytes: Bytes;
  readonly #pagesPerTable: number;
  readonly #most: number;
  readonly #pages = new RecentPages<DataView>();
  readonly #took = METADATA.join(this.#pages);
  readonly #underway = new Map<number, Promise<void>>();
  /** L2 entries in one page; a page never spans two tables. */
  readonly perPage: number;
  readonly perTable: number;

  constructor(source: ByteSource, header: Qcow2Header, l1: Uint8Array) {
    this.#source = source;
    this.#l1 = viewOf(l1);
    this.#clusterSize = header.clusterSize;
    this.#pageBytes = Math.min(header.clusterSize, PAGE);
    this.#pagesPerTable = header.clusterSize / this.#pageBytes;
    this.#most = BUDGET / this.#pageBytes;
    this.perTable = entriesPerTable(header);
    this.perPage = this.perTable / this.#pagesPerTable;
  }

  get tables(): number {
    return this.#l1.byteLength / 8;
  }

  /** File offset of an L2 table; 0 when none of its clusters was ever written. */
  tableAt(table: number): Bytes {
    return offsetOf(this.#l1.getUint32(table * 8), this.#l1.getUint32(table * 8 + 4));
  }

  /** The page that holds the entry of `cluster`, if it is resident. Entry of the cluster: `cluster % perPage`. */
  page(cluster: number): DataView | null {
    return this.#pages.get(Math.floor(cluster / this.perPage));
  }

  /** Makes the page of `cluster` resident; its table must exist. */
  load(cluster: number): Promise<void> {
    const index = Math.floor(cluster / this.perPage);
    if (this.#pages.get(index) !== null) return Promise.resolve();
    let reading = this.#underway.get(index);
    if (reading === undefined) {
      reading = this.#read(index).finally(() => this.#underway.delete(index));
      this.#underway.set(index, reading);
    }
    return reading;
  }

  async #read(index: number): Promise<void> {
    const table = Math.floor(index / this.#pagesPerTable);
    const at = this.checkedTableAt(table) + (index % this.#pagesPerTable) * this.#pageBytes;
    const bytes = new Uint8Array(this.#pageBytes);
    await this.#source.read(bytes, at);
    if (this.#pages.size >= this.#most) this.#took(-this.#pages.dropOldest());
    this.#pages.put(index, viewOf(bytes));
    this.#took(bytes.length);
  }

  /** As `tableAt`, but 'corrupt' when the table does not lie on a cluster inside the file. */
  checkedTableAt(table: number): Bytes {
    const at = this.tableAt(table);
    if (at % this.#clusterSize !== 0 || at + this.#clusterSize > this.#source.size) {
      const why = at % this.#clusterSize === 0 ? 'leaves the file' : 'is not at the start of a cluster';
      const message = `L2 table ${table} at ${at} ${why}`;
      throw new ImageError('corrupt', message, { file: this.#source.name, at, field: 'L2 table' });
    }
    return at;
  }
}
