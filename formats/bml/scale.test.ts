/** Long chains, big disks, bounded memory. */
import { describe, expect, test } from 'vitest';
import type { Image, Location, Store } from '../../src/base/contracts.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { layerOf, openLayer, pattern, readAll, type Write, writeLayer } from './kit.ts';
import { insideOf } from './read.ts';
import { NodeCache, Tree } from './tree.ts';

const treeOf = (image: Image): Tree => [...insideOf(image)!.points.values()].at(-1)!.trees[0]!;
const TiB = 2 ** 40;

test('in a chain of 220 layers a lookup reads as many nodes as in one', async () => {
  const store = memoryStore();
  const size = 200 * 4096;
  let parent: Image | null = null;
  for (let i = 0; i < 220; i++) {
    await writeLayer(store, `${i}.bml`, { size, parent }, [[0, i % 200, pattern(4096, i + 1)]]);
    const next: Image = await openLayer(store, `${i}.bml`);
    await parent?.[Symbol.asyncDispose]();
    parent = next;
  }
  const tree = treeOf(parent!);
  for (const block of [0, 30, 199]) {
    tree.drop();
    const before = tree.reads;
    await tree.lookUp(block);
    expect(tree.reads - before).toBe(tree.spec.height);
  }
  const all = await readAll(layerOf(parent!));
  for (let block = 0; block < 200; block++) {
    const newest = block < 20 ? block + 201 : block + 1;
    const same = Buffer.compare(all.subarray(block * 4096, block * 4096 + 4096), pattern(4096, newest));
    expect(same, `block ${block}`).toBe(0);
  }
  await parent![Symbol.asyncDispose]();
});

/** Counts what is read and checks that every source is closed. */
function counting(inner: Store) {
  const seen = { reads: 0, open: 0 };
  const store: Store = {
    label: inner.label,
    list: prefix => inner.list(prefix),
    async open(name) {
      const source = await inner.open(name);
      seen.open++;
      return {
        name,
        size: source.size,
        read(into, at) {
          seen.reads++;
          return source.read(into, at);
        },
        async [Symbol.asyncDispose]() {
          seen.open--;
        },
      };
    },
    async [Symbol.asyncDispose]() {},
  };
  return { store, seen };
}

test('opening reads the same few pages whatever the size, and closes what it opened', async () => {
  const memory = memoryStore();
  const big = Array.from({ length: 2000 }, (_, i): Write => [0, i, pattern(4096, 3)]);
  await writeLayer(memory, 'small.bml', { size: 2000 * 4096 }, big.slice(0, 1));
  await writeLayer(memory, 'big.bml', { size: 2000 * 4096 }, big);
  const counts: number[] = [];
  for (const name of ['small.bml', 'big.bml']) {
    const { store, seen } = counting(memory);
    const image = await openLayer(store, name);
    counts.push(seen.reads);
    await readAll(layerOf(image));
    await image[Symbol.asyncDispose]();
    await image[Symbol.asyncDispose]();
    expect(seen.open).toBe(0);
  }
  expect(counts[0]).toBe(counts[1]);
  expect(counts[0]).toBeLessThan(8);
  const { store, seen } = counting(memory);
  await expect(openLayer(store, 'none.bml')).rejects.toMatchObject({ fault: 'not-found' });
  expect(seen.open).toBe(0);
});

describe('a disk of 16 TiB', () => {
  const size = 16 * TiB;
  test('is small while it is empty, and one answer covers it', async () => {
    const store = memoryStore();
    await writeLayer(store, 'a.bml', { size, blockSize: 65536 }, []);
    expect(store.bytes('a.bml').length).toBeLessThan(100 * 1024);
    await using image = await openLayer(store, 'a.bml');
    expect(layerOf(image).locate(0, size)).toEqual({ kind: 'absent', length: size });
    expect(layerOf(image).locate(size - 512, 512)).toEqual({ kind: 'absent', length: 512 });
  });

  test('keeps blocks at offsets beyond 2^31, 2^32, 2^40 and at its end apart', async () => {
    const store = memoryStore();
    const blockSize = 65536;
    const offsets = [
      0,
      2 ** 31 - blockSize,
      2 ** 31,
      2 ** 32 - blockSize,
      2 ** 32,
      2 ** 40,
      2 ** 43 + blockSize,
      size - blockSize,
    ];
    const writes = offsets.map((at, i): Write => [0, at / blockSize, pattern(blockSize, i + 1)]);
    await writeLayer(store, 'a.bml', { size, blockSize }, writes);
    await using image = await openLayer(store, 'a.bml');
    const layer = layerOf(image);
    const found: number[] = [];
    let steps = 0;
    for (let at = 0; at < size; steps++) {
      const here: Location | null = layer.locate(at, size - at);
      if (here === null) {
        await layer.load(at, size - at);
        continue;
      }
      if (here.kind === 'packed') {
        const into = new Uint8Array(blockSize);
        await layer.unpack(here.unit, into);
        expect(Buffer.compare(into, pattern(blockSize, found.length + 1))).toBe(0);
        found.push(at);
      }
      at += here.length;
    }
    expect(found).toEqual(offsets);
    expect(steps).toBeLessThan(200);
  });

  test('grows from one block to 8 PiB - and back - without losing it', async () => {
    const store = memoryStore();
    const data = pattern(4096, 5);
    await writeLayer(store, '0.bml', { size: 4096 }, [[0, 0, data]]);
    await using a = await openLayer(store, '0.bml');
    const huge = 2 ** 53 - 4096;
    await writeLayer(store, '1.bml', { size: huge, parent: a }, [[0, huge / 4096 - 1, data]]);
    await using b = await openLayer(store, '1.bml');
    const into = new Uint8Array(4096);
    for (const block of [0, huge / 4096 - 1]) {
      await layerOf(b).unpack(block, into);
      expect(Buffer.compare(into, data)).toBe(0);
    }
    await writeLayer(store, '2.bml', { size: 1000, parent: b }, []);
    await using c = await openLayer(store, '2.bml');
    await writeLayer(store, '3.bml', { size: 8192, parent: c }, []);
    await using d = await openLayer(store, '3.bml');
    const read = await readAll(layerOf(d));
    expect(Buffer.compare(read.subarray(0, 1000), data.subarray(0, 1000))).toBe(0);
    expect(read.subarray(1000).every(byte => byte === 0)).toBe(true);
  });
});

test('a tiny node budget gives the same bytes and stays within it; concurrent loads share one read', async () => {
  const store = memoryStore();
  const writes = Array.from({ length: 300 }, (_, i): Write => [0, i * 128, pattern(4096, i + 1)]);
  await writeLayer(store, 'a.bml', { size: 300 * 128 * 4096, openNodes: 4 }, writes);
  await using image = await openLayer(store, 'a.bml');
  const { spec, objects } = treeOf(image);
  const cache = new NodeCache(0);
  const tree = new Tree(spec, objects, cache);
  await Promise.all(Array.from({ length: 32 }, () => tree.load(0)));
  expect(tree.reads).toBe(spec.height);
  const into = new Uint8Array(4096);
  for (const i of [...writes.keys(), 0, 150, 299]) {
    await tree.unpack(i * 128, into);
    expect(Buffer.compare(into, pattern(4096, i + 1))).toBe(0);
  }
  expect(cache.size).toBeLessThanOrEqual(64);
});

test('the last of many concurrent writes of a block wins, also against zero and absent', async () => {
  const store = memoryStore();
  const { createBml } = await import('./write.ts');
  const { specOf } = await import('./kit.ts');
  await using writer = await createBml('a.bml', store, specOf({ size: 3 * 4096 }));
  const all: Promise<void>[] = [];
  for (let i = 0; i < 200; i++) {
    all.push(writer.write(0, 0, pattern(4096, i)));
    all.push(writer.write(0, 1, i % 2 === 0 ? pattern(4096, i) : 'zero'));
    all.push(writer.write(0, 2, i % 2 === 0 ? 'absent' : pattern(4096, i)));
  }
  await Promise.all(all);
  await writer.commit();
  await using image = await openLayer(store, 'a.bml');
  const read = await readAll(layerOf(image));
  expect(Buffer.compare(read.subarray(0, 4096), pattern(4096, 199))).toBe(0);
  expect(layerOf(image).locate(4096, 4096)).toEqual({ kind: 'zero', length: 4096 });
  expect(Buffer.compare(read.subarray(8192), pattern(4096, 199))).toBe(0);
});
