/**
 * Who may touch which range of a disk, and when the disk stands still.
 *
 * A request holds its range over every leg of its work (mark, data, mirror leg), a copier over {read, write, clear}.
 * `drained` is the one way to change the stack itself: a period, a snapshot, a pivot, an owner.
 *
 * The order is first come, first served among requests that conflict: one that waits is not overtaken by a later one
 * that overlaps it, so nobody starves and a drain always comes.
 */
import type { Bytes, Done, WritableDisk } from '../base/contracts.ts';

export type LockMode = 'shared' | 'exclusive';

/** Names a held range; to be given back with `unlock`, once. */
export type Held = number;

interface Waiter {
  readonly from: Bytes;
  readonly to: Bytes;
  readonly exclusive: boolean;
  grant(held: Held): void;
}

/** Below every offset: a request that has no range meets only a drain there. */
const NOWHERE = -1;
const FIRST_SLOTS = 64;

export class Admission {
  /** Slots of held ranges. A free one is [Infinity, -Infinity), which overlaps nothing. */
  #from = new Float64Array(FIRST_SLOTS).fill(Infinity);
  #to = new Float64Array(FIRST_SLOTS).fill(-Infinity);
  #exclusive = new Uint8Array(FIRST_SLOTS);
  /** Slots at or above are free. */
  #top = 0;
  #held = 0;
  readonly #waiting: Waiter[] = [];

  /** Nothing is held and nobody waits: work that is done before it returns needs no lock. */
  get idle(): boolean {
    return this.#held === 0;
  }

  /** How many ranges are held, and how many requests wait for theirs. */
  get depth(): { readonly held: number; readonly waiting: number } {
    return { held: this.#held, waiting: this.#waiting.length };
  }

  /** Holds `length` bytes from `at`: at once when nothing is in the way. */
  lock(at: Bytes, length: Bytes, mode: LockMode = 'exclusive'): Held | Promise<Held> {
    return this.#lock(at, at + length, mode === 'exclusive');
  }

  /** Holds no range, yet counts as in flight: a drain waits for it, and it for a drain. */
  lockNothing(): Held | Promise<Held> {
    return this.#lock(NOWHERE, 0, false);
  }

  unlock(held: Held): void {
    if (this.#to[held] === -Infinity) throw new TypeError('a range was unlocked twice');
    this.#from[held] = Infinity;
    this.#to[held] = -Infinity;
    this.#held--;
    while (this.#top > 0 && this.#to[this.#top - 1] === -Infinity) this.#top--;
    if (this.#waiting.length > 0) this.#admitWaiting();
  }

  /**
   * Holds back new requests, waits for those in flight, runs `cut` and resumes. `cut` works on what lies below the
   * admission: a request through it would wait for itself.
   */
  async drained<T>(cut: () => T | Promise<T>): Promise<T> {
    const held = await this.#lock(NOWHERE, Infinity, true);
    try {
      return await cut();
    } finally {
      this.unlock(held);
    }
  }

  #lock(from: Bytes, to: Bytes, exclusive: boolean): Held | Promise<Held> {
    if (this.#waiting.length === 0 && !this.#conflicts(from, to, exclusive)) return this.#take(from, to, exclusive);
    if (!this.#conflicts(from, to, exclusive) && !this.#waiting.some(w => collide(w, from, to, exclusive))) {
      return this.#take(from, to, exclusive);
    }
    return new Promise(grant => this.#waiting.push({ from, to, exclusive, grant }));
  }

  #conflicts(from: Bytes, to: Bytes, exclusive: boolean): boolean {
    for (let i = 0; i < this.#top; i++) {
      if (from < this.#to[i]! && to > this.#from[i]! && (exclusive || this.#exclusive[i] === 1)) return true;
    }
    return false;
  }

  #take(from: Bytes, to: Bytes, exclusive: boolean): Held {
    let slot = 0;
    while (slot < this.#top && this.#to[slot] !== -Infinity) slot++;
    if (slot === this.#from.length) this.#enlarge();
    this.#from[slot] = from;
    this.#to[slot] = to;
    this.#exclusive[slot] = exclusive ? 1 : 0;
    this.#top = Math.max(this.#top, slot + 1);
    this.#held++;
    return slot;
  }

  #enlarge(): void {
    const slots = this.#from.length * 2;
    const larger = (old: Float64Array, free: number): Float64Array<ArrayBuffer> => {
      const next = new Float64Array(slots).fill(free);
      next.set(old);
      return next;
    };
    this.#from = larger(this.#from, Infinity);
    this.#to = larger(this.#to, -Infinity);
    const exclusive = new Uint8Array(slots);
    exclusive.set(this.#exclusive);
    this.#exclusive = exclusive;
  }

  /** In order of arrival: each one that meets neither a held range nor a waiter before it. */
  #admitWaiting(): void {
    for (let i = 0; i < this.#waiting.length; ) {
      const waiter = this.#waiting[i]!;
      const { from, to, exclusive } = waiter;
      const blocked =
        this.#conflicts(from, to, exclusive) ||
        this.#waiting.some((earlier, j) => j < i && collide(earlier, from, to, exclusive));
      if (blocked) i++;
      else {
        this.#waiting.splice(i, 1);
        waiter.grant(this.#take(from, to, exclusive));
      }
    }
  }
}

const collide = (waiter: Waiter, from: Bytes, to: Bytes, exclusive: boolean): boolean =>
  from < waiter.to && to > waiter.from && (exclusive || waiter.exclusive);

/** Runs `work` while the range is held; done at once when the range is free and the work is done at once. */
export function underLock(admission: Admission, at: Bytes, length: Bytes, mode: LockMode, work: () => Done): Done {
  return whileHeld(admission, admission.lock(at, length, mode), work);
}

function whileHeld(admission: Admission, lock: Held | Promise<Held>, work: () => Done): Done {
  if (typeof lock !== 'number') return lock.then(held => whileHeld(admission, held, work));
  let done: Done;
  try {
    done = work();
  } catch (error) {
    admission.unlock(lock);
    throw error;
  }
  if (done === undefined) admission.unlock(lock);
  else return done.finally(() => admission.unlock(lock));
}

export interface AdmittedDisk extends WritableDisk {
  readonly admission: Admission;
}

/**
 * The disk as every reader and writer sees it: reads share a range, writes have it alone, and all of them stand still
 * during `admission.drained`. Closing it closes the disk.
 */
export function admit(disk: WritableDisk, admission = new Admission()): AdmittedDisk {
  return {
    admission,
    id: disk.id,
    get size() {
      return disk.size;
    },
    sectorSize: disk.sectorSize,
    extent: (at, limit) => disk.extent(at, limit),
    load: (at, limit) => disk.load(at, limit),
    read: (into, at) => underLock(admission, at, into.length, 'shared', () => disk.read(into, at)),
    write: (from, at) => underLock(admission, at, from.length, 'exclusive', () => disk.write(from, at)),
    zero: (at, length) => underLock(admission, at, length, 'exclusive', () => disk.zero(at, length)),
    flush: async () => whileHeld(admission, admission.lockNothing(), () => disk.flush()),
    [Symbol.asyncDispose]: () => disk[Symbol.asyncDispose](),
  };
}
