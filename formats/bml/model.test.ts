/** Random layers, branches, resizes and reopenings against a plain map of blocks. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Image } from '../../src/base/contracts.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { type BlockState, layerOf, openLayer, pattern, readAll, SECRET, type Write, writeLayer } from './kit.ts';

const RUNS = Number(process.env.BML_MODEL_RUNS ?? 40);

/** One disk of one point: its size, and the bytes of the blocks that are not zeros. */
interface Model {
  readonly size: number;
  readonly blocks: ReadonlyMap<number, Uint8Array>;
}

const contents = (model: Model, blockSize: number): Uint8Array => {
  const out = new Uint8Array(model.size);
  for (const [block, data] of model.blocks) {
    out.set(data.subarray(0, Math.max(0, model.size - block * blockSize)), block * blockSize);
  }
  return out;
};

/** What a child starts from: the parent's bytes, cut to its own size. */
function inherit(parent: Model | undefined, size: number, blockSize: number): Map<number, Uint8Array> {
  const blocks = new Map<number, Uint8Array>();
  for (const [block, data] of parent?.blocks ?? []) {
    const left = Math.min(parent!.size, size) - block * blockSize;
    if (left <= 0) continue;
    const cut = data.slice();
    cut.fill(0, Math.min(left, blockSize));
    blocks.set(block, cut);
  }
  return blocks;
}

interface Step {
  readonly parent: number;
  readonly sizes: readonly number[];
  readonly writes: readonly { readonly disk: number; readonly at: number; readonly what: number }[];
}

const step = fc.record<Step>({
  parent: fc.nat(100),
  sizes: fc.array(
    fc.oneof(
      fc.nat(400 * 4096),
      fc.nat(12).map(n => n * 128 * 4096),
    ),
    { minLength: 1, maxLength: 2 },
  ),
  // A few blocks are hot, so that they are written again and again, in a layer and down the chain.
  writes: fc.array(fc.record({ disk: fc.nat(1), at: fc.oneof(fc.nat(5), fc.nat(9999)), what: fc.nat(300) }), {
    maxLength: 60,
    size: 'max',
  }),
});

interface Case {
  readonly steps: readonly Step[];
  readonly blockLog2: number;
  readonly encrypted: boolean;
  readonly compression: number;
  readonly keepSize: boolean;
}

function apply(models: readonly Model[], parents: readonly Model[], writes: readonly Write[], blockSize: number) {
  return models.map(({ size }, disk): Model => {
    const start = inherit(parents[disk], size, blockSize);
    const blocks = new Map(start);
    for (const [on, block, state] of writes) {
      if (on !== disk) continue;
      if (state instanceof Uint8Array) blocks.set(block, state);
      else if (state === 'zero' || !start.has(block)) blocks.delete(block);
      else blocks.set(block, start.get(block)!);
    }
    return { size, blocks };
  });
}

async function check({ steps, blockLog2, encrypted, compression, keepSize }: Case): Promise<void> {
  const store = memoryStore();
  const secret = encrypted ? SECRET : null;
  const blockSize = 2 ** blockLog2;
  const points: Model[][] = [];
  const images: Image[] = [];
  for (const [i, one] of steps.entries()) {
    const parent = i === 0 ? -1 : one.parent % (i + 1) === i ? i - 1 : one.parent % i;
    const sizes = keepSize ? steps[0]!.sizes : one.sizes;
    const writes = one.writes.flatMap(({ disk, at, what }, n): Write[] => {
      const on = disk % sizes.length;
      const count = Math.ceil(sizes[on]! / blockSize);
      if (count === 0) return [];
      const state: BlockState = what < 30 ? 'zero' : what < 60 ? 'absent' : pattern(blockSize, i * 1000 + n + what);
      return [[on, at % count, state]];
    });
    const empty = sizes.map(size => ({ size, blocks: new Map() }));
    points.push(apply(empty, points[parent] ?? [], writes, blockSize));
    const spec = { sizes, blockSize, parent: images[parent] ?? null, secret, compression, openNodes: 3 };
    await writeLayer(store, `${i}.bml`, spec, writes);
    images.push(await openLayer(store, `${i}.bml`, secret));
  }
  for (const image of images) await image[Symbol.asyncDispose]();
  for (const [i, point] of points.entries()) {
    await using image = await openLayer(store, `${i}.bml`, secret);
    for (const [disk, model] of point.entries()) {
      const layer = layerOf(image, disk);
      expect(layer.size).toBe(model.size);
      const same = Buffer.compare(await readAll(layer), contents(model, blockSize)) === 0;
      expect(same, `point ${i}, disk ${disk}`).toBe(true);
    }
    const found: unknown[] = [];
    const run = {
      level: 3,
      found: (p: unknown) => found.push(p),
      progress() {},
      signal: new AbortController().signal,
    } as const;
    await image.verify!(run);
    expect(found).toEqual([]);
  }
}

test('every point of random chains and branches reads as its model', async () => {
  const cases = fc.record<Case>({
    steps: fc.array(step, { minLength: 1, maxLength: 6, size: 'max' }),
    blockLog2: fc.constantFrom(12, 13, 16),
    encrypted: fc.boolean(),
    compression: fc.constantFrom(0, 1),
    keepSize: fc.boolean(),
  });
  await fc.assert(fc.asyncProperty(cases, check), { numRuns: RUNS, interruptAfterTimeLimit: 300_000 });
});
