import type { Bytes } from '../base/contracts.ts';

/** Keys are `owner * 2^36 + unit`: exact for 131,072 owners of 2^36 units each. */
const UNITS_PER_OWNER = 2 ** 36;

/**
 * Decoded units of every open chain under one byte budget, least recently used out first. However many readers wait
 * for a unit, it is decoded once. What failed to decode is not kept.
 */
export class UnitCache {
  readonly #budget: Bytes;
  readonly #units = new Map<number, Uint8Array>();
  readonly #pending = new Map<number, Promise<Uint8Array>>();
  #held: Bytes = 0;
  #owners = 0;
  hits = 0;
  misses = 0;

  constructor(budget: Bytes) {
    this.#budget = budget;
  }

  /** A number for a layer, to be given with each of its units. */
  register(): number {
    return this.#owners++;
  }

  get held(): Bytes {
    return this.#held;
  }

  get budget(): Bytes {
    return this.#budget;
  }

  /** The unit when it is in memory. Valid until the caller next gives up the thread. */
  peek(owner: number, unit: number): Uint8Array | undefined {
    const key = owner * UNITS_PER_OWNER + unit;
    const data = this.#units.get(key);
    if (data === undefined) return undefined;
    this.hits++;
    // A Map keeps insertion order: taking the unit out and in makes it the youngest.
    this.#units.delete(key);
    this.#units.set(key, data);
    return data;
  }

  fetch(owner: number, unit: number, size: Bytes, unpack: (into: Uint8Array) => Promise<void>): Promise<Uint8Array> {
    const key = owner * UNITS_PER_OWNER + unit;
    const running = this.#pending.get(key);
    if (running !== undefined) return running;
    this.misses++;
    const into = new Uint8Array(size);
    const fetched = unpack(into).then(
      () => {
        this.#pending.delete(key);
        this.#keep(key, into);
        return into;
      },
      error => {
        this.#pending.delete(key);
        throw error;
      },
    );
    this.#pending.set(key, fetched);
    return fetched;
  }

  #keep(key: number, data: Uint8Array): void {
    if (data.length > this.#budget) return;
    this.#units.set(key, data);
    this.#held += data.length;
    for (const [oldest, old] of this.#units) {
      if (this.#held <= this.#budget) break;
      this.#units.delete(oldest);
      this.#held -= old.length;
    }
  }
}
