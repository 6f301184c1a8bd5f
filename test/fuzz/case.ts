/** One case: damaged files, opened and read, and what was wrong with that. */
import v8 from 'node:v8';
import vm from 'node:vm';
import { type Random, random } from '../kit/random.ts';
import { type DamagedFiles, damagedStore, watch } from './damage.ts';
import { mutate } from './mutate.ts';
import type { Structure } from './structures.ts';
import type { FuzzTarget, Seed } from './target.ts';

export interface PreparedSeed {
  readonly seed: Seed;
  readonly structures: readonly Structure[];
}

export interface Prepared {
  readonly target: FuzzTarget;
  readonly seeds: readonly PreparedSeed[];
}

export interface Bounds {
  /** Time of all processors: other work on the machine does not count. */
  readonly slowMs: number;
  readonly memory: number;
}

export const BOUNDS: Bounds = { slowMs: 1000, memory: 64 * 2 ** 20 };

export interface Case {
  readonly name: string;
  readonly files: DamagedFiles;
  /** Where the reading goes: the same for the same case. */
  readonly numbers: Random;
}

/** Case `n` of a run, the same whenever it is asked for. */
export function caseOf({ target, seeds }: Prepared, runSeed: number, n: number): Case {
  const numbers = random(Math.imul(runSeed, 0x9e37_79b1) + n);
  const { seed, structures } = seeds[n % seeds.length]!;
  return { name: seed.name, files: mutate(seed, structures, numbers, target.repair), numbers };
}

v8.setFlagsFromString('--expose-gc');
const sweep = vm.runInNewContext('gc') as () => void;

/** All that nobody needs is given back: buffers are freed beside the program, and only the next call waits for that. */
export function collect(): void {
  sweep();
  sweep();
}

/** Bytes of the heap and of buffers outside it; what is not needed any more counts until it is collected. */
function memory(): number {
  const { used_heap_size: heap, external_memory: outside } = v8.getHeapStatistics();
  return heap + outside;
}

/** `exact`: what nobody needs any more is collected before a read, as soon as it alone would pass the bound. */
async function attempt(
  target: FuzzTarget,
  { name, files, numbers }: Case,
  bounds: Bounds,
  exact = false,
): Promise<string | null> {
  const seen = watch();
  if (exact) collect();
  const before = memory();
  let most = 0;
  if (exact) {
    seen.onRead = () => {
      if (memory() - before > bounds.memory) collect();
      most = Math.max(most, memory() - before);
    };
  }
  const began = process.cpuUsage();
  let wrong: string | null = null;
  try {
    await target.exercise(damagedStore(files, seen), name, numbers);
  } catch (error) {
    wrong = error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
  const { user, system } = process.cpuUsage(began);
  const took = (user + system) / 1000;
  if (seen.outside.length > 0) return `asked for ${JSON.stringify(seen.outside[0])}`;
  if (wrong !== null) return wrong;
  if (seen.open !== 0) return `${seen.open} files are left open`;
  if (took > bounds.slowMs) return `took ${took.toFixed(0)} ms`;
  const more = Math.max(most, memory() - before);
  return more > bounds.memory ? `held ${more} bytes` : null;
}

/** Memory that is given back a moment later than asked for is not held. */
const EXACT_ATTEMPTS = 2;

/** null when all went as it should, else what did not. What depends on the machine's other work must happen again. */
export async function tryCase(target: FuzzTarget, tried: () => Case, bounds = BOUNDS): Promise<string | null> {
  let why = await attempt(target, tried(), bounds);
  for (let n = 0; n < EXACT_ATTEMPTS && why !== null && /^(took|held) /.test(why); n++)
    why = await attempt(target, tried(), bounds, true);
  return why;
}
