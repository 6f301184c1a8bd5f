/** What is read when a file is opened, and what is read only when its disks are. */
import { describe, expect, test } from 'vitest';
import type { Image, Store } from '../../src/base/contracts.ts';
import { type MemoryStore, memoryStore } from '../../src/stores/memory.ts';
import { consolidateBml } from './consolidate.ts';
import { layerOf, openLayer, pattern, readAll, SECRET, type Write, writeLayer } from './kit.ts';
import { insideOf } from './read.ts';
import { sealRecord } from './record.ts';
import { RECORD_HEADER, tableLine } from './structs.ts';

const SIZE = 40 * 4096;
const NEVER = new AbortController().signal;

async function makeChain(count: number, secret: Uint8Array | null): Promise<MemoryStore> {
  const store = memoryStore();
  for (let i = 0; i < count; i++) {
    await using parent = i === 0 ? null : await openLayer(store, `${i - 1}.bml`, secret);
    const writes = Array.from({ length: i === 0 ? 40 : 3 }, (_, n): Write => {
      const block = i === 0 ? n : (i * 7 + n) % 40;
      return [0, block, pattern(4096, i * 100 + block)];
    });
    await writeLayer(store, `${i}.bml`, { size: SIZE, parent, secret }, writes);
  }
  return store;
}

const consolidate = (store: MemoryStore, from: number, to: number) =>
  consolidateBml(store, {
    files: Array.from({ length: to - from + 1 }, (_, i) => `${from + i}.bml`),
    signal: NEVER,
    progress() {},
  });

/** As the store is once its files were closed in between: a name means what has it now. */
const reopening = (inner: MemoryStore): Store => ({
  label: inner.label,
  list: (...all) => inner.list(...all),
  async open(name) {
    const { size } = await inner.open(name);
    return {
      name,
      size,
      read: async (into, at) => (await inner.open(name)).read(into, at),
      async [Symbol.asyncDispose]() {},
    };
  },
  async [Symbol.asyncDispose]() {},
});

const problemOf = (image: Image) => image.points[0]!.problem;

describe.each([['plain', null] as const, ['encrypted', SECRET] as const])('%s', (_, secret) => {
  test('a disk that is first read after a consolidation is read from where it is now', async () => {
    const store = await makeChain(8, secret);
    await using before = await openLayer(store, '7.bml', secret);
    const content = await readAll(layerOf(before));
    await using early = await openLayer(reopening(store), '7.bml', secret);
    await consolidate(store, 2, 7);
    expect(Buffer.compare(await readAll(layerOf(early)), content)).toBe(0);
  });
});

test('a missing layer is known when a file is opened, whatever else was looked at before', async () => {
  const whole = await makeChain(6, null);
  const files = Object.fromEntries(['0', '1', '3', '4', '5'].map(n => [`${n}.bml`, whole.bytes(`${n}.bml`)]));
  const store = memoryStore(files);
  await using first = await openLayer(store, '0.bml');
  await using second = await openLayer(store, '1.bml');
  await using tip = await openLayer(store, '5.bml');
  expect([first, second].map(problemOf)).toEqual([null, null]);
  expect(problemOf(tip)).toMatchObject({ fault: 'broken-chain', message: expect.stringContaining('2.bml') });
  // The layer under another name is as good.
  {
    await using file = await store.create('again.bml');
    await file.write(whole.bytes('2.bml'), 0);
  }
  await using now = await openLayer(store, '5.bml');
  expect(problemOf(now)).toBeNull();
});

test('a layer table that lies is a problem of the point when the file is opened', async () => {
  const whole = await makeChain(3, null);
  await using image = await openLayer(whole, '2.bml');
  const { commit } = [...insideOf(image)!.points.values()][0]!;
  const nameAt = tableLine.offsetOf('nameAt');
  for (const change of [
    (body: Uint8Array) => body.fill(1, 32, 33),
    (body: Uint8Array) => body.fill(255, nameAt, nameAt + 4),
  ]) {
    const bytes = whole.bytes('2.bml').slice();
    const record = bytes.subarray(commit.tableAt, commit.tableAt + RECORD_HEADER + commit.tableStored);
    change(record.subarray(RECORD_HEADER));
    const { layer } = commit;
    const place = { setId: layer, layer, kind: 'metadata', disk: 0, index: 1, level: 0 } as const;
    sealRecord(record, place, 0, 0, 0, commit.tableStored, commit.tableStored);
    const store = memoryStore({ '0.bml': whole.bytes('0.bml'), '1.bml': whole.bytes('1.bml'), '2.bml': bytes });
    await using bad = await openLayer(store, '2.bml');
    expect(problemOf(bad)).toMatchObject({ fault: 'corrupt', message: expect.stringContaining('its hash') });
  }
  const torn = whole.bytes('2.bml').slice();
  torn[commit.tableAt + RECORD_HEADER + 3]! ^= 1;
  await using bad = await openLayer(memoryStore({ '2.bml': torn }), '2.bml');
  expect(problemOf(bad)).toMatchObject({ fault: 'corrupt', message: expect.stringContaining('its checksum') });
});

test('a point of a long chain is opened with as many reads as one of a short one', async () => {
  const memory = await makeChain(60, null);
  const seen = { reads: 0, bytes: 0 };
  const store: Store = {
    label: memory.label,
    list: (...all) => memory.list(...all),
    async open(name) {
      const source = await memory.open(name);
      return {
        name,
        size: source.size,
        read(into, at) {
          seen.reads++;
          seen.bytes += into.length;
          return source.read(into, at);
        },
        async [Symbol.asyncDispose]() {},
      };
    },
    async [Symbol.asyncDispose]() {},
  };
  const images: Image[] = [];
  const counts: number[] = [];
  for (let i = 0; i < 60; i++) {
    const before = seen.reads;
    images.push(await openLayer(store, `${i}.bml`));
    counts.push(seen.reads - before);
  }
  expect(new Set(counts).size).toBe(1);
  for (const image of images) await image[Symbol.asyncDispose]();
});
