/**
 * How the serving thread waits for the next request. A request at a time costs little work and two wake-ups of sleeping
 * processors; docs/decisions/waiting.md has the measurements. Three ways:
 *
 * - plain: the thread blocks in its read.
 * - looking: it looks for the next request for some microseconds before it blocks.
 * - company: another thread sleeps at the same device. It does nothing, but it is woken too, and the scheduler, which
 *   would spread caller and server over the processors that sleep, leaves them together on the one that is awake.
 *
 * Which one pays is found out while requests come one after the other. On a mount that is idle nothing runs.
 */
import { Worker } from 'node:worker_threads';
import { native } from '../../base/native.ts';
import { Choice } from './choice.ts';

const PLAIN = 0;
const LOOKING = 1;
const COMPANY = 2;

/** So long it looks for a request before it blocks, in ms. */
const LOOK_MS = 0.05;
/** A session of fewer requests says nothing about their speed. */
const BUSY = 24;
/** Sessions in a row that were busy before anything but the plain way is tried. */
const PROVEN = 4;

export const WANTED = 0;
export const THERE = 1;
export interface CompanyOf {
  readonly fd: number;
  /** `WANTED`: 1: keep company; 0: sleep. `THERE`: 1: the thread has started. */
  readonly state: Int32Array<SharedArrayBuffer>;
}

/** Small, and no reason for the process to go on. */
function startCompany(workerData: CompanyOf): Worker {
  const worker = new Worker(new URL('./company.ts', import.meta.url), {
    workerData,
    resourceLimits: { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 1, codeRangeSizeMb: 4 },
  });
  // Without company everything works.
  worker.on('error', () => undefined);
  worker.unref();
  return worker;
}

export class Waiting {
  readonly #fd: number;
  readonly #poll: ((ms: number) => number) | null;
  readonly #choice = new Choice(3);
  readonly #state = new Int32Array(new SharedArrayBuffer(8));
  #company: Worker | null = null;
  #busy = 0;
  #way = PLAIN;

  constructor(fd: number) {
    this.#fd = fd;
    this.#poll = native()?.poller(fd) ?? null;
  }

  /** A session of requests begins. */
  begin(): void {
    this.#way = this.#choose();
    if (this.#way !== COMPANY) return;
    Atomics.store(this.#state, WANTED, 1);
    Atomics.notify(this.#state, WANTED);
  }

  #choose(): number {
    if (this.#poll === null || this.#busy < PROVEN) return PLAIN;
    this.#company ??= startCompany({ fd: this.#fd, state: this.#state });
    // All ways at hand from the first trial on, or one would be judged by what it is not yet.
    return Atomics.load(this.#state, THERE) === 1 ? this.#choice.next() : PLAIN;
  }

  /** Before each read of the device. */
  wait(): void {
    if (this.#way !== LOOKING) return;
    const until = performance.now() + LOOK_MS;
    while (this.#poll!(0) === 0 && performance.now() < until);
  }

  /** The session ends: it had so many requests, in so many ms since the first one. */
  end(requests: number, ms: number): void {
    Atomics.store(this.#state, WANTED, 0);
    if (requests < BUSY) this.#busy = 0;
    else if (++this.#busy > PROVEN && Atomics.load(this.#state, THERE) === 1) this.#choice.yielded(requests / ms);
  }
}
