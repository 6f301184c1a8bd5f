import { describe, expect, test } from 'vitest';
import { random } from '../../test/kit/random.ts';
import { BATCH, type PointNode } from '../files/point-files.ts';
import { Scan, WHOLE } from './scan.ts';

interface Asked {
  /** Names in each question. */
  readonly batches: number[];
  alone: number;
}

/** Asks for every name; each answer has to be that name's. */
async function goThrough(names: readonly string[], order: readonly string[]): Promise<Asked> {
  const asked: Asked = { batches: [], alone: 0 };
  const scan = new Scan(names);
  const children = async (batch: readonly string[]): Promise<PointNode[]> => {
    asked.batches.push(batch.length);
    return batch.map(name => ({ target: name }) as unknown as PointNode);
  };
  for (const name of order) {
    const found = scan.take(name) ?? (await scan.ask({ children }, name));
    if (found === null) asked.alone++;
    else expect(found).toEqual({ target: name });
  }
  return asked;
}

/** In an order that is not theirs, as that of a hash. */
const many = (count: number): string[] => {
  const { below } = random(5);
  const names = Array.from({ length: count }, (_, i) => `file ${i}`);
  for (let i = count - 1; i > 0; i--) {
    const other = below(i + 1);
    [names[i], names[other]] = [names[other]!, names[i]!];
  }
  return names;
};

describe('names of a folder that was listed', () => {
  const names = many(5000);
  test.each([
    ['in the order of the list', names],
    ['sorted', names.toSorted()],
    ['backwards', names.toReversed()],
  ])('are fetched together: %s', async (_, order) => {
    const { batches, alone } = await goThrough(names, order);
    expect(alone).toBeLessThanOrEqual(2);
    expect(batches.length).toBeLessThanOrEqual(Math.ceil(names.length / BATCH) + 1);
  });

  test('one or two are asked for alone', async () => {
    expect(await goThrough(names, [names[4000]!, names[77]!])).toEqual({ batches: [], alone: 2 });
  });

  test('in the largest folders only in their order, and what is kept is bounded', async () => {
    const huge = many(WHOLE + 1);
    expect((await goThrough(huge, huge)).batches.length).toBe(Math.ceil(huge.length / BATCH));
    expect((await goThrough(huge, huge.toReversed().slice(1))).alone).toBe(WHOLE - 1);
  });

  test('a name that is not in the list is asked for alone', async () => {
    expect((await goThrough(names, ['x', 'x', 'x', 'x'])).alone).toBe(4);
  });
});
