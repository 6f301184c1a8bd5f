/** Map pages in memory: a bounded number, the ones not used lately make room first. */
import { PAGE } from './states.ts';

export interface Page {
  /** -1: the slot is free. */
  index: number;
  readonly bytes: Uint8Array;
  used: boolean;
  /** What recent has on disk may differ from `bytes`: kept until it was written again. */
  suspect: boolean;
}

export class PageCache {
  readonly #limit: number;
  readonly #resident = new Map<number, Page>();
  readonly #slots: Page[] = [];
  #hand = 0;
  /** Guests stay in one region for a while: most look-ups end here. */
  #last: Page | null = null;

  constructor(limit: number) {
    this.#limit = Math.max(2, limit);
  }

  get size(): number {
    return this.#resident.size;
  }

  get(index: number): Page | null {
    const last = this.#last;
    if (last !== null && last.index === index) return last;
    const page = this.#resident.get(index);
    if (page === undefined) return null;
    page.used = true;
    this.#last = page;
    return page;
  }

  /** A slot for a page that is not resident. Its bytes are whatever was there; `fill` makes them right, or throws. */
  add(index: number, fill: (bytes: Uint8Array) => void): Page {
    const page = this.#freeSlot();
    fill(page.bytes);
    page.index = index;
    page.used = true;
    this.#resident.set(index, page);
    this.#last = page;
    return page;
  }

  suspects(): readonly Page[] {
    return this.#slots.filter(page => page.suspect);
  }

  #freeSlot(): Page {
    if (this.#slots.length >= this.#limit) {
      for (let tries = 2 * this.#slots.length; tries > 0; tries--) {
        const page = this.#slots[this.#hand]!;
        this.#hand = (this.#hand + 1) % this.#slots.length;
        if (page.suspect) continue;
        if (page.used) {
          page.used = false;
          continue;
        }
        this.#resident.delete(page.index);
        if (this.#last === page) this.#last = null;
        page.index = -1;
        return page;
      }
    }
    const page: Page = { index: -1, bytes: new Uint8Array(PAGE), used: false, suspect: false };
    this.#slots.push(page);
    return page;
  }
}
