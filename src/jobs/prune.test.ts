/** Which points go, and in which steps: pure decisions on sets that are made up. */
import { describe, expect, test } from 'vitest';
import { ImageError } from '../base/errors.ts';
import type { BackupSet, RestorePoint } from '../chain/point.ts';
import { planRange, pointNamed } from './consolidate.ts';
import { type KeepRules, planPrune } from './prune.ts';

interface Made {
  readonly name: string;
  readonly parent?: string;
  readonly time?: string;
  readonly problem?: ImageError;
}

function pointOf({ name, parent, time, problem = undefined }: Made): RestorePoint {
  return {
    set: 's',
    name,
    time: new Date(time ?? `2026-01-${name.padStart(2, '0')}T00:00:00Z`),
    type: parent === undefined ? 'full' : 'incremental',
    adapter: 'bml',
    disks: [],
    state: problem === undefined ? 'ok' : problem.fault === 'locked' ? 'locked' : 'broken',
    problem: problem ?? null,
    identity: name,
    file: `s/${name}.bml`,
    files: [`s/${name}.bml`],
    parent: parent ?? null,
    layers: () => [],
    openDisk: () => Promise.reject(new Error('not here')),
  };
}

const setOf = (points: readonly Made[]): BackupSet => ({
  name: 's',
  adapter: 'bml',
  encrypted: true,
  points: points.map(pointOf),
});

/** Points '1' to `count`, a day apart, each on the one before. */
const days = (count: number): Made[] =>
  Array.from({ length: count }, (_, i) => ({ name: `${i + 1}`, ...(i === 0 ? {} : { parent: `${i}` }) }));

const rules = (some: Partial<KeepRules>): KeepRules => ({ last: 0, daily: 0, weekly: 0, monthly: 0, ...some });

const kept = (
  set: BackupSet,
  some: Partial<KeepRules>,
  clones = [] as { name: string; set: string; point: string }[],
) =>
  planPrune(set, rules(some), clones)
    .decisions.filter(one => one.keep)
    .map(one => one.point.name);

const steps = (set: BackupSet, some: Partial<KeepRules>) =>
  planPrune(set, rules(some), []).steps.map(step =>
    step.kind === 'drop' ? `drop ${step.point.name}` : `merge ${step.points.map(point => point.name).join(' ')}`,
  );

describe('rules', () => {
  test('the newest N, and the newest of each day, week and month, in UTC', () => {
    const set = setOf(days(31));
    expect(kept(set, { last: 3 })).toEqual(['29', '30', '31']);
    expect(kept(set, { daily: 2 })).toEqual(['30', '31']);
    // 2026-01-04, -11, -18 and -25 were Sundays.
    expect(kept(set, { weekly: 3 })).toEqual(['18', '25', '31']);
    expect(kept(set, { monthly: 5 })).toEqual(['31']);
    expect(kept(set, { last: 1, weekly: 2, monthly: 1 })).toEqual(['25', '31']);
    const hours = setOf([
      { name: 'a', time: '2026-03-01T23:30:00Z' },
      { name: 'b', time: '2026-03-02T00:30:00Z', parent: 'a' },
      { name: 'c', time: '2026-03-02T12:00:00Z', parent: 'b' },
    ]);
    expect(kept(hours, { daily: 5 })).toEqual(['a', 'c']);
  });

  test('each decision is explained', () => {
    const { decisions } = planPrune(setOf(days(4)), rules({ last: 1, daily: 2 }), []);
    expect(decisions.map(one => one.reason)).toEqual([
      'no rule keeps it; consolidated into 3',
      'no rule keeps it; consolidated into 3',
      'daily 2',
      'last 1, daily 1',
    ]);
  });
});

describe('steps', () => {
  test('runs between points that stay are merged, leaves are dropped, newest first', () => {
    const set = setOf(days(8));
    expect(steps(set, { last: 8 })).toEqual([]);
    expect(steps(set, { last: 2 })).toEqual(['merge 1 2 3 4 5 6 7']);
    const twoFulls = setOf([...days(3), { name: '4' }, { name: '5', parent: '4' }]);
    expect(steps(twoFulls, { last: 2 })).toEqual(['drop 3', 'drop 2', 'drop 1']);
  });

  test('a branching point stays while both branches do; a dropped branch frees it', () => {
    const branched = setOf([...days(3), { name: '4', parent: '2' }]);
    expect(kept(branched, { last: 2 })).toEqual(['2', '3', '4']);
    expect(steps(branched, { last: 2 })).toEqual(['merge 1 2']);
    expect(steps(branched, { last: 1 })).toEqual(['drop 3', 'merge 1 2 4']);
  });

  test('points that are said to be made on each other are refused', () => {
    const loop = setOf([
      { name: '1', parent: '2' },
      { name: '2', parent: '1' },
      { name: '3', parent: '2' },
    ]);
    expect(() => steps(loop, { last: 1 })).toThrow('s@2 is said to be made on itself');
  });

  test('clones and points that cannot be read stay', () => {
    const set = setOf(days(4));
    const clones = [{ name: 'test', set: 's', point: '2' }];
    const plan = planPrune(set, rules({ last: 1 }), clones);
    expect(plan.decisions[1]).toMatchObject({ keep: true, reason: 'clone test was made of it' });
    const broken = setOf([...days(2), { name: '3', parent: '2', problem: new ImageError('corrupt', 'torn') }]);
    expect(planPrune(broken, rules({ last: 0, monthly: 0 }), []).decisions[2]).toMatchObject({
      keep: true,
      reason: 'cannot be read: torn',
    });
    const locked = setOf([...days(1), { name: '2', parent: '1', problem: new ImageError('locked', 'no key') }]);
    expect(steps(locked, { last: 1 })).toEqual(['merge 1 2']);
  });
});

describe('a range', () => {
  const set = setOf([...days(5), { name: '9', parent: '3' }]);
  const at = (name: string): RestorePoint => pointNamed(set, name)!;
  const names = (from: string, to: string): string[] => planRange(set, at(from), at(to), []).map(point => point.name);

  test('is a line of points; names as everywhere', () => {
    expect(names('1', '3')).toEqual(['1', '2', '3']);
    expect(names('4', '5')).toEqual(['4', '5']);
    expect([at('s@2').name, at('latest').name, at('~1').name]).toEqual(['2', '9', '5']);
    expect(pointNamed(set, 'x')).toBeNull();
  });

  test('is refused by name: backwards, across branches, over branches and clones', () => {
    expect(() => names('3', '1')).toThrow('s@1 does not build on 3');
    expect(() => names('4', '9')).toThrow('s@9 does not build on 4');
    expect(() => names('2', '5')).toThrow('s@9 branches off 3, which would be gone');
    const clones = [{ name: 'test', set: 's', point: '1' }];
    expect(() => planRange(set, at('1'), at('3'), clones)).toThrow('clone test was made of s@1');
    expect(planRange(set, at('2'), at('3'), clones)).toHaveLength(2);
  });
});
