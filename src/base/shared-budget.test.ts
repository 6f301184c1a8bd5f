import { expect, test } from 'vitest';
import { random } from '../../test/kit/random.ts';
import { memoryStore } from '../stores/memory.ts';
import { type Pages, pages, RecentPages } from './pages.ts';
import { SharedBudget } from './shared-budget.ts';

const PAGE = 4096;
const content = Uint8Array.from({ length: 64 * PAGE }, (_, i) => i >> 12);

async function holders(count: number, together: SharedBudget): Promise<readonly Pages[]> {
  const source = await memoryStore({ a: content }).open('a');
  return Array.from({ length: count }, () => pages(source, 16, together));
}

/** Bytes that can be had without reading. */
const residentIn = (all: readonly Pages[]): number =>
  all.reduce((sum, each) => {
    for (let at = 0; at < content.length; at += PAGE) if (each.resident(at) !== null) sum += PAGE;
    return sum;
  }, 0);

test('a thousand layers keep no more than the budget, and what was loaded is there', async () => {
  const together = new SharedBudget(100 * PAGE);
  const all = await holders(1000, together);
  const { below, pick } = random(1);
  for (let i = 0; i < 5000; i++) {
    const [one, at] = [pick(all), below(64) * PAGE];
    expect((await one.load(at, PAGE))[0]).toBe(at / PAGE);
    expect(one.resident(at)?.[0]).toBe(at / PAGE);
    expect(together.held).toBeLessThanOrEqual(100 * PAGE);
  }
  expect(residentIn(all)).toBe(together.held);
  // Negative control: with a bound of its own each, they keep ten times as much.
  const apart = await holders(1000, new SharedBudget(Number.MAX_SAFE_INTEGER));
  for (const one of apart) await one.load(0, PAGE);
  expect(residentIn(apart)).toBe(1000 * PAGE);
});

test('who took nothing for a long time gives up first', async () => {
  const together = new SharedBudget(4 * PAGE);
  const [old, busy] = (await holders(2, together)) as [Pages, Pages];
  await old.load(0, PAGE);
  for (let at = 0; at < 4 * PAGE; at += PAGE) await busy.load(at, PAGE);
  expect(old.resident(0)).toBeNull();
  expect(residentIn([busy])).toBe(4 * PAGE);
});

test('each keeps its own bound too', async () => {
  const together = new SharedBudget(64 * PAGE);
  const [one] = (await holders(1, together)) as [Pages];
  for (let at = 0; at < content.length; at += PAGE) await one.load(at, PAGE);
  expect([residentIn([one]), together.held]).toEqual([16 * PAGE, 16 * PAGE]);
});

test('what was taken last stays, however long it is, and counts once however often it is put', async () => {
  const together = new SharedBudget(4 * PAGE);
  const [other, one] = [new RecentPages(16, together), new RecentPages(16, together)];
  other.put(0, new Uint8Array(PAGE));
  one.put(0, new Uint8Array(PAGE));
  for (let n = 0; n < 100; n++) one.put(1, new Uint8Array(PAGE));
  expect(together.held).toBe(3 * PAGE);
  expect([other.size, one.size]).toEqual([1, 2]);
  one.put(2, new Uint8Array(9 * PAGE));
  expect([other.size, one.size, one.get(2)?.byteLength]).toEqual([0, 1, 9 * PAGE]);
  other.put(0, new Uint8Array(PAGE));
  expect([other.size, one.size, together.held]).toEqual([1, 0, PAGE]);
});

test('small pages count with what describes them', async () => {
  const together = new SharedBudget(100 * 1024);
  const all = await holders(1000, together);
  for (const one of all) await one.load(0, 32);
  expect(all.filter(one => one.resident(0) !== null)).toHaveLength(100);
  for (const one of all.slice(0, 16)) for (let at = 0; at < 20; at++) await one.load(at * PAGE, 32);
  expect(together.held).toBe(100 * 1024);
});
