import type { Bytes } from '../../src/base/contracts.ts';
import { lastAtOrBefore } from '../../src/base/range.ts';

export interface Extent {
  readonly start: Bytes;
  readonly length: Bytes;
  /** Where its bytes lie in the file; -1: the range is zeros. */
  readonly fileAt: Bytes;
  /** Bytes in the file, which are fewer when they are packed. */
  readonly stored: Bytes;
}

const FIELDS = 4;

/** Ranges of the disk, 32 bytes each, in the order of the disk once they are sorted. */
export class ExtentList {
  #fields = new Float64Array(64 * FIELDS);
  #starts = new Float64Array(0);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  add({ start, length, fileAt, stored }: Extent): void {
    if ((this.#length + 1) * FIELDS > this.#fields.length) {
      const wider = new Float64Array(this.#fields.length * 2);
      wider.set(this.#fields);
      this.#fields = wider;
    }
    this.#fields.set([start, length, fileAt, stored], this.#length * FIELDS);
    this.#length++;
  }

  at(i: number): Extent {
    const at = i * FIELDS;
    const [start, length, fileAt, stored] = this.#fields.subarray(at, at + FIELDS) as unknown as number[];
    return { start: start!, length: length!, fileAt: fileAt!, stored: stored! };
  }

  /** Puts the list in the order of the disk. Gives the number of the first extent that overlaps the one before, or null. */
  sort(): number | null {
    const from = this.#fields;
    const order = Uint32Array.from({ length: this.#length }, (_, i) => i);
    let inOrder = true;
    for (let i = 1; i < this.#length; i++) inOrder &&= from[(i - 1) * FIELDS]! <= from[i * FIELDS]!;
    if (!inOrder) order.sort((a, b) => from[a * FIELDS]! - from[b * FIELDS]! || a - b);
    const sorted = new Float64Array(this.#length * FIELDS);
    this.#starts = new Float64Array(this.#length);
    let overlap: number | null = null;
    for (let i = 0; i < this.#length; i++) {
      sorted.set(from.subarray(order[i]! * FIELDS, (order[i]! + 1) * FIELDS), i * FIELDS);
      this.#starts[i] = sorted[i * FIELDS]!;
      const before = (i - 1) * FIELDS;
      if (overlap === null && i > 0 && sorted[before]! + sorted[before + 1]! > this.#starts[i]!) overlap = i;
    }
    this.#fields = sorted;
    return overlap;
  }

  /** Number of the last extent that starts at or before `at`; -1 when there is none. Only after `sort`. */
  before(at: Bytes): number {
    return lastAtOrBefore(this.#starts, at);
  }
}
