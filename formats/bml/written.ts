/** Which blocks of a disk were written, in little memory while they come about in order. */
const PER_PAGE = 65_536;

/** A page of bits, and how many of them are set. */
interface Page {
  readonly bits: Uint8Array;
  count: number;
}

export class Written {
  /** null: all of its blocks. */
  readonly #pages = new Map<number, Page | null>();

  add(block: number): void {
    const number = Math.floor(block / PER_PAGE);
    let page = this.#pages.get(number);
    if (page === null) return;
    if (page === undefined) {
      page = { bits: new Uint8Array(PER_PAGE / 8), count: 0 };
      this.#pages.set(number, page);
    }
    const [at, bit] = [Math.floor((block % PER_PAGE) / 8), 2 ** (block % 8)];
    if ((page.bits[at]! & bit) !== 0) return;
    page.bits[at]! |= bit;
    if (++page.count === PER_PAGE) this.#pages.set(number, null);
  }

  has(block: number): boolean {
    const page = this.#pages.get(Math.floor(block / PER_PAGE));
    if (page === null || page === undefined) return page === null;
    return (page.bits[Math.floor((block % PER_PAGE) / 8)]! & (2 ** (block % 8))) !== 0;
  }
}
