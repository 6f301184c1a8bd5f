/**
 * Which blocks an overlay holds. Two maps on disk, because two promises pull in opposite directions: a write that was
 * acknowledged must survive a kill of this process, and after a power loss no block may be found present whose data
 * did not reach the disk.
 *
 * - `recent` is written before the acknowledgement, after the data. It counts only in the boot of the machine in which
 *   it was written: there the kernel holds its bytes and those of the data together.
 * - `durable` gets a page at a flush, after the data that the page names was synced. It counts always.
 *
 * So: data, then recent, then the acknowledgement. And: data, its sync, then durable, then the sync of durable.
 *
 * A page found in recent is newer than the same page in durable. Pages are written through: forgetting one costs
 * nothing, so memory is bounded whatever the disk's size.
 */
import type { Bytes } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import type { MapFile } from './map-file.ts';
import { type Page, PageCache } from './page-cache.ts';
import {
  ABSENT,
  BLOCKS_PER_PAGE,
  countData,
  firstBadByte,
  PAGE,
  runAt,
  type State,
  setStates,
  stateAt,
} from './states.ts';

export class Presence {
  readonly #recent: MapFile;
  readonly #durable: MapFile;
  readonly #cache: PageCache;
  readonly #before = new Uint8Array(PAGE);
  #suspects = 0;
  /** Pages that durable does not have yet as they are, each once; `#isDirty` is the same as a bitmap. */
  #dirty: number[] = [];
  #isDirty: Uint8Array;
  /** Data blocks in the pages below `#counted`. */
  #dataBlocks = 0;
  #counted = 0;
  #pages: number;

  /** `cacheBytes`: for map pages in memory. Every page found in `recent` counts as not yet durable. */
  constructor(recent: MapFile, durable: MapFile, pages: number, cacheBytes: Bytes) {
    this.#recent = recent;
    this.#durable = durable;
    this.#pages = pages;
    this.#cache = new PageCache(Math.floor(cacheBytes / PAGE));
    this.#isDirty = new Uint8Array(Math.ceil(pages / 8));
    for (const page of recent.pages()) this.#markDirty(page);
  }

  /** State of a block; reads the map page when it is not in memory. */
  state(block: number): State {
    const page = this.#load(Math.floor(block / BLOCKS_PER_PAGE));
    return page === null ? ABSENT : stateAt(page.bytes, block % BLOCKS_PER_PAGE);
  }

  /** Blocks from `block` known to share its state, at most `limit`: as far as one page tells, or untouched ones. */
  run(block: number, limit: number): number {
    let index = Math.floor(block / BLOCKS_PER_PAGE);
    const within = block % BLOCKS_PER_PAGE;
    const page = this.#load(index);
    let count = BLOCKS_PER_PAGE - within;
    if (page !== null) return runAt(page.bytes, within, Math.min(limit, count));
    for (index++; count < limit && !this.#touched(index); index++) count += BLOCKS_PER_PAGE;
    return Math.min(limit, count);
  }

  /** Whether `state` and `run` answer without I/O. */
  resident(block: number): boolean {
    const index = Math.floor(block / BLOCKS_PER_PAGE);
    return this.#cache.get(index) !== null || !this.#touched(index);
  }

  /** Whether all blocks of [first, last] have the state, and the map on disk surely says so. */
  all(first: number, last: number, state: State): boolean {
    if (this.#suspects > 0) return false;
    for (let block = first; block <= last; ) {
      if (this.state(block) !== state) return false;
      block += this.run(block, last - block + 1);
    }
    return true;
  }

  /**
   * Gives `count` blocks from `first` a state, in recent and in memory. For DATA, their data has been written. When it
   * throws, a page's blocks are as they were.
   */
  publish(first: number, count: number, state: State): void {
    const end = first + count;
    for (let block = first; block < end; ) {
      const within = block % BLOCKS_PER_PAGE;
      const n = Math.min(end - block, BLOCKS_PER_PAGE - within);
      this.#publishIn(Math.floor(block / BLOCKS_PER_PAGE), within, n, state);
      block += n;
    }
  }

  /**
   * Writes again the pages whose last write to recent failed half way. Before any other change: a block that memory
   * knows as data is rewritten without a word to the map, so the map must surely have it.
   */
  repair(): void {
    if (this.#suspects === 0) return;
    for (const page of this.#cache.suspects()) {
      this.#recent.writePage(page.index, page.bytes);
      page.suspect = false;
      this.#suspects--;
    }
  }

  /** The pages that durable must get, and from now on nobody else's concern: see `giveBack`. */
  takeDirty(): readonly number[] {
    const dirty = this.#dirty;
    this.#dirty = [];
    return dirty;
  }

  /** Pages of a flush that failed: they are still to be made durable. */
  giveBack(pages: readonly number[]): void {
    const since = this.#dirty;
    this.#dirty = [];
    // Some of them became dirty again, and some were never looked at: each once.
    for (const list of [pages, since]) for (const page of list) this.#isDirty[page >>> 3]! &= ~(1 << (page & 7));
    for (const list of [pages, since]) for (const page of list) this.#markDirty(page);
  }

  /** A copy of some pages as they are now. What changes later is not in it, and counts as dirty again. */
  snapshot(pages: readonly number[]): Uint8Array {
    const copy = new Uint8Array(pages.length * PAGE);
    for (const [i, index] of pages.entries()) {
      const page = this.#load(index);
      if (page !== null) copy.set(page.bytes, i * PAGE);
      this.#isDirty[index >>> 3]! &= ~(1 << (index & 7));
    }
    return copy;
  }

  /** Writes such a copy to durable. The data that it names has been synced since it was taken. */
  commit(pages: readonly number[], copy: Uint8Array): void {
    for (const [i, index] of pages.entries()) {
      this.#durable.writePage(index, copy.subarray(i * PAGE, (i + 1) * PAGE));
      this.#durable.mark(index);
    }
  }

  /** Data blocks, when all pages below `until` have been looked at; null while there are more, after some of them. */
  countData(pagesAtOnce: number): number | null {
    const until = Math.min(this.#pages, this.#counted + pagesAtOnce);
    for (; this.#counted < until; this.#counted++) {
      const page = this.#load(this.#counted);
      if (page !== null) this.#dataBlocks += countData(page.bytes);
    }
    return this.#counted === this.#pages ? this.#dataBlocks : null;
  }

  /** The durable map gets its length for a larger disk; durable with the next flush. */
  lengthen(pages: number): Promise<void> {
    return this.#durable.lengthen(pages);
  }

  /** Makes room for a larger disk; what is new is absent. */
  grow(pages: number): void {
    this.#pages = pages;
    this.#recent.grow(pages);
    this.#durable.grow(pages);
    const larger = new Uint8Array(Math.ceil(pages / 8));
    larger.set(this.#isDirty);
    this.#isDirty = larger;
  }

  #touched(index: number): boolean {
    return this.#recent.has(index) || this.#durable.has(index);
  }

  /** null: untouched, all absent. */
  #load(index: number): Page | null {
    const page = this.#cache.get(index);
    if (page !== null) return page;
    return this.#touched(index) ? this.#own(index) : null;
  }

  #own(index: number): Page {
    return (
      this.#cache.get(index) ??
      this.#cache.add(index, bytes => {
        if (!this.#touched(index)) {
          bytes.fill(0);
          return;
        }
        const map = this.#recent.has(index) ? this.#recent : this.#durable;
        map.readPage(index, bytes);
        const bad = firstBadByte(bytes);
        if (bad >= 0) {
          const at = map.pageAt(index) + bad;
          throw new ImageError('corrupt', `a block of the overlay has no valid state (0x${bytes[bad]!.toString(16)})`, {
            file: map.name,
            at,
          });
        }
      })
    );
  }

  #publishIn(index: number, within: number, count: number, state: State): void {
    const page = this.#own(index);
    const { bytes } = page;
    if (stateAt(bytes, within) === state && runAt(bytes, within, count) === count) return;
    this.#reserve(page);
    const from = within >>> 2;
    const to = ((within + count - 1) >>> 2) + 1;
    this.#before.set(bytes.subarray(from, to));
    setStates(bytes, within, count, state);
    try {
      this.#writeRecent(page, from, to);
    } catch (error) {
      bytes.set(this.#before.subarray(0, to - from), from);
      this.#writeBack(page, from, to);
      throw error;
    }
    if (index < this.#counted) {
      this.#dataBlocks += countData(bytes.subarray(from, to)) - countData(this.#before.subarray(0, to - from));
    }
    this.#markDirty(index);
  }

  /** Before a page is changed for the first time: its place in durable, so that a flush never needs space. */
  #reserve(page: Page): void {
    if (this.#recent.has(page.index)) return;
    this.#durable.writePage(page.index, page.bytes);
    this.#durable.mark(page.index);
  }

  #writeRecent(page: Page, from: number, to: number): void {
    if (this.#recent.has(page.index)) {
      this.#recent.writePage(page.index, page.bytes, from, to);
    } else {
      this.#recent.writePage(page.index, page.bytes);
      this.#recent.mark(page.index);
    }
  }

  /** After a failed write: what part of it arrived is not known. A page that does not count yet needs nothing. */
  #writeBack(page: Page, from: number, to: number): void {
    if (!this.#recent.has(page.index)) return;
    try {
      this.#recent.writePage(page.index, page.bytes, from, to);
    } catch {
      if (!page.suspect) this.#suspects++;
      page.suspect = true;
    }
  }

  #markDirty(index: number): void {
    const bit = 1 << (index & 7);
    if ((this.#isDirty[index >>> 3]! & bit) !== 0) return;
    this.#isDirty[index >>> 3]! |= bit;
    this.#dirty.push(index);
  }
}
