/** Space of replaced records of the layer under construction: used again, so that rewriting a block does not grow the file. */
import type { Bytes } from '../../src/base/contracts.ts';
import { ALIGN } from './structs.ts';

/** A place for a record, and how much room there is. */
export interface Slot {
  readonly at: Bytes;
  readonly capacity: Bytes;
}

/**
 * Places keep their length, whatever is in them: they are neither split nor joined. A new one is needed only while every
 * place that is long enough is in use, so there are never more of a length than blocks, however often they are written.
 */
export class Space {
  /** Offsets by length in units of ALIGN. */
  readonly #free: Bytes[][] = [];
  /** Places that are longer than the record in them. */
  readonly #longer = new Map<Bytes, Bytes>();
  #count = 0;

  get empty(): boolean {
    return this.#count === 0;
  }

  /** The record of `length` bytes, padded, at `at` is not referred to any more. */
  release(at: Bytes, length: Bytes): void {
    const capacity = this.#longer.get(at) ?? length;
    this.#longer.delete(at);
    const units = capacity / ALIGN;
    this.#free[units] ??= [];
    this.#free[units].push(at);
    this.#count++;
  }

  /** The shortest place that holds `length` bytes; null: there is none. */
  take(length: Bytes): Slot | null {
    if (this.#count === 0) return null;
    for (let units = length / ALIGN; units < this.#free.length; units++) {
      const at = this.#free[units]?.pop();
      if (at === undefined) continue;
      this.#count--;
      const capacity = units * ALIGN;
      if (capacity > length) this.#longer.set(at, capacity);
      return { at, capacity };
    }
    return null;
  }
}
