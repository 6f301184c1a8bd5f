/** A store that stops at the N-th operation, for every N: the old state or the new one. */
import { expect, test } from 'vitest';
import type { ByteFile, WritableStore } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { type MemoryStore, memoryStore } from '../../src/stores/memory.ts';
import { layerOf, openLayer, pattern, readAll, SECRET, type Write, writeLayer } from './kit.ts';

interface Failing {
  readonly store: WritableStore;
  /** What was done, in order. */
  readonly log: string[];
}

/** Operation `stop` fails, a write of it halfway; with `dead` all later ones fail too, as after a kill. */
function failing(inner: MemoryStore, stop: number, dead: boolean): Failing {
  const log: string[] = [];
  const step = (what: string): boolean => {
    log.push(what);
    return log.length - 1 === stop || (dead && log.length - 1 > stop);
  };
  const fail = (): never => {
    throw new ImageError('io', 'planted', { file: 'planted' });
  };
  const wrap = (file: ByteFile): ByteFile => ({
    name: file.name,
    get size() {
      return file.size;
    },
    read: (into, at) => file.read(into, at),
    async write(from, at) {
      const broken = step(`write ${at}`);
      await file.write(broken ? from.subarray(0, from.length >> 1) : from, at);
      if (broken) fail();
    },
    truncate: size => file.truncate(size),
    async sync() {
      if (step('sync')) fail();
    },
    async [Symbol.asyncDispose]() {},
  });
  const store: WritableStore = {
    label: inner.label,
    list: prefix => inner.list(prefix),
    open: name => inner.open(name),
    async create(name) {
      if (step('create')) fail();
      return wrap(await inner.create(name));
    },
    async rename(from, to) {
      if (step('rename')) fail();
      await inner.rename(from, to);
    },
    async remove(name) {
      if (step('remove')) fail();
      await inner.remove(name);
    },
    async [Symbol.asyncDispose]() {},
  };
  return { store, log };
}

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
  store.put('1.bml.partial', new Uint8Array(3));
  await expect(writeLayer(store, '1.bml', {}, first)).rejects.toMatchObject({ fault: 'exists' });
  await store.remove('1.bml.partial');
  await expect(writeLayer(store, '1.bml', {}, [[0, 99, 'zero']])).rejects.toMatchObject({ fault: 'out-of-range' });
  expect(await namesOf(store)).toEqual(['0.bml']);
});
