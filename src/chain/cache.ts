import type { Bytes } from '../base/contracts.ts';
import { Recent } from '../base/recent.ts';

/** Keys are `owner * 2^36 + unit`: exact for 131,072 owners of 2^36 units each. */
const UNITS_PER_OWNER = 2 ** 36;
/** Bytes of units put out that are kept to be filled again. */
const SPARE: Bytes = 4 * 2 ** 20;

type Use = (data: Uint8Array) => void;

interface Pending {
  readonly uses: Use[];
  readonly done: Promise<void>;
}

/**
 * Decoded units of every open chain under one byte budget, least recently used out first. However many readers wait
 * for a unit, it is decoded once. What failed to decode is not kept.
 *
 * Nobody outside holds a unit: readers copy from it when they are called. So the memory of one that is put out goes to
 * the next one, which saves the collector a GiB of garbage for each GiB that is read.
 */
export class UnitCache {
  readonly #budget: Bytes;
  /** For who reads everything once: units that are wanted whole go straight to where they are wanted, and are not kept. */
  readonly passes: boolean;
  readonly #units = new Recent<number, Uint8Array>();
  readonly #pending = new Map<number, Pending>();
  readonly #spare: Uint8Array[] = [];
  #spareBytes: Bytes = 0;
  #held: Bytes = 0;
  readonly #numbers = new WeakMap<object, number>();
  #owners = 0;
  hits = 0;
  misses = 0;
  /** false: nothing is decoded that nobody asked for. */
  readsAhead = true;
  /** Readers ahead that have something to do: until they are done, the event loop must turn. */
  ahead = 0;

  constructor(budget: Bytes, passes = false) {
    this.#budget = budget;
    this.passes = passes;
  }

  /** A number for a layer, to be given with each of its units. Disks that share a layer share its units. */
  register(layer: object): number {
    const known = this.#numbers.get(layer);
    if (known !== undefined) return known;
    this.#numbers.set(layer, this.#owners);
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
    const data = this.#units.use(key);
    if (data !== undefined) this.hits++;
    return data;
  }

  /** In memory, or on its way there. */
  has(owner: number, unit: number): boolean {
    const key = owner * UNITS_PER_OWNER + unit;
    return this.#units.has(key) || this.#pending.has(key);
  }

  /** `use` is called with the unit, once, before the promise resolves; it must copy what it wants. */
  fetch(
    owner: number,
    unit: number,
    size: Bytes,
    unpack: (into: Uint8Array) => Promise<void>,
    use: Use,
  ): Promise<void> {
    const key = owner * UNITS_PER_OWNER + unit;
    const running = this.#pending.get(key);
    if (running !== undefined) {
      running.uses.push(use);
      return running.done;
    }
    this.misses++;
    const into = this.#take(size);
    const uses = [use];
    const done = unpack(into).then(
      () => {
        this.#pending.delete(key);
        for (const one of uses) one(into);
        this.#keep(key, into);
      },
      error => {
        // Its memory is not used again: a part of the work that failed may still be writing to it.
        this.#pending.delete(key);
        throw error;
      },
    );
    this.#pending.set(key, { uses, done });
    return done;
  }

  #take(size: Bytes): Uint8Array {
    const at = this.#spare.findLastIndex(data => data.length === size);
    if (at < 0) return new Uint8Array(size);
    const [data] = this.#spare.splice(at, 1) as [Uint8Array];
    this.#spareBytes -= size;
    // What was in it belongs to another disk.
    return data.fill(0);
  }

  #putOut(data: Uint8Array): void {
    if (this.#spareBytes + data.length > SPARE) return;
    this.#spare.push(data);
    this.#spareBytes += data.length;
  }

  #keep(key: number, data: Uint8Array): void {
    if (data.length > this.#budget) {
      this.#putOut(data);
      return;
    }
    this.#units.put(key, data);
    this.#held += data.length;
    while (this.#held > this.#budget) {
      const { value: old } = this.#units.takeOldest()!;
      this.#held -= old.length;
      this.#putOut(old);
    }
  }
}
