/** Threads that open blocks, shared by all images of the program, so that reading is not bound by one core. */
import type { KeyObject } from 'node:crypto';
import type { Bytes } from '../contracts.ts';
import { roundUp } from '../range.ts';
import { isShared } from '../shared-bytes.ts';
import type { Faults, Kind, Numbers, Ordered, Orders } from './orders.ts';
import { type Thread, Threads } from './threads.ts';

/** So many blocks are opened in the caller's thread first: who reads a few needs no threads. */
const AT_HOME = 64;
/** Smaller ones are opened in less time than it takes to hand them over, longer ones hold up whoever else waits. */
const [LEAST, MOST] = [16_384, 2 ** 20];
/** Memory for blocks on their way. */
const BUDGET = 16 * 2 ** 20;
/** Room is given in steps of so many bytes. */
const STEP = 4096;

interface Waiting<O> extends Ordered<O> {
  /** Where the block goes in the end. */
  readonly final: Uint8Array;
  resolve(fault: string | null): void;
  reject(error: unknown): void;
}

/** Pieces of memory that a thread remembers: those of all rooms at the usual block size, and some of the callers'. */
const REMEMBERED = 256;

/** What a thread was given. */
interface Given {
  readonly memory: Set<number>;
  readonly keys: Set<number>;
}

export class Openers<O extends { readonly length: Bytes }> {
  readonly #kind: Kind<O>;
  readonly #threads: Threads<Orders, Faults>;
  readonly #atHome: number;
  readonly #numbers = new WeakMap<object, number>();
  #number = 0;
  readonly #given = new WeakMap<Thread<Faults>, Given>();
  /** Free rooms by their size. */
  readonly #free = new Map<number, SharedArrayBuffer[]>();
  #held = 0;
  #queue: (() => void)[] = [];
  #pending: Waiting<O>[] = [];
  #opened = 0;

  constructor(kind: Kind<O>, threads?: number, atHome = AT_HOME) {
    const { program } = kind;
    this.#kind = kind;
    this.#threads = new Threads({ program, what: 'opens blocks', ...(threads === undefined ? {} : { most: threads }) });
    this.#atHome = atHome;
  }

  /**
   * Fills the first bytes of `into` with the block; a string says why not, and what is in it then is not to be used. Threads
   * reach only shared memory: `body` is copied unless it is in such, and `into` is filled through `spare`, as long as the block.
   */
  async open(body: Uint8Array, opening: O, into: Uint8Array, spare?: Uint8Array): Promise<string | null> {
    const final = into.subarray(0, opening.length);
    if (opening.length < LEAST || this.#opened < this.#atHome || this.#threads.most === 0) {
      this.#opened++;
      return this.#kind.openInto(final, body, opening);
    }
    const direct = isShared(into) ? final : spare?.subarray(0, opening.length);
    if (direct !== undefined && isShared(body)) return this.#send(body, direct, final, opening);
    const room = await this.room(body.length + opening.length);
    try {
      const copy = new Uint8Array(room, 0, body.length);
      copy.set(body);
      return await this.#send(copy, new Uint8Array(room, body.length, opening.length), final, opening);
    } finally {
      this.giveBack(room);
    }
  }

  #numberOf(object: object): number {
    let number = this.#numbers.get(object);
    if (number === undefined) {
      number = ++this.#number;
      this.#numbers.set(object, number);
    }
    return number;
  }

  /** Shared memory of at least `size` bytes, to be given back. Waits while the budget is spent: who has some asks for no more. */
  async room(size: number): Promise<SharedArrayBuffer> {
    const rounded = roundUp(size, STEP);
    for (;;) {
      const free = this.#free.get(rounded)?.pop();
      if (free !== undefined) return free;
      if (this.#held === 0 || this.#held + rounded <= BUDGET) {
        const room = new SharedArrayBuffer(rounded);
        this.#held += rounded;
        return room;
      }
      if (this.#drop()) continue;
      await new Promise<void>(resolve => this.#queue.push(resolve));
    }
  }

  /** Gives up a free room of another size. */
  #drop(): boolean {
    for (const rooms of this.#free.values()) {
      const room = rooms.pop();
      if (room === undefined) continue;
      this.#held -= room.byteLength;
      return true;
    }
    return false;
  }

  giveBack(room: SharedArrayBuffer): void {
    const rooms = this.#free.get(room.byteLength) ?? [];
    rooms.push(room);
    this.#free.set(room.byteLength, rooms);
    for (const wake of this.#queue.splice(0)) wake();
  }

  /** Blocks that come in one turn of the event loop go out in one message for each thread. */
  #send(body: Uint8Array, into: Uint8Array, final: Uint8Array, opening: O): Promise<string | null> {
    return new Promise((resolve, reject) => {
      this.#pending.push({ body, into, final, opening, resolve, reject });
      if (this.#pending.length === 1) queueMicrotask(() => this.#flush());
    });
  }

  #flush(): void {
    const pending = this.#pending;
    this.#pending = [];
    const short = pending.every(({ opening }) => opening.length <= MOST);
    // One alone is opened at once: the way to a thread and back takes longer than that. And nobody waits for a thread to start.
    if (short && ((pending.length === 1 && this.#threads.idle) || !this.#threads.ready)) {
      if (pending.length > 1) this.#threads.startOne();
      for (const one of pending) this.#atOnce(one);
      return;
    }
    const share = Math.ceil(pending.length / this.#threads.most);
    while (pending.length > 0) this.#post(this.#threads.next(), pending.splice(0, share));
  }

  #atOnce({ body, final, opening, resolve, reject }: Waiting<O>): void {
    try {
      resolve(this.#kind.openInto(final, body, opening));
    } catch (error) {
      reject(error);
    }
  }

  /** The orders of one message, with what the thread does not have yet. */
  #ordersFor(thread: Thread<Faults>, waiting: readonly Waiting<O>[]): Orders {
    const given = this.#given.get(thread) ?? { memory: new Set(), keys: new Set() };
    this.#given.set(thread, given);
    const memory: [number, SharedArrayBuffer][] = [];
    const keys: [number, KeyObject][] = [];
    const of: Numbers = {
      memory: buffer => {
        const number = this.#numberOf(buffer);
        if (!given.memory.has(number)) memory.push([number, buffer as SharedArrayBuffer]);
        given.memory.add(number);
        return number;
      },
      key: key => {
        const number = this.#numberOf(key);
        if (!given.keys.has(number)) keys.push([number, key]);
        given.keys.add(number);
        return number;
      },
    };
    // Before the new ones: what this message is about is not forgotten by it.
    const forget = given.memory.size < REMEMBERED ? [] : [...given.memory];
    for (const number of forget) given.memory.delete(number);
    return { ...this.#kind.ordersOf(waiting, of), memory, keys, forget };
  }

  #post(thread: Thread<Faults>, waiting: readonly Waiting<O>[]): void {
    this.#threads.send(thread, this.#ordersFor(thread, waiting), waiting.length).then(
      faults => {
        for (const [i, { into, final, resolve }] of waiting.entries()) {
          const fault = faults[i]!;
          if (fault === null && into !== final) final.set(into);
          resolve(fault);
        }
      },
      // A thread that ended takes its work along, but not the blocks.
      () => {
        this.#given.delete(thread);
        for (const one of waiting) this.#atOnce(one);
      },
    );
  }

  end(): Promise<void> {
    return this.#threads.end();
  }
}
