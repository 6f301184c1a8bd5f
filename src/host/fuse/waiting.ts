/**
 * How the serving thread waits for the next request. A request at a time costs little work and two wake-ups of sleeping
 * processors; docs/decisions/waiting.md has the measurements. Four ways:
 *
 * - plain: the thread blocks in its read.
 * - looking: it looks for the next request for some microseconds before it blocks.
 * - company: another thread sleeps at the same device. It does nothing, but it is woken too, and the scheduler, which
 *   would spread caller and server over the processors that sleep, leaves them together on the one that is awake.
 * - awake: the other thread does not sleep between requests. Only where there are two processors.
 *
 * Which one pays is found out while requests come one after the other. On a mount that is idle nothing runs.
 */
import { Worker } from 'node:worker_threads';
import { native } from '../../base/native.ts';
import { Choice } from './choice.ts';
import { Placement } from './placement.ts';

const PLAIN = 0;
const LOOKING = 1;
const COMPANY = 2;
const COMPANY_AWAKE = 3;

/** So long it looks for a request before it blocks, in ms. */
const LOOK_MS = 0.05;
/** A session of fewer requests says nothing about their speed. */
const BUSY = 24;
/** Sessions in a row that were busy before anything but the plain way is tried. */
const PROVEN = 4;
/**
 * After so many requests of a session, and after this many times as many again, it is looked whether there
 * is another one already, and with company that is awake whether caller and server are together.
 */
const FIRST_LOOK = 2;
const LOOK_FACTOR = 4;

/** Words of the shared state: what is wanted of the company; its thread id once it has started; requests served; that it runs. */
const WANTED = 0;
const THERE = 1;
const SERVED = 2;
const RUNS = 3;
/** What can be wanted; 0: nothing. */
const SLEEPS = 1;
const AWAKE = 2;

/** Small, and no reason for the process to go on. */
function startCompany(fd: number, state: Int32Array<SharedArrayBuffer>): Worker {
  const worker = new Worker(new URL('./company.js', import.meta.url), {
    workerData: { fd, state, words: { AWAKE, RUNS, SERVED, SLEEPS, THERE, WANTED } },
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
  readonly #placement = Placement.ofTwo();
  readonly #choice = new Choice(this.#placement === null ? 3 : 4);
  readonly #state = new Int32Array(new SharedArrayBuffer(16));
  #company: Worker | null = null;
  #busy = 0;
  #way = PLAIN;
  /** Thread that asked last. */
  #caller = 0;
  /** Requests of this session, after how many of them to look next, how many looks there were, and at how many another one was there. */
  #served = 0;
  #look = 0;
  #looks = 0;
  #there = 0;
  /** Requests do not come one at a time: nobody is waited for, and caller and server are better off on two processors. */
  #deep = false;

  constructor(fd: number) {
    this.#fd = fd;
    this.#poll = native()?.poller(fd) ?? null;
  }

  /** A session of requests begins. */
  begin(): void {
    this.#served = 0;
    this.#look = FIRST_LOOK;
    this.#looks = 0;
    this.#there = 0;
    this.#way = this.#choose();
    if (this.#way < COMPANY) return;
    Atomics.store(this.#state, WANTED, this.#way === COMPANY ? SLEEPS : AWAKE);
    Atomics.notify(this.#state, WANTED);
    this.#tell();
    if (this.#way === COMPANY_AWAKE) this.#join();
  }

  /** To the company: something is going on. */
  #tell(): void {
    Atomics.add(this.#state, SERVED, 1);
    if (Atomics.load(this.#state, RUNS) === 0) Atomics.notify(this.#state, SERVED);
  }

  #join(): void {
    this.#placement!.join(this.#caller, Atomics.load(this.#state, THERE));
  }

  #choose(): number {
    if (this.#poll === null || this.#busy < PROVEN || this.#deep) return PLAIN;
    this.#company ??= startCompany(this.#fd, this.#state);
    // All ways at hand from the first trial on, or one would be judged by what it is not yet.
    return Atomics.load(this.#state, THERE) === 0 ? PLAIN : this.#choice.next();
  }

  /** Before each read of the device. */
  wait(): void {
    if (this.#way === COMPANY_AWAKE) this.#tell();
    if (this.#way !== LOOKING) return;
    const until = performance.now() + LOOK_MS;
    while (this.#poll!(0) === 0 && performance.now() < until);
  }

  /** Between the read of a request and its answer: another one that is there by then comes from somebody who does not wait. */
  took(): void {
    if (++this.#served !== this.#look) return;
    this.#look *= LOOK_FACTOR;
    this.#looks++;
    if (this.#poll !== null && this.#poll(0) !== 0) this.#there++;
    if (this.#way === COMPANY_AWAKE) this.#join();
  }

  /** The session ends: it had so many requests, in so many ms since the first one, the last of them by thread `caller`. */
  end(requests: number, ms: number, caller: number): void {
    Atomics.store(this.#state, WANTED, 0);
    this.#caller = caller;
    this.#deep = this.#there * 2 > this.#looks;
    if (requests < BUSY) {
      this.#busy = 0;
      return;
    }
    if (++this.#busy > PROVEN && Atomics.load(this.#state, THERE) !== 0 && !this.#deep)
      this.#choice.yielded(requests / ms);
  }
}
