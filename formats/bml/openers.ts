/** Threads that open records, shared by all images of the program, so that reading is not bound by one core. */
import type { KeyObject } from 'node:crypto';
import os from 'node:os';
import { Worker } from 'node:worker_threads';
import { ImageError } from '../../src/base/errors.ts';
import { type Opening, openInto } from './opening.ts';
import type { Order, Orders, Told } from './opening-worker.ts';

/** So many blocks are opened in the caller's thread first: who reads a few needs no threads. */
const AT_HOME = 64;
/** Smaller ones are opened in less time than it takes to hand them over, longer ones hold up whoever else waits. */
const [LEAST, MOST] = [16_384, 2 ** 20];
/** Memory for records on their way. */
const BUDGET = 16 * 2 ** 20;

interface Waiting {
  readonly order: Order;
  readonly key: KeyObject | null;
  resolve(fault: string | null): void;
  reject(error: unknown): void;
}

interface Thread {
  readonly worker: Worker;
  /** It has started, which takes longer than opening a hundred blocks. */
  ready: boolean;
  readonly keys: Set<number>;
  /** Messages under way, oldest first. */
  readonly running: (readonly Waiting[])[];
  /** Records in them. */
  load: number;
}

export class Openers {
  readonly #threads: Thread[] = [];
  readonly #most: number;
  readonly #atHome: number;
  readonly #numbers = new WeakMap<KeyObject, number>();
  /** Free slots by their size. */
  readonly #free = new Map<number, SharedArrayBuffer[]>();
  #held = 0;
  #queue: (() => void)[] = [];
  #pending: Waiting[] = [];
  #opened = 0;
  #keys = 0;

  constructor(threads = os.availableParallelism(), atHome = AT_HOME) {
    this.#most = threads;
    this.#atHome = atHome;
  }

  /** Fills the first bytes of `into` with the block; a string says why not. */
  async open(body: Uint8Array, opening: Opening, into: Uint8Array): Promise<string | null> {
    if (opening.length < LEAST || this.#opened < this.#atHome || this.#most === 0) {
      this.#opened++;
      return openInto(into, body, opening);
    }
    const size = Math.max(body.length, opening.length);
    const slot = await this.#take(size);
    try {
      new Uint8Array(slot).set(body);
      const { key, ...rest } = opening;
      const order = { slot, body: body.length, key: this.#numberOf(key), opening: rest };
      const fault = await this.#send(order, key);
      if (fault === null) into.set(new Uint8Array(slot, 0, opening.length));
      return fault;
    } catch {
      // A thread that ended takes its work along, but not the record.
      return openInto(into, body, opening);
    } finally {
      this.#give(slot);
    }
  }

  #numberOf(key: KeyObject | null): number {
    if (key === null) return 0;
    let number = this.#numbers.get(key);
    if (number === undefined) {
      number = ++this.#keys;
      this.#numbers.set(key, number);
    }
    return number;
  }

  /** A slot of at least `size` bytes, in steps of a power of two. Waits while the budget is spent. */
  async #take(size: number): Promise<SharedArrayBuffer> {
    const rounded = 2 ** Math.ceil(Math.log2(size));
    for (;;) {
      const free = this.#free.get(rounded)?.pop();
      if (free !== undefined) return free;
      if (this.#held === 0 || this.#held + rounded <= BUDGET) {
        this.#held += rounded;
        return new SharedArrayBuffer(rounded);
      }
      if (this.#drop()) continue;
      await new Promise<void>(resolve => this.#queue.push(resolve));
    }
  }

  /** Gives up a free slot of another size. */
  #drop(): boolean {
    for (const slots of this.#free.values()) {
      const slot = slots.pop();
      if (slot === undefined) continue;
      this.#held -= slot.byteLength;
      return true;
    }
    return false;
  }

  #give(slot: SharedArrayBuffer): void {
    const slots = this.#free.get(slot.byteLength) ?? [];
    slots.push(slot);
    this.#free.set(slot.byteLength, slots);
    for (const wake of this.#queue.splice(0)) wake();
  }

  /** Records that come in one turn of the event loop go out in one message for each thread. */
  #send(order: Order, key: KeyObject | null): Promise<string | null> {
    return new Promise((resolve, reject) => {
      this.#pending.push({ order, key, resolve, reject });
      if (this.#pending.length === 1) queueMicrotask(() => this.#flush());
    });
  }

  #flush(): void {
    const pending = this.#pending;
    this.#pending = [];
    // One alone is opened at once: the way to a thread and back takes longer than that.
    if (
      pending.length === 1 &&
      pending[0]!.order.opening.length <= MOST &&
      this.#threads.every(({ load }) => load === 0)
    ) {
      this.#atOnce(pending[0]!);
      return;
    }
    // Until a thread has started, nobody waits for it.
    if (pending.every(({ order }) => order.opening.length <= MOST) && !this.#threads.some(({ ready }) => ready)) {
      if (this.#threads.length < this.#most) this.#start();
      for (const one of pending) this.#atOnce(one);
      return;
    }
    const share = Math.ceil(pending.length / this.#most);
    while (pending.length > 0) this.#post(this.#next(), pending.splice(0, share));
  }

  #atOnce({ order, key, resolve, reject }: Waiting): void {
    try {
      const bytes = new Uint8Array(order.slot);
      resolve(openInto(bytes, bytes.subarray(0, order.body), { ...order.opening, key }));
    } catch (error) {
      reject(error);
    }
  }

  #post(thread: Thread, waiting: readonly Waiting[]): void {
    const keys: [number, KeyObject][] = [];
    for (const { order, key } of waiting) {
      if (key === null || thread.keys.has(order.key)) continue;
      thread.keys.add(order.key);
      keys.push([order.key, key]);
    }
    thread.worker.ref();
    thread.running.push(waiting);
    thread.load += waiting.length;
    thread.worker.postMessage({ orders: waiting.map(({ order }) => order), keys } satisfies Orders);
  }

  #next(): Thread {
    let best: Thread | null = null;
    for (const thread of this.#threads) {
      if (best === null || (thread.ready && (!best.ready || thread.load < best.load))) best = thread;
    }
    if (best?.ready && best.load > 0 && this.#threads.length < this.#most) this.#start();
    return best ?? this.#start();
  }

  #start(): Thread {
    const worker = new Worker(new URL('./opening-worker.ts', import.meta.url));
    const thread: Thread = { worker, ready: false, keys: new Set(), running: [], load: 0 };
    const fail = (error: unknown): void => {
      const at = this.#threads.indexOf(thread);
      if (at >= 0) this.#threads.splice(at, 1);
      for (const { reject } of thread.running.splice(0).flat()) reject(error);
    };
    worker.on('message', (faults: Told) => {
      if (faults === 'ready') {
        thread.ready = true;
        // Once more: what is said to a thread that is still starting does not last.
        if (thread.running.length === 0) worker.unref();
        return;
      }
      const waiting = thread.running.shift() ?? [];
      thread.load -= waiting.length;
      // A thread that waits for work keeps nobody from ending.
      if (thread.running.length === 0) worker.unref();
      for (const [i, { resolve }] of waiting.entries()) resolve(faults[i]!);
    });
    worker.on('error', cause => {
      fail(new ImageError('io', `a thread that opens blocks failed: ${(cause as Error).message}`, {}, { cause }));
    });
    worker.on('exit', code => fail(new ImageError('io', `a thread that opens blocks ended with code ${code}`)));
    // Only now: a listener for messages keeps the program running again.
    worker.unref();
    this.#threads.push(thread);
    return thread;
  }

  async end(): Promise<void> {
    await Promise.all(this.#threads.splice(0).map(({ worker }) => worker.terminate()));
  }
}

export const openers = new Openers();
