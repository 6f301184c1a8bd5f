/** Random runs of operations on an overlay, held against the model; and errors to plant under them. For tests. */
import fc from 'fast-check';
import { clipped, Machine, type Operation, seeded } from './overlay-model.ts';
import { type Fault, type Plan, simulatedFiles } from './simulated-files.ts';

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

/** Every kind of operation, over fresh, rewritten, zeroed and flushed blocks, on both sides of a map page's end. */
const OPERATIONS: readonly Operation[] = [
  { do: 'write', ...clipped(8, 16) },
  { do: 'write', ...clipped(3, 2) },
  { do: 'flush', ...clipped(0, 1) },
  { do: 'zero', ...clipped(10, 9) },
  { do: 'write', ...clipped(12, 1) },
  { do: 'write', ...clipped(280, 30) },
  { do: 'burst', ...clipped(30, 12) },
  { do: 'flush-under-writes', ...clipped(290, 7) },
  { do: 'kill' },
  { do: 'write', ...clipped(282, 4) },
  { do: 'zero', ...clipped(270, 40) },
  { do: 'flush', ...clipped(0, 1) },
  { do: 'write', ...clipped(560, 16) },
  { do: 'close' },
  { do: 'write', ...clipped(565, 2) },
  { do: 'zero', ...clipped(0, 24) },
  { do: 'flush', ...clipped(0, 1) },
  { do: 'write', ...clipped(1, 40) },
  { do: 'read', ...clipped(0, 60) },
];

/** Runs them with one call failing; throws when a sector then holds what it may not, at once or after a kill or a power loss. */
export async function holdWith(fault: Fault, plant: (plan: Plan) => void = () => {}): Promise<Machine> {
  const files = simulatedFiles();
  const machine = new Machine(files, seeded(fault.call));
  machine.tolerant = true;
  files.plan.fault = fault;
  plant(files.plan);
  for (const operation of OPERATIONS) {
    const errors = machine.errors.length;
    await machine.run(operation);
    // The disk is to be as it says in this very run, not only after the next one.
    if (machine.errors.length > errors) await machine.model.checkAll(await machine.overlay(), 'acknowledgement');
  }
  files.plan.fault = null;
  for (const how of ['kill', 'power'] as const) await machine.restart(how);
  return machine;
}

/** Ways in which a call fails. */
export const FAULTS: readonly Omit<Fault, 'call'>[] = [
  { code: 'EIO' },
  { code: 'ENOSPC' },
  { code: 'EIO', part: 0.5 },
  { code: 'ENOSPC', part: 0.9 },
];
