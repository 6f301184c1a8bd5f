/**
 * Where the serving thread runs: on the processor of the one who asks, while another thread keeps the only other
 * processor from looking idle. The kernel then wakes each of the two where it slept, and no processor out of its sleep.
 */
import fs from 'node:fs';
import { type Native, native } from '../../base/native.ts';

/** Room for a line of proc(5)'s `stat`. */
const STAT_BYTES = 1024;

const isIn = (mask: Uint8Array, processor: number): boolean =>
  ((mask[processor >>> 3] ?? 0) & (1 << (processor & 7))) !== 0;

const countOf = (mask: Uint8Array): number =>
  mask.reduce((sum, byte) => sum + byte.toString(2).replaceAll('0', '').length, 0);

export class Placement {
  readonly #native: Native;
  /** As the process was started: taskset and cpusets stay respected. */
  readonly #allowed: Uint8Array;
  readonly #line = Buffer.alloc(STAT_BYTES);
  /** Thread whose `stat` is open. */
  #caller = 0;
  #stat = -1;
  /** Processor that the company is kept off. */
  #kept = -1;

  private constructor(ours: Native, allowed: Uint8Array) {
    this.#native = ours;
    this.#allowed = allowed;
  }

  /** null: there are not two processors. With more, some other one would be idle all the same. */
  static ofTwo(): Placement | null {
    const ours = native();
    const allowed = ours?.processors(0) ?? null;
    return ours === null || allowed === null || countOf(allowed) !== 2 ? null : new Placement(ours, allowed);
  }

  /**
   * Moves this thread to where the thread `caller` runs, without holding it there, and the thread `company` to the other
   * processor. false: that cannot be told.
   */
  join(caller: number, company: number): boolean {
    const processor = this.#processorOf(caller);
    if (processor === null || !isIn(this.#allowed, processor)) return false;
    const here = new Uint8Array(this.#allowed.length);
    here[processor >>> 3] = 1 << (processor & 7);
    if (processor !== this.#kept) {
      const there = this.#allowed.map((byte, i) => byte & ~here[i]!);
      if (!this.#native.confine(company, there)) return false;
      this.#kept = processor;
    }
    return this.#native.confine(0, here) && this.#native.confine(0, this.#allowed);
  }

  /** Processor that a thread runs on, or ran on last; null: it is gone, or of another pid namespace. */
  #processorOf(thread: number): number | null {
    try {
      if (thread !== this.#caller) this.#open(thread);
      const length = fs.readSync(this.#stat, this.#line, 0, STAT_BYTES, 0);
      const stat = this.#line.toString('latin1', 0, length);
      // Field 39; what follows the name in parentheses begins with field 3.
      const processor = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[36]);
      return Number.isSafeInteger(processor) ? processor : null;
    } catch {
      this.#caller = 0;
      return null;
    }
  }

  #open(thread: number): void {
    this.#caller = 0;
    if (this.#stat !== -1) fs.closeSync(this.#stat);
    this.#stat = -1;
    this.#stat = fs.openSync(`/proc/${thread}/stat`, 'r');
    this.#caller = thread;
  }
}
