/** Copy-on-write over any disk: where each block comes from, and in which order its parts are written. */
import type { Bytes, Disk, Done, Extent } from '../base/contracts.ts';
import { also, joined } from '../base/done.ts';
import { ImageError } from '../base/errors.ts';
import { checkOffset } from '../base/full-io.ts';
import { roundDown, roundUp } from '../base/range.ts';
import { Admission, underLock } from './admission.ts';
import type { DataFiles } from './data-files.ts';
import type { Flusher } from './flusher.ts';
import { pagesFor } from './map-file.ts';
import type { Presence } from './presence.ts';
import type { Room } from './room.ts';
import { ABSENT, BLOCK, BLOCKS_PER_PAGE, DATA, ZERO } from './states.ts';

const ZEROS = new Uint8Array(BLOCK);
/** Blocks whose state is set before other work gets a turn: 64 map pages, well below a millisecond. */
const ZERO_AT_ONCE = 64 * BLOCKS_PER_PAGE;

const soon = (): Promise<void> => new Promise(resolve => setImmediate(resolve));
const after = (done: Done, next: () => Done): Done => (done === undefined ? next() : done.then(next));

/** What the overlay itself holds. 'absent': the base shows. */
export interface OwnExtent {
  readonly kind: 'absent' | 'data' | 'zero';
  readonly length: Bytes;
}

export interface CowParts {
  readonly folder: string;
  readonly base: Disk;
  readonly data: DataFiles;
  readonly presence: Presence;
  readonly flusher: Flusher;
  readonly room: Room;
  readonly readOnly: string | null;
}

export class CowDisk {
  readonly #folder: string;
  readonly #base: Disk;
  readonly #data: DataFiles;
  readonly #presence: Presence;
  readonly #flusher: Flusher;
  readonly #room: Room;
  readonly #readOnly: string | null;
  /** By whole blocks: held while a block is being filled from the base. Work done at once needs no lock. */
  readonly #locks = new Admission();
  /** Reads that go on: the files stay open for them. */
  readonly #reading = new Set<Promise<void>>();
  #size: Bytes;
  #closed = false;

  constructor(parts: CowParts, size: Bytes) {
    this.#folder = parts.folder;
    this.#base = parts.base;
    this.#data = parts.data;
    this.#presence = parts.presence;
    this.#flusher = parts.flusher;
    this.#room = parts.room;
    this.#readOnly = parts.readOnly;
    this.#size = size;
  }

  get size(): Bytes {
    return this.#size;
  }

  /** Present blocks are read straight into the caller's buffer, the others by the base. */
  read(into: Uint8Array, at: Bytes): Done {
    this.#checkRange(at, into.length);
    this.#checkOpen();
    let pending: Promise<void>[] | undefined;
    let failure: { readonly error: unknown } | undefined;
    const end = at + into.length;
    try {
      for (let from = at; from < end; ) {
        const to = this.#runEnd(from, end);
        const part = from === at && to === end ? into : into.subarray(from - at, to - at);
        const done = this.#readRun(part, from);
        if (done !== undefined) pending = also(pending, done);
        from = to;
      }
    } catch (error) {
      failure = { error };
    }
    const done = joined(pending);
    if (done === undefined) {
      if (failure !== undefined) throw failure.error;
      return;
    }
    // The buffer goes back only when nobody fills it any more.
    const { error } = failure ?? {};
    return this.#track(failure === undefined ? done : done.then(() => Promise.reject(error)));
  }

  /** A block that is present is rewritten in place, and nothing else is. */
  write(from: Uint8Array, at: Bytes): Done {
    this.#checkWritable(at, from.length);
    if (from.length === 0) return;
    const first = Math.floor(at / BLOCK);
    const last = Math.floor((at + from.length - 1) / BLOCK);
    if (this.#locks.idle && this.#presence.all(first, last, DATA)) {
      this.#data.write(from, at);
      return;
    }
    return this.#underLock(first, last, () => this.#writeLocked(from, at));
  }

  /** Whole blocks by their state alone; the next flush gives the space of their data back. */
  zero(at: Bytes, length: Bytes): Done {
    this.#checkWritable(at, length);
    if (length === 0) return;
    const end = at + length;
    return this.#underLock(Math.floor(at / BLOCK), Math.floor((end - 1) / BLOCK), () => this.#zeroLocked(at, end));
  }

  async flush(): Promise<void> {
    this.#checkOpen();
    this.#checkState();
    await this.#flusher.flush();
  }

  extent(at: Bytes, limit: Bytes): Extent | null {
    const own = this.ownExtent(at, limit);
    if (own === null) return null;
    const { length } = own;
    if (own.kind !== 'absent') return { kind: own.kind, length };
    if (at >= this.#base.size) return { kind: 'zero', length };
    return this.#base.extent(at, Math.min(length, this.#base.size - at));
  }

  /** As `extent`, without the base. */
  ownExtent(at: Bytes, limit: Bytes): OwnExtent | null {
    this.#checkRange(at, limit);
    const block = Math.floor(at / BLOCK);
    if (!this.#presence.resident(block)) return null;
    const state = this.#presence.state(block);
    const kind = state === DATA ? 'data' : state === ZERO ? 'zero' : 'absent';
    return { kind, length: this.#runEnd(at, at + limit) - at };
  }

  async load(at: Bytes, limit: Bytes): Promise<void> {
    this.#checkOpen();
    const state = this.#presence.state(Math.floor(at / BLOCK));
    if (state === ABSENT && at < this.#base.size) await this.#base.load(at, Math.min(limit, this.#base.size - at));
  }

  /** `larger` makes the new size durable. What lies behind the old end was never written, so it is absent. */
  async grow(size: Bytes, larger: () => Promise<void>): Promise<void> {
    this.#checkOpen();
    this.#checkState();
    // Alone, so that of two growths the later is not undone by the earlier, and a closed overlay is not written to.
    await this.#locks.drained(async () => {
      if (!Number.isSafeInteger(size) || size < this.#size) {
        throw new ImageError('usage', `the disk has ${this.#size} bytes and cannot be made ${size}: it only grows`, {
          file: this.#folder,
        });
      }
      await this.#presence.lengthen(pagesFor(size));
      await this.#flusher.flush();
      await larger();
      this.#presence.grow(pagesFor(size));
      this.#size = size;
    });
  }

  /** No request can begin any more; resolves when those that have begun are done. */
  async stop(): Promise<void> {
    this.#closed = true;
    await this.#locks.drained(() => {});
    await Promise.allSettled(this.#reading);
  }

  #track(done: Promise<void>): Promise<void> {
    this.#reading.add(done);
    const forget = (): boolean => this.#reading.delete(done);
    done.then(forget, forget);
    return done;
  }

  /** End of the blocks that share the state of the one at `from`, at most `end`. */
  #runEnd(from: Bytes, end: Bytes): Bytes {
    const block = Math.floor(from / BLOCK);
    const run = this.#presence.run(block, Math.ceil(end / BLOCK) - block);
    return Math.min(end, (block + run) * BLOCK);
  }

  #readRun(into: Uint8Array, at: Bytes): Done {
    const state = this.#presence.state(Math.floor(at / BLOCK));
    if (state === DATA) return this.#data.read(into, at);
    if (state === ABSENT) return this.#readBase(into, at);
    into.fill(0);
  }

  /** Behind the end of the base lie zeros. */
  #readBase(into: Uint8Array, at: Bytes): Done {
    const there = Math.max(0, Math.min(into.length, this.#base.size - at));
    if (there < into.length) into.fill(0, there);
    if (there > 0) return this.#base.read(there === into.length ? into : into.subarray(0, there), at);
  }

  #underLock(first: number, last: number, work: () => Done): Done {
    return underLock(this.#locks, first * BLOCK, (last - first + 1) * BLOCK, 'exclusive', () => {
      this.#checkState();
      this.#presence.repair();
      return work();
    });
  }

  /** A block that is written in part and not present yet is written whole, filled up from what it shows now. */
  #writeLocked(from: Uint8Array, at: Bytes): Done {
    const end = at + from.length;
    const first = Math.floor(at / BLOCK);
    const last = Math.floor((end - 1) / BLOCK);
    const fillsFirst = at % BLOCK !== 0 && this.#presence.state(first) !== DATA;
    const fillsLast = end % BLOCK !== 0 && this.#presence.state(last) !== DATA;
    if (!fillsFirst && !fillsLast) return this.#put(from, at, first, last);
    const start = fillsFirst ? first * BLOCK : at;
    const whole = new Uint8Array((fillsLast ? (last + 1) * BLOCK : end) - start);
    const head = fillsFirst ? this.#fill(whole.subarray(0, BLOCK), first) : undefined;
    const tail =
      fillsLast && !(fillsFirst && first === last) ? this.#fill(whole.subarray(whole.length - BLOCK), last) : undefined;
    let pending: Promise<void>[] | undefined;
    if (head !== undefined) pending = also(pending, head);
    if (tail !== undefined) pending = also(pending, tail);
    return after(joined(pending), () => {
      whole.set(from, at - start);
      return this.#put(whole, start, first, last);
    });
  }

  /** What an absent or zero block shows; zeros behind the disk's end, for the day it grows. */
  #fill(into: Uint8Array, block: number): Done {
    const at = block * BLOCK;
    const inside = into.subarray(0, Math.min(BLOCK, this.#size - at));
    if (this.#presence.state(block) === ABSENT) return this.#readBase(inside, at);
  }

  #put(from: Uint8Array, at: Bytes, first: number, last: number): Done {
    if (this.#room.take(from.length)) return this.#store(from, at, first, last);
    return this.#flusher.flush().then(() => {
      this.#room.take(from.length, true);
      this.#store(from, at, first, last);
    });
  }

  /** Data first, then the map, then the caller may acknowledge: a kill in between leaves the block as it was. */
  #store(from: Uint8Array, at: Bytes, first: number, last: number): void {
    this.#checkState();
    this.#data.write(from, at);
    this.#presence.publish(first, last - first + 1, DATA);
  }

  #zeroLocked(at: Bytes, end: Bytes): Done {
    const wholeFrom = roundUp(at, BLOCK);
    const wholeTo = end === this.#size ? roundUp(end, BLOCK) : roundDown(end, BLOCK);
    if (wholeFrom > wholeTo) return this.#zeroPart(at, end);
    return after(this.#zeroPart(at, Math.min(wholeFrom, end)), () =>
      after(wholeTo < end ? this.#zeroPart(wholeTo, end) : undefined, () =>
        this.#zeroBlocks(wholeFrom / BLOCK, (wholeTo - wholeFrom) / BLOCK),
      ),
    );
  }

  /** Part of one block. */
  #zeroPart(at: Bytes, end: Bytes): Done {
    if (at >= end || this.#presence.state(Math.floor(at / BLOCK)) === ZERO) return;
    return this.#writeLocked(ZEROS.subarray(0, end - at), at);
  }

  #zeroBlocks(first: number, count: number): Done {
    if (count <= ZERO_AT_ONCE) {
      this.#presence.publish(first, count, ZERO);
      return;
    }
    return this.#zeroMany(first, count);
  }

  async #zeroMany(first: number, count: number): Promise<void> {
    for (let done = 0; done < count; done += ZERO_AT_ONCE) {
      this.#checkState();
      this.#presence.publish(first + done, Math.min(ZERO_AT_ONCE, count - done), ZERO);
      await soon();
    }
  }

  #checkRange(at: Bytes, length: Bytes): void {
    checkOffset(at, length, this.#folder);
    if (at + length > this.#size) {
      throw new ImageError('out-of-range', `bytes ${at} to ${at + length} are not inside the disk of ${this.#size}`, {
        file: this.#folder,
      });
    }
  }

  #checkOpen(): void {
    if (this.#closed) throw new ImageError('io', 'the overlay is closed', { file: this.#folder });
  }

  #checkState(): void {
    if (this.#readOnly !== null) throw new ImageError('read-only', this.#readOnly, { file: this.#folder });
    if (this.#flusher.failure !== null) throw this.#flusher.failure;
  }

  #checkWritable(at: Bytes, length: Bytes): void {
    this.#checkRange(at, length);
    this.#checkOpen();
    this.#checkState();
  }
}
