/** Finding out by trying which of some ways to do a thing is the fastest here and now. */

/** A trial is repeated after so many rounds; after each one that did not pay, after twice as many. */
const SOON = 32;
const SELDOM = 1024;
/** Rounds of a trial, of which the middle one counts: a way may take a round to find its place. */
const TRIAL = 3;
/** Another way must be better than the first by this factor: what is simple wins when it makes no difference. */
const WORTH = 1.15;
/** Part of a new measurement in the running mean. */
const WEIGHT = 0.25;
/** The load is another one when the way in use yields more or less than before by this factor, so many rounds in a row. */
const CHANGED = 1.6;
const IN_A_ROW = 3;

interface Way {
  /** Running mean of what it yields; 0: not tried. */
  rate: number;
  /** Rounds between two trials, and until the next one. */
  every: number;
  left: number;
  /** What the rounds of the trial yielded so far. */
  readonly trial: number[];
}

const untried = (ways: number): readonly Way[] =>
  Array.from({ length: ways }, (_, i) => ({ rate: 0, every: SOON, left: i * TRIAL, trial: [] }));

/**
 * Way 0 is the plain one. Whichever yields the most is used, and the others are tried now and then, each the more seldom
 * the less it pays: what is right changes with the load, and with what else the machine does.
 */
export class Choice {
  #ways: readonly Way[];
  #chosen = 0;
  /** Rounds in a row that do not fit what was found out. */
  #strange = 0;

  constructor(ways: number) {
    this.#ways = untried(ways);
  }

  /** The way for the next round. */
  next(): number {
    const best = this.#best();
    let chosen = best;
    for (const [i, way] of this.#ways.entries()) {
      if (i !== best && --way.left <= 0 && chosen === best) chosen = i;
    }
    this.#chosen = chosen;
    return chosen;
  }

  /** What the round yielded that `next` began. A round that says nothing is not reported. */
  yielded(rate: number): void {
    if (this.#isStrange(rate)) {
      if (++this.#strange < IN_A_ROW) return;
      // Few large requests, many at a time, one after the other: what was the best for one load says nothing of the next.
      this.#ways = untried(this.#ways.length);
    }
    this.#strange = 0;
    const way = this.#ways[this.#chosen]!;
    if (this.#best() === this.#chosen) way.rate = way.rate === 0 ? rate : way.rate + (rate - way.rate) * WEIGHT;
    else if (way.trial.push(rate) < TRIAL) return;
    else way.rate = way.trial.sort((a, b) => a - b)[TRIAL >> 1]!;
    way.trial.length = 0;
    const pays = this.#best() === this.#chosen;
    way.every = pays ? SOON : Math.min(SELDOM, way.every * 2);
    way.left = way.every;
  }

  #isStrange(rate: number): boolean {
    const best = this.#best();
    const before = this.#ways[best]!.rate;
    if (this.#chosen !== best || before === 0) return false;
    return rate > before * CHANGED || rate * CHANGED < before;
  }

  #best(): number {
    const ways = this.#ways;
    let best = 0;
    for (let i = 1; i < ways.length; i++) {
      const least = best === 0 ? ways[0]!.rate * WORTH : ways[best]!.rate;
      if (ways[0]!.rate > 0 && ways[i]!.rate > least) best = i;
    }
    return best;
  }
}
