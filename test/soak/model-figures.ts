/** F4 and F8: the overlay on a simulated disk, through power losses at every call and through random operations. */
import fc from 'fast-check';
import { clipped, Machine, type Moment, type Operation, seeded } from '../../src/overlay/overlay-model.ts';
import { hold, PLANTS, scenarios } from '../../src/overlay/overlay-scenarios.ts';
import { type Plan, simulatedFiles } from '../../src/overlay/simulated-files.ts';
import type { Figure, Run } from './figure.ts';

/** Every kind of change, over absent, present and zero blocks: what up to three of them in a row do is tried out wholly. */
const ALPHABET: readonly Operation[] = [
  { do: 'write', ...clipped(0, 16) },
  { do: 'write', ...clipped(9, 2) },
  { do: 'zero', ...clipped(6, 12) },
  { do: 'flush', ...clipped(0, 1) },
  { do: 'flush-under-writes', ...clipped(10, 9) },
];
/** Ways of losing what is not synced that are tried for one instant; more than that, and they are drawn by chance. */
const WAYS = 24;

function* sequences(length: number): Generator<Operation[]> {
  if (length === 0) yield [];
  else for (const rest of sequences(length - 1)) for (const operation of ALPHABET) yield [operation, ...rest];
}

/** Calls `lose` with one `pick` after another: all of them when they are few, else the outermost and some by chance. */
async function eachWay(lose: (pick: (n: number) => number) => Promise<void>, random: () => number): Promise<number> {
  let choices: number[] = [];
  for (let ways = 1; ; ways++) {
    const sizes: number[] = [];
    const counted = choices;
    const exhaustive = ways <= WAYS / 2;
    await lose(n => {
      const at = sizes.push(n) - 1;
      if (ways === WAYS) return n - 1;
      return exhaustive ? (counted[at] ?? 0) : Math.floor(random() * n);
    });
    if (ways === WAYS) return ways;
    if (!exhaustive) continue;
    // The next way in order: the last choice that can be raised is, and those behind it begin anew.
    const next = sizes.map((_, i) => counted[i] ?? 0);
    while (next.length > 0 && next.at(-1)! + 1 === sizes[next.length - 1]) next.pop();
    if (next.length === 0) return ways;
    next[next.length - 1]!++;
    choices = next;
  }
}

/** Looks at every instant just before a call: answers how many power losses were. */
async function lossesOf(
  operations: readonly Operation[],
  seed: number,
  plant: (plan: Plan) => void,
  limit = Number.POSITIVE_INFINITY,
): Promise<number> {
  const files = simulatedFiles();
  plant(files.plan);
  const random = seeded(seed);
  const machine = new Machine(files, random);
  const moments: Moment[] = [];
  let losses = 0;
  const look = async (): Promise<void> => {
    for (const moment of moments.splice(0)) {
      if (losses >= limit) return;
      await moment.afterKill();
      losses += await eachWay(pick => moment.afterPowerLoss(pick), random);
    }
  };
  files.plan.before = () => void moments.push(machine.moment());
  for (const operation of operations) {
    await machine.run(operation);
    await look();
  }
  moments.push(machine.moment());
  await look();
  return losses;
}

async function runPowerCuts(run: Run): Promise<void> {
  const wanted = run.count(10_000);
  const plant = run.plant === null ? (): void => {} : PLANTS[run.plant]!;
  let cuts = 0;
  for (const length of [1, 2, 3]) {
    let sequence = 0;
    for (const operations of sequences(length)) cuts += await lossesOf(operations, run.seed + sequence++, plant);
    run.verdict(`every sequence of ${length}`, true, `${sequence} sequences, ${cuts} power cuts so far, 0 violations`);
  }
  let [random, runs] = [0, 0];
  for (const { seed, operations } of fc.sample(scenarios(10, 40), { seed: run.seed, numRuns: wanted })) {
    if (random >= wanted) break;
    // At most so many of one run, so that there are many runs.
    random += await lossesOf(operations, seed, plant, wanted / 50);
    runs++;
  }
  run.verdict('random operations', random >= wanted, `${runs} runs, ${random} power cuts, 0 violations`);
}

async function runModel(run: Run): Promise<void> {
  const numRuns = run.count(100_000);
  const plant = run.plant === null ? (): void => {} : PLANTS[run.plant]!;
  let operations = 0;
  let done = 0;
  await fc.assert(
    fc.asyncProperty(scenarios(2, 16), async scenario => {
      operations += await hold(scenario, plant);
      if (++done % 10_000 === 0) run.say(`${done} of ${numRuns}`);
    }),
    { numRuns, seed: run.seed },
  );
  run.verdict('model', true, `${numRuns} sequences, ${operations} operations, 0 divergences`);
}

export const modelFigures: readonly Figure[] = [
  {
    name: 'F4',
    what: '10,000 power cuts: any subset of the unsynced sectors and lengths, at every call, 0 violations',
    plants: Object.keys(PLANTS),
    run: runPowerCuts,
  },
  {
    name: 'F8',
    what: '10^5 random sequences of writes, zeroes, flushes, growth, kills, power losses, reopens against a model',
    plants: Object.keys(PLANTS),
    run: runModel,
  },
];
