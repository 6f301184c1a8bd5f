import { type ChildProcess, spawn } from 'node:child_process';
import fs from 'node:fs';
import { describe, expect, onTestFinished, test } from 'vitest';
import { native } from '../../base/native.ts';
import { Placement } from './placement.ts';

const cannot =
  native() === null ? 'koffi is not installed' : Placement.ofTwo() === null ? 'there are not two processors' : '';

/** A process that does nothing, asleep on the one processor that it may use. */
function sleeper(processors: Uint8Array): ChildProcess {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  onTestFinished(() => void child.kill());
  expect(native()!.confine(child.pid!, processors)).toBe(true);
  return child;
}

const allowedTo = (thread: number | string): string =>
  /Cpus_allowed_list:\s*(\S+)/.exec(fs.readFileSync(`/proc/${thread}/status`, 'latin1'))![1]!;

/** The processors that this thread may use, each by itself. */
function each(): Uint8Array[] {
  const all = native()!.processors(0)!;
  return [...all.keys()].flatMap(byte =>
    Array.from({ length: 8 }, (_, bit) => 1 << bit)
      .filter(bit => (all[byte]! & bit) !== 0)
      .map(bit => all.map((_, i) => (i === byte ? bit : 0))),
  );
}

describe.skipIf(cannot !== '')(`a place beside the caller${cannot && ` (skipped: ${cannot})`}`, () => {
  test('the company gets the processor that the caller does not run on, and this thread stays free', () => {
    const placement = Placement.ofTwo()!;
    const company = sleeper(native()!.processors(0)!);
    const before = allowedTo('thread-self');
    const [first, second] = each() as [Uint8Array, Uint8Array];
    for (const [here, there] of [
      [first, second],
      [second, first],
      [first, second],
    ] as const) {
      const caller = sleeper(here);
      expect(placement.join(caller.pid!, company.pid!)).toBe(true);
      expect(native()!.processors(company.pid!)).toEqual(there);
      expect(native()!.processors(caller.pid!)).toEqual(here);
      expect(allowedTo('thread-self')).toBe(before);
    }
  });

  test('of a caller that cannot be found nothing is known', () => {
    const company = sleeper(native()!.processors(0)!);
    const before = allowedTo(company.pid!);
    expect(Placement.ofTwo()!.join(0, company.pid!)).toBe(false);
    expect(Placement.ofTwo()!.join(2 ** 22 + 5, company.pid!)).toBe(false);
    expect(allowedTo(company.pid!)).toBe(before);
  });
});
