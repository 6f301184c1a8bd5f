/** Random runs of operations on an overlay, held against the model; and errors to plant under them. For tests. */
import fc from 'fast-check';
import { clipped, Machine, type Operation, seeded } from './overlay-model.ts';
import { type Plan, simulatedFiles } from './simulated-files.ts';

const range = fc.tuple(fc.nat(10_000), fc.oneof(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 60 })));
const ranged = <T extends 'write' | 'zero' | 'read' | 'burst' | 'flush' | 'flush-under-writes'>(
  what: T,
): fc.Arbitrary<{ do: T; from: number; count: number }> =>
  range.map(([from, count]) => ({ do: what, ...clipped(from, count) }));
const operation: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 8, arbitrary: ranged('write') },
  { weight: 3, arbitrary: ranged('zero') },
  { weight: 2, arbitrary: ranged('read') },
  { weight: 2, arbitrary: ranged('burst') },
  { weight: 2, arbitrary: ranged('flush') },
  { weight: 2, arbitrary: ranged('flush-under-writes') },
  {
    weight: 2,
    arbitrary: fc
      .constantFrom('kill' as const, 'power' as const, 'close' as const, 'grow' as const)
      .map(how => ({ do: how })),
  },
);

export interface Scenario {
  readonly seed: number;
  /** The call at which a kill and a power loss are looked at. */
  readonly cut: number;
  readonly operations: readonly Operation[];
}

export const scenarios = (minLength: number, maxLength: number): fc.Arbitrary<Scenario> =>
  fc.record({
    seed: fc.integer(),
    cut: fc.nat(300),
    operations: fc.array(operation, { minLength, maxLength, size: 'max' }),
  });

/** Runs a scenario; throws when a sector holds what it may not. Answers how many operations it had. */
export async function hold({ seed, cut, operations }: Scenario, plant: (plan: Plan) => void): Promise<number> {
  const files = simulatedFiles();
  plant(files.plan);
  const machine = new Machine(files, seeded(seed));
  let moment: ReturnType<Machine['moment']> | null = null;
  let calls = 0;
  files.plan.before = () => {
    if (calls++ === cut) moment = machine.moment();
  };
  for (const each of operations) await machine.run(each);
  await machine.model.checkAll(await machine.overlay(), 'acknowledgement');
  await (moment as ReturnType<Machine['moment']> | null)?.check();
  for (const last of ['kill', 'power'] as const) await machine.restart(last);
  return operations.length + 2;
}

/** Each of them has to be found by whoever runs scenarios. */
export const PLANTS: Readonly<Record<string, (plan: Plan) => void>> = {
  'the data is not synced before the map': plan => {
    plan.lies = call => call.what === 'sync' && call.name.startsWith('data');
  },
  'the durable map is not synced at a flush': plan => {
    let n = 0;
    plan.lies = call => call.what === 'sync' && call.name === 'durable' && ++n > 1;
  },
  'the map is written before its data': plan => {
    plan.late = 'data';
  },
  'one change of the recent map is dropped': plan => {
    let n = 0;
    plan.lies = call => call.what === 'write' && call.name === 'recent.new' && (call.length ?? 0) < 64 && ++n === 2;
  },
  'nothing is written to the durable map': plan => {
    plan.lies = call => call.what === 'write' && call.name === 'durable' && (call.at ?? 0) > 0;
  },
};
