/** Whether small pieces of work are better done at once than handed to another thread, which takes some 20 µs each. */

/** Work that takes less than this on average, in ms, is done at once: nobody else waits for long. */
const QUICK = 0.03;
/** How much the last one counts. */
const WEIGHT = 1 / 16;
/** While work is handed over, one in so many is done at once to see whether that is still right. */
const PROBE = 64;

export class Pace {
  #average = 0;
  #others = 0;

  isQuick(): boolean {
    if (this.#average < QUICK) return true;
    this.#others = (this.#others + 1) % PROBE;
    return this.#others === 0;
  }

  /** How long the last one took that was done at once. A thread that was interrupted counts as ten times as long at most. */
  took(ms: number): void {
    this.#average += (Math.min(ms, 10 * QUICK) - this.#average) * WEIGHT;
  }
}
