/**
 * A presence map on disk: a header, a bitmap of the pages that were ever written, the pages. It is sparse, so a disk of
 * any size costs what its used parts cost; a page that the bitmap does not name is all absent and takes no I/O.
 *
 * A map that has to outlast a power loss has its full length from the start: were it to grow with its pages, the loss
 * could take the length back and leave a bitmap that names a page behind the end.
 */
import type { Bytes } from '../base/contracts.ts';
import type { OverlayFile } from './files.ts';
import { buildMapHeader, MAP_HEADER, type MapHeader, parseMapHeader } from './header.ts';
import { PAGE, PAGE_SPAN } from './states.ts';

const BITMAP_AT: Bytes = PAGE;
/** 2^27 pages speak for 2^53 bytes, the largest disk there can be. */
const BITMAP_BYTES: Bytes = 2 ** 27 / 8;
const PAGES_AT: Bytes = BITMAP_AT + BITMAP_BYTES;

const lengthFor = (pages: number): Bytes => PAGES_AT + pages * PAGE;

export const pagesFor = (diskSize: Bytes): number => Math.ceil(diskSize / PAGE_SPAN);

export class MapFile {
  readonly #file: OverlayFile;
  #written: Uint8Array;
  readonly #one = new Uint8Array(1);
  #unsynced = true;

  private constructor(file: OverlayFile, pages: number) {
    this.#file = file;
    this.#written = new Uint8Array(Math.ceil(pages / 8));
  }

  /** A new map, everything absent, in an empty file. */
  static create(file: OverlayFile, header: MapHeader, pages: number): MapFile {
    const map = new MapFile(file, pages);
    map.writeHeader(header);
    return map;
  }

  /** Throws 'corrupt' or 'unsupported' when the header is not right. */
  static open(file: OverlayFile, pages: number): { readonly map: MapFile; readonly header: MapHeader } {
    const head = new Uint8Array(Math.min(MAP_HEADER, file.size));
    file.readNow(head, 0);
    const header = parseMapHeader(head, file.name);
    const map = new MapFile(file, pages);
    const there = Math.max(0, Math.min(map.#written.length, file.size - BITMAP_AT));
    if (there > 0) file.readNow(map.#written.subarray(0, there), BITMAP_AT);
    return { map, header };
  }

  get name(): string {
    return this.#file.name;
  }

  /** Whether the file has its full length. */
  isWhole(pages: number): boolean {
    return this.#file.size >= lengthFor(pages);
  }

  get allocated(): Bytes {
    return this.#file.allocated();
  }

  /** Whether the page was ever written. */
  has(page: number): boolean {
    return (this.#written[page >>> 3]! & (1 << (page & 7))) !== 0;
  }

  hasAny(): boolean {
    return this.#written.some(byte => byte !== 0);
  }

  /** Pages that were ever written, in order. */
  *pages(): Generator<number> {
    for (let byte = 0; byte < this.#written.length; byte++) {
      if (this.#written[byte] === 0) continue;
      for (let page = byte * 8; page < byte * 8 + 8; page++) if (this.has(page)) yield page;
    }
  }

  pageAt(page: number): Bytes {
    return PAGES_AT + page * PAGE;
  }

  readPage(page: number, into: Uint8Array): void {
    this.#file.readNow(into, this.pageAt(page));
  }

  /** Writes the bytes [from, to) of a page. */
  writePage(page: number, bytes: Uint8Array, from = 0, to = PAGE): void {
    this.#unsynced = true;
    this.#file.write(bytes.subarray(from, to), this.pageAt(page) + from);
  }

  /** Lets the page count. After its bytes, so that a page is never found without them. */
  mark(page: number): void {
    if (this.has(page)) return;
    const byte = page >>> 3;
    this.#one[0] = this.#written[byte]! | (1 << (page & 7));
    this.#unsynced = true;
    this.#file.write(this.#one, BITMAP_AT + byte);
    this.#written[byte] = this.#one[0];
  }

  writeHeader(header: MapHeader): void {
    this.#unsynced = true;
    this.#file.write(buildMapHeader(header), 0);
  }

  /** Gives the file the length for so many pages; durable with the next sync. */
  async lengthen(pages: number): Promise<void> {
    this.#unsynced = true;
    await this.#file.lengthen(lengthFor(pages));
  }

  /** Makes room for a larger disk. */
  grow(pages: number): void {
    const larger = new Uint8Array(Math.ceil(pages / 8));
    larger.set(this.#written);
    this.#written = larger;
  }

  async sync(): Promise<void> {
    if (!this.#unsynced) return;
    this.#unsynced = false;
    await this.#file.sync();
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}
