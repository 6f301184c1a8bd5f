/** L2 tables in memory: read on demand by pages, bounded, each page read once however many wait for it. */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { type Pages, pages, RecentPages } from '../../src/base/pages.ts';
import { viewOf } from '../../src/base/struct.ts';
import { entriesPerTable, type Qcow2Header } from './header.ts';

/** What one image keeps of its L2 tables: enough for 128 GiB of disk with 64 KiB clusters. */
const BUDGET: Bytes = 16 * 2 ** 20;
const PAGE: Bytes = 65536;
/** Parts of the L1 table: one is enough for 512 GiB of disk with 64 KiB clusters, all of them for 128 TiB. */
const TOP_PAGE: Bytes = 8192;
const TOP_PAGES = 256;

/** Bits 9 to 55 of an L1 or L2 entry: an offset in the file. */
export const offsetOf = (high: number, low: number): Bytes =>
  (high & 0x00ff_ffff) * 0x1_0000_0000 + ((low & 0xffff_fe00) >>> 0);

/** Where the L1 table of a mapping lies. */
export interface TopTable {
  readonly at: Bytes;
  /** One for each L2 table that the disk needs. */
  readonly entries: number;
}

/** Its bytes from the start on, in parts of whole entries that are valid until the next one is asked for. */
export async function* topParts(source: ByteSource, { at, entries }: TopTable): AsyncGenerator<Uint8Array> {
  const length = entries * 8;
  const part = new Uint8Array(Math.min(PAGE, length));
  for (let done = 0; done < length; done += PAGE) {
    const now = part.subarray(0, Math.min(PAGE, length - done));
    await source.read(now, at + done);
    yield now;
  }
}

/** Every L2 table of a mapping that there is, and what the L1 table says about its place. */
export async function* tablesOf(
  source: ByteSource,
  top: TopTable,
): AsyncGenerator<{ readonly table: number; readonly at: Bytes }> {
  let first = 0;
  for await (const part of topParts(source, top)) {
    const view = viewOf(part);
    for (let i = 0; i < part.length / 8; i++) {
      const at = offsetOf(view.getUint32(i * 8), view.getUint32(i * 8 + 4));
      if (at !== 0) yield { table: first + i, at };
    }
    first += part.length / 8;
  }
}

/** The tables of one mapping (the disk, or an internal snapshot of it). Every `null`: `load` the cluster first. */
export class L2Tables {
  readonly #source: ByteSource;
  readonly #top: TopTable;
  readonly #topPages: Pages;
  readonly #clusterSize: Bytes;
  readonly #pageBytes: Bytes;
  readonly #pagesPerTable: number;
  readonly #pages: RecentPages<DataView>;
  readonly #underway = new Map<number, Promise<void>>();
  /** L2 entries in one page; a page never spans two tables. */
  readonly perPage: number;
  readonly perTable: number;

  constructor(source: ByteSource, header: Qcow2Header, top: TopTable) {
    this.#source = source;
    this.#top = top;
    this.#topPages = pages(source, TOP_PAGES);
    this.#clusterSize = header.clusterSize;
    this.#pageBytes = Math.min(header.clusterSize, PAGE);
    this.#pagesPerTable = header.clusterSize / this.#pageBytes;
    this.#pages = new RecentPages(BUDGET / this.#pageBytes);
    this.perTable = entriesPerTable(header);
    this.perPage = this.perTable / this.#pagesPerTable;
  }

  /** File offset of an L2 table; 0 when none of its clusters was ever written. */
  tableAt(table: number): Bytes | null {
    const page = this.#topPages.resident(this.#topPageOf(table));
    if (page === null) return null;
    const view = viewOf(page);
    const at = (table * 8) % TOP_PAGE;
    return offsetOf(view.getUint32(at), view.getUint32(at + 4));
  }

  #topPageOf(table: number): Bytes {
    return this.#top.at + Math.floor((table * 8) / TOP_PAGE) * TOP_PAGE;
  }

  async #loadTop(table: number): Promise<Bytes> {
    for (;;) {
      const at = this.tableAt(table);
      if (at !== null) return at;
      const page = this.#topPageOf(table);
      await this.#topPages.load(page, Math.min(TOP_PAGE, this.#top.at + this.#top.entries * 8 - page));
    }
  }

  /** The page that holds the entry of `cluster`, if it is resident. Entry of the cluster: `cluster % perPage`. */
  page(cluster: number): DataView | null {
    return this.#pages.get(Math.floor(cluster / this.perPage));
  }

  /** Makes the page of `cluster` resident, or the answer that it has no table. */
  load(cluster: number): Promise<void> {
    const index = Math.floor(cluster / this.perPage);
    let reading = this.#underway.get(index);
    if (reading === undefined) {
      reading = this.#read(index).finally(() => this.#underway.delete(index));
      this.#underway.set(index, reading);
    }
    return reading;
  }

  async #read(index: number): Promise<void> {
    const table = Math.floor(index / this.#pagesPerTable);
    const tableAt = await this.#loadTop(table);
    if (tableAt === 0 || this.#pages.get(index) !== null) return;
    this.#check(table, tableAt);
    const bytes = new Uint8Array(this.#pageBytes);
    await this.#source.read(bytes, tableAt + (index % this.#pagesPerTable) * this.#pageBytes);
    this.#pages.put(index, viewOf(bytes));
  }

  /** 'corrupt' when the table does not lie on a cluster inside the file. */
  #check(table: number, at: Bytes): void {
    if (at % this.#clusterSize === 0 && at + this.#clusterSize <= this.#source.size) return;
    const why = at % this.#clusterSize === 0 ? 'leaves the file' : 'is not at the start of a cluster';
    const message = `L2 table ${table} at ${at} ${why}`;
    throw new ImageError('corrupt', message, { file: this.#source.name, at, field: 'L2 table' });
  }
}
