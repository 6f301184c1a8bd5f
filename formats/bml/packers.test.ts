/** Packing in threads: the same records as at home, and a thread that ends is an error and no hole. */
import { afterAll, expect, test } from 'vitest';
import type { ImageError } from '../../src/base/errors.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { Batches, type Job } from './batches.ts';
import { layerOf, openLayer, pattern, readAll, SECRET, type Write, writeLayer } from './kit.ts';
import { type Batch, DONE, JOB, newBatch, type PackSpec, packBatch } from './pack.ts';
import { Packers } from './packers.ts';

const BLOCK = 65_536;
const COUNT = 4;
const spec: PackSpec = {
  setId: new Uint8Array(16).fill(1),
  layer: new Uint8Array(16).fill(2),
  session: 0,
  cipher: 'none' as const,
  key: null,
  blockSize: BLOCK,
  level: 3,
};

function filled(seed: number): Batch {
  const batch = newBatch(COUNT, BLOCK);
  for (let i = 0; i < COUNT; i++) {
    batch.plain.set(pattern(BLOCK, seed + i), i * BLOCK);
    batch.jobs.set([0, seed + i, i === 3 ? 1000 : BLOCK, 0], i * JOB);
  }
  return batch;
}

const packers = new Packers(spec, 2);
afterAll(() => packers.end());

test('records are the same wherever they are packed', async () => {
  const batches = Array.from({ length: 12 }, (_, i) => filled(i * COUNT));
  await Promise.all(batches.map(batch => packers.pack(batch, COUNT)));
  for (const [i, batch] of batches.entries()) {
    const home = filled(i * COUNT);
    packBatch(spec, home, COUNT);
    expect(batch.done).toEqual(home.done);
    expect(batch.tags).toEqual(home.tags);
    const length = Array.from({ length: COUNT }, (_, n) => home.done[n * DONE]!).reduce((a, b) => a + b);
    expect(Buffer.compare(batch.packed.subarray(0, length), home.packed.subarray(0, length))).toBe(0);
  }
});

test('a thread that fails ends the work that it had, and the next batch gets another one', async () => {
  // More blocks than the batch has room for.
  const broken = packers.pack(filled(0), COUNT + 3);
  await expect(broken).rejects.toThrow();
  await packers.pack(filled(0), COUNT);
});

test.each([['plain', null] as const, ['encrypted', SECRET] as const])(
  'a layer of many batches, %s',
  async (_, secret) => {
    const store = memoryStore();
    const size = 200 * BLOCK;
    const writes = Array.from({ length: 200 }, (_, i): Write => [0, i, pattern(BLOCK, i)]);
    await writeLayer(store, 'a.bml', { size, blockSize: BLOCK, secret }, writes);
    await using image = await openLayer(store, 'a.bml', secret);
    const read = await readAll(layerOf(image));
    for (const [, i, data] of writes) {
      expect(Buffer.compare(read.subarray(i * BLOCK, (i + 1) * BLOCK), data as Uint8Array), `block ${i}`).toBe(0);
    }
  },
);

test('when storing fails, whoever waits is told, and so is the next', async () => {
  const failure = new Error('planted');
  const batches = new Batches<Job>(spec, async () => {
    throw failure;
  });
  const data = pattern(BLOCK, 1);
  const adding = Array.from({ length: 400 }, (_, block) => batches.add({ disk: 0, block, counter: 0 }, data));
  const ends = await Promise.allSettled(adding);
  expect(ends.some(end => end.status === 'rejected' && (end.reason as ImageError) === failure)).toBe(true);
  expect(() => batches.check()).toThrow('planted');
  await expect(batches.drain()).rejects.toThrow('planted');
  await batches.end();
});
