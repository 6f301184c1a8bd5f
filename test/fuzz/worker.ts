/** Runs cases one after another, in a thread of its own: one that hangs or fills the memory ends the thread, not the run. */
import { parentPort, workerData } from 'node:worker_threads';
import { caseOf, type PreparedSeed, tryCase } from './case.ts';
import { targetOf } from './targets.ts';

export interface Work {
  readonly target: string;
  /** Made by the main thread: programs give each image another UUID. */
  readonly seeds: readonly PreparedSeed[];
  readonly seed: number;
  readonly from: number;
  readonly to: number;
  /** Number of the case that is running, +1. */
  readonly at: Int32Array;
}

export interface Found {
  readonly n: number;
  readonly why: string;
}

/** So many cases in one turn: what native handles leave behind is freed between turns only. */
const TURN = 32;

if (parentPort !== null) {
  const { target: name, seeds, seed, from, to, at } = workerData as Work;
  const target = await targetOf(name);
  for (let n = from; n < to; n++) {
    if (n % TURN === 0) await new Promise<void>(resolve => setImmediate(resolve));
    Atomics.store(at, 0, n + 1);
    const why = await tryCase(target, () => caseOf({ target, seeds }, seed, n));
    if (why !== null) parentPort.postMessage({ n, why } satisfies Found);
  }
  Atomics.store(at, 0, to + 1);
}
