import type { Bytes } from '../../src/base/contracts.ts';
import { lastAtOrBefore } from '../../src/base/range.ts';

/** Marks a run of clusters that are all zeros and take no space. */
export const ZEROS = 0xffff_ffff;

/** Neighbouring clusters of one device that stand one after another in one extent, or are all zeros. */
export interface Run {
  readonly first: number;
  readonly count: number;
  /** Number of the extent, or ZEROS. */
  readonly extent: number;
  /** Slot of the first cluster in its extent. */
  readonly slot: number;
}

/** Where the clusters of one device are: 13 bytes per run, in the order of the archive until they are sorted. */
export class ClusterRuns {
  #first = new Uint32Array(64);
  #count = new Uint32Array(64);
  #extent = new Uint32Array(64);
  #slot = new Uint8Array(64);
  #length = 0;
  /** Clusters in all runs. */
  clusters = 0;

  get length(): number {
    return this.#length;
  }

  /** Clusters of one extent are added in the order of its slots. */
  add(cluster: number, extent: number, slot: number): void {
    this.clusters++;
    const last = this.#length - 1;
    const goesOn =
      last >= 0 &&
      this.#first[last]! + this.#count[last]! === cluster &&
      this.#extent[last] === extent &&
      (extent === ZEROS || this.#slot[last]! + this.#count[last]! === slot);
    if (goesOn) {
      this.#count[last]!++;
      return;
    }
    if (this.#length === this.#first.length) this.#grow();
    this.#first[this.#length] = cluster;
    this.#count[this.#length] = 1;
    this.#extent[this.#length] = extent;
    this.#slot[this.#length] = slot;
    this.#length++;
  }

  #grow(): void {
    const wider = <T extends Uint8Array | Uint32Array>(from: T, to: T): T => {
      to.set(from);
      return to;
    };
    const room = this.#length * 2;
    this.#first = wider(this.#first, new Uint32Array(room));
    this.#count = wider(this.#count, new Uint32Array(room));
    this.#extent = wider(this.#extent, new Uint32Array(room));
    this.#slot = wider(this.#slot, new Uint8Array(room));
  }

  /** Puts the runs in the order of the disk, and lets go of spare room. Gives the first cluster that is there twice, or null. */
  sort(): number | null {
    const length = this.#length;
    // Sorted as 64-bit numbers made of two halves, without ever making one: the cluster above, the run's number below.
    const keys = new Uint32Array(length * 2);
    for (let i = 0; i < length; i++) {
      keys[2 * i] = i;
      keys[2 * i + 1] = this.#first[i]!;
    }
    new BigUint64Array(keys.buffer).sort();
    const [first, count, extent] = [new Uint32Array(length), new Uint32Array(length), new Uint32Array(length)];
    const slot = new Uint8Array(length);
    let twice: number | null = null;
    for (let i = 0; i < length; i++) {
      const from = keys[2 * i]!;
      first[i] = this.#first[from]!;
      count[i] = this.#count[from]!;
      extent[i] = this.#extent[from]!;
      slot[i] = this.#slot[from]!;
      if (twice === null && i > 0 && first[i - 1]! + count[i - 1]! > first[i]!) twice = first[i]!;
    }
    [this.#first, this.#count, this.#extent, this.#slot] = [first, count, extent, slot];
    return twice;
  }

  /** The run that holds the cluster; null when none does. Only after `sort`. */
  find(cluster: number): Run | null {
    const i = lastAtOrBefore(this.#first, cluster);
    if (i < 0 || this.#first[i]! + this.#count[i]! <= cluster) return null;
    return { first: this.#first[i]!, count: this.#count[i]!, extent: this.#extent[i]!, slot: this.#slot[i]! };
  }

  /** First cluster after `cluster` that is in a run; `end` when there is none. Only after `sort`. */
  nextAfter(cluster: number, end: number): number {
    const i = lastAtOrBefore(this.#first, cluster) + 1;
    return i < this.#length ? Math.min(end, this.#first[i]!) : end;
  }
}

/** File offsets, growing one by one. */
export class Offsets {
  #at = new Float64Array(64);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(at: Bytes): void {
    if (this.#length === this.#at.length) {
      const wider = new Float64Array(this.#length * 2);
      wider.set(this.#at);
      this.#at = wider;
    }
    this.#at[this.#length++] = at;
  }

  get(i: number): Bytes {
    return this.#at[i]!;
  }
}
