import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { hold, PLANTS, type Scenario, scenarios } from './overlay-scenarios.ts';
import type { Plan } from './simulated-files.ts';

const scenario = scenarios(15, 70);

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

  for (const [what, plant] of Object.entries(PLANTS)) {
    it(`is caught when ${what}`, async () => {
      const verdict = await fc.check(property(plant), { numRuns: RUNS, endOnFailure: true });
      expect(verdict.failed).toBe(true);
      expect(String(verdict.errorInstance)).toMatch(/sector \d+ holds|ends early/);
    });
  }
});
