import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { clipped, Machine, type Operation, seeded } from './overlay-model.ts';
import { type Plan, simulatedFiles } from './simulated-files.ts';

const range = fc.tuple(fc.nat(10_000), fc.oneof(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 60 })));
const operation: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 8, arbitrary: range.map(([from, count]) => ({ do: 'write' as const, ...clipped(from, count) })) },
  { weight: 3, arbitrary: range.map(([from, count]) => ({ do: 'zero' as const, ...clipped(from, count) })) },
  { weight: 2, arbitrary: range.map(([from, count]) => ({ do: 'read' as const, ...clipped(from, count) })) },
  { weight: 2, arbitrary: range.map(([from, count]) => ({ do: 'burst' as const, ...clipped(from, count) })) },
  { weight: 2, arbitrary: range.map(([from, count]) => ({ do: 'flush' as const, ...clipped(from, count) })) },
  {
    weight: 2,
    arbitrary: range.map(([from, count]) => ({ do: 'flush-under-writes' as const, ...clipped(from, count) })),
  },
  {
    weight: 2,
    arbitrary: fc.constantFrom('kill' as const, 'power' as const, 'close' as const).map(how => ({ do: how })),
  },
);
const scenario = fc.record({
  seed: fc.integer(),
  /** The call at which a kill and a power loss are looked at. */
  cut: fc.nat(300),
  operations: fc.array(operation, { minLength: 15, maxLength: 70, size: 'max' }),
});
type Scenario = { seed: number; cut: number; operations: readonly Operation[] };

async function hold({ seed, cut, operations }: Scenario, plant: (plan: Plan) => void): Promise<number> {
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

/** More of them by BOOTMOUNT_RUNS: a quick run has over 10,000 operations. */
const RUNS = Number(process.env.BOOTMOUNT_RUNS ?? 300);
const property = (plant: (plan: Plan) => void): fc.IAsyncProperty<[Scenario]> =>
  fc.asyncProperty(scenario, async each => {
    await hold(each, plant);
  });

describe('an overlay through kills and power losses', () => {
  it('keeps every acknowledged write through a kill, every flushed one through a power loss, and invents nothing', async () => {
    let operations = 0;
    await fc.assert(
      fc.asyncProperty(scenario, async each => {
        operations += await hold(each, () => {});
      }),
      { numRuns: RUNS },
    );
    expect(operations).toBeGreaterThan(10_000);
  });

  const controls: readonly [string, (plan: Plan) => void][] = [
    [
      'the data is not synced before the map',
      plan => (plan.lies = call => call.what === 'sync' && call.name.startsWith('data')),
    ],
    [
      'the durable map is not synced at a flush',
      plan => {
        let n = 0;
        plan.lies = call => call.what === 'sync' && call.name === 'durable' && ++n > 1;
      },
    ],
    ['the map is written before its data', plan => (plan.late = 'data')],
    [
      'one change of the recent map is dropped',
      plan => {
        let n = 0;
        plan.lies = call => call.what === 'write' && call.name === 'recent.new' && (call.length ?? 0) < 64 && ++n === 2;
      },
    ],
    [
      'nothing is written to the durable map',
      plan => (plan.lies = call => call.what === 'write' && call.name === 'durable' && (call.at ?? 0) > 0),
    ],
  ];
  for (const [what, plant] of controls) {
    it(`is caught when ${what}`, async () => {
      const verdict = await fc.check(property(plant), { numRuns: RUNS, endOnFailure: true });
      expect(verdict.failed).toBe(true);
      expect(String(verdict.errorInstance)).toMatch(/sector \d+ holds|the file ends early/);
    });
  }
});
