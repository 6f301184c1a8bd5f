/** Points of one set by their trees: what counts as the same is, to the last byte, and what was written is found. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Layer } from '../../src/base/contracts.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { layerOf, openLayer, pattern, readAll, SECRET, type Write, writeLayer } from './kit.ts';

const BLOCK = 4096;
const BLOCKS = 300;

interface Stretch {
  readonly at: number;
  readonly end: number;
  readonly same: boolean;
}

async function stretchesOf(a: Layer, b: Layer): Promise<Stretch[]> {
  const found: Stretch[] = [];
  for (let at = 0; at < a.size; ) {
    const { same, length } = (await a.compare!(b, at, a.size - at))!;
    expect(length).toBeGreaterThan(0);
    found.push({ at, end: at + length, same });
    at += length;
  }
  return found;
}

const write = fc.tuple(fc.constant(0), fc.nat(BLOCKS - 1), fc.nat(5));
const toWrite = ([disk, block, what]: readonly [number, number, number]): Write => [
  disk,
  block,
  what === 0 ? 'zero' : pattern(BLOCK, what),
];

test.each([
  ['encrypted', SECRET],
  ['plain', null],
])('%s: random chains of two', async (_, secret) => {
  const chains = fc.array(fc.array(write, { maxLength: 30 }), { minLength: 2, maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(chains, async steps => {
      const store = memoryStore();
      let parent: Awaited<ReturnType<typeof openLayer>> | null = null;
      const layers: Layer[] = [];
      for (const [i, writes] of steps.entries()) {
        const spec = { size: BLOCKS * BLOCK - 100, blockSize: BLOCK, parent, secret };
        await writeLayer(store, `${i}.bml`, spec, writes.map(toWrite));
        parent = await openLayer(store, `${i}.bml`, secret);
        layers.push(layerOf(parent));
      }
      const [first, last] = [layers[0]!, layers.at(-1)!];
      const [before, after] = [await readAll(first), await readAll(last)];
      const written = new Set(steps.slice(1).flatMap(writes => writes.map(([, block]) => block)));
      for (const { at, end, same } of await stretchesOf(first, last)) {
        const equal = Buffer.compare(before.subarray(at, end), after.subarray(at, end)) === 0;
        if (same) expect(equal).toBe(true);
        // What nobody wrote is never in doubt.
        else expect(written.has(Math.floor(at / BLOCK))).toBe(true);
      }
    }),
    { numRuns: 30 },
  );
});

test('layers of different sets have nothing to do with each other', async () => {
  const store = memoryStore();
  for (const name of ['a.bml', 'b.bml']) await writeLayer(store, name, {}, [[0, 1, pattern(BLOCK, 1)]]);
  const [a, b] = [layerOf(await openLayer(store, 'a.bml')), layerOf(await openLayer(store, 'b.bml'))];
  expect(await a.compare!(b, 0, BLOCK)).toBeNull();
  expect(await a.compare!(a, 0, BLOCK)).toMatchObject({ same: true });
});
