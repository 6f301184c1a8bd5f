/** A store that stops at the N-th operation, for every N: the old state or the new one. */
import { expect, test } from 'vitest';
import type { Problem } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { type MemoryStore, memoryStore } from '../../src/stores/memory.ts';
import { failing } from './failing.ts';
import { CHEAP, layerOf, openLayer, pattern, readAll, SECRET, specOf, type Write, writeLayer } from './kit.ts';
import { FIRST_RECORD } from './structs.ts';
import { createBml } from './write.ts';

const first: readonly Write[] = Array.from({ length: 10 }, (_, i): Write => [0, i, pattern(4096, i)]);
const second: readonly Write[] = [
  [0, 3, pattern(4096, 77)],
  [0, 4, 'zero'],
  [0, 3, pattern(4096, 78)],
];

async function namesOf(store: MemoryStore): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of store.list()) names.push(name);
  return names;
}

async function contentsOf(store: MemoryStore, name: string): Promise<Uint8Array> {
  await using image = await openLayer(store, name, SECRET);
  expect(image.warnings).toEqual([]);
  return readAll(layerOf(image));
}

test.each([true, false])('a layer that stops at any operation was never there (killed: %s)', async dead => {
  const base = memoryStore();
  await writeLayer(base, '0.bml', { secret: SECRET }, first);
  const before = await contentsOf(base, '0.bml');
  const after = before.slice();
  after.set(pattern(4096, 78), 3 * 4096);
  after.fill(0, 4 * 4096, 5 * 4096);
  let finished = false;
  for (let stop = 0; !finished; stop++) {
    const inner = memoryStore({ '0.bml': base.bytes('0.bml') });
    const { store } = failing(inner, stop, dead);
    await using parent = await openLayer(store, '0.bml', SECRET);
    try {
      await writeLayer(store, '1.bml', { parent, secret: SECRET }, second);
      finished = true;
    } catch (error) {
      // `await using` wraps the error of a commit when the clean-up fails as well.
      expect(String(error instanceof ImageError ? error.message : (error as SuppressedError).suppressed)).toMatch(
        'planted',
      );
    }
    const names = await namesOf(inner);
    expect(Buffer.compare(await contentsOf(inner, '0.bml'), before)).toBe(0);
    expect(names.includes('1.bml')).toBe(finished);
    if (names.includes('1.bml')) expect(Buffer.compare(await contentsOf(inner, '1.bml'), after)).toBe(0);
    else if (!dead) expect(names).toEqual(['0.bml']);
    expect(stop).toBeLessThan(60);
  }
});

test('what makes a layer count is written after its records are durable, and renamed when all is', async () => {
  const { store, log } = failing(memoryStore(), -1, false);
  await writeLayer(store, '0.bml', {}, first);
  const syncs = log.flatMap((what, i) => (what === 'sync' ? [i] : []));
  expect(syncs).toHaveLength(2);
  const [records, commit] = syncs as [number, number];
  const offsets = log.slice(records + 1, commit).map(what => Number(what.split(' ')[1]));
  expect(offsets[0]! % 4096).toBe(0);
  expect(offsets).toEqual([offsets[0], offsets[0]! + 4096, 4096]);
  expect(log.slice(commit + 1)).toEqual(['rename']);
});

test('an existing file is not replaced, an abandoned layer leaves nothing', async () => {
  const store = memoryStore();
  await writeLayer(store, '0.bml', {}, first);
  await expect(writeLayer(store, '0.bml', {}, first)).rejects.toMatchObject({ fault: 'exists' });
  await expect(writeLayer(store, '1.bml', {}, [[0, 99, 'zero']])).rejects.toMatchObject({ fault: 'out-of-range' });
  expect(await namesOf(store)).toEqual(['0.bml']);
});

test.each([['plain', null] as const, ['encrypted', SECRET] as const])(
  'a block that is written ten thousand times does not grow the file, %s',
  async (_, secret) => {
    const store = memoryStore();
    const sizes: number[] = [];
    await using writer = await createBml('0.bml', store, specOf({ secret, size: 20 * 4096 }), { derivations: CHEAP });
    const data = new Uint8Array(4096);
    for (let i = 0; i < 10_000; i++) {
      // Of all lengths: some of it random, the rest compressible.
      crypto.getRandomValues(data.subarray(0, (i * 37) % 4096));
      data.fill(i % 251, (i * 37) % 4096);
      await writer.write(0, i % 3 === 0 ? 7 : i % 5, data);
      if (i % 1000 === 999) sizes.push(writer.stored);
    }
    await writer.write(0, 7, pattern(4096, 7));
    await writer.commit();
    expect(sizes.at(-1)).toBeLessThan(sizes[0]! + 8 * 4200);
    expect(store.bytes('0.bml').length).toBeLessThan(FIRST_RECORD + 60 * 4096);
    await using image = await openLayer(store, '0.bml', secret);
    const read = await readAll(layerOf(image));
    expect(Buffer.compare(read.subarray(7 * 4096, 8 * 4096), pattern(4096, 7))).toBe(0);
    const found: Problem[] = [];
    await image.verify!({ level: 3, found: p => found.push(p), progress() {}, signal: new AbortController().signal });
    expect(found).toEqual([]);
  },
);
