/** Random layers, branches, resizes, reopenings and consolidations against a plain map of blocks. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Image, LayerCipher } from '../../src/base/contracts.ts';
import { luksHeader, unlockLuks } from '../../src/base/luks/index.ts';
import { type MemoryStore, memoryStore } from '../../src/stores/memory.ts';
import { consolidateBml, dropBml } from './consolidate.ts';
import {
  type BlockState,
  keyring,
  layerOf,
  openLayer,
  pattern,
  readAll,
  SECRET,
  type Write,
  writeLayer,
} from './kit.ts';
import { openLuksImage } from './luks-image.ts';

/**
 * BML_MODEL_RUNS=N tries N random chains of up to 50 points, BOOTMOUNT_LONG=1 a thousand: 25 from each seed, counted from
 * BML_MODEL_SEED on (1), so that a run can be divided and go on.
 */
const LONG = process.env.BML_MODEL_RUNS !== undefined || process.env.BOOTMOUNT_LONG === '1';
const RUNS = Number(process.env.BML_MODEL_RUNS ?? (LONG ? 1000 : 30));
const PER_SEED = LONG ? 25 : RUNS;
const FIRST_SEED = Number(process.env.BML_MODEL_SEED ?? 1);
const SEEDS = Array.from({ length: Math.ceil(RUNS / PER_SEED) }, (_, i) => FIRST_SEED + i);
const DEPTH = LONG ? 50 : 6;
/** Bytes that a step writes at most, but for two blocks. */
const PER_STEP = 2 ** 22;

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
      fc.nat(5 * 2 ** 20),
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
  readonly cipher: 'none' | LayerCipher;
  readonly compression: number;
  readonly keepSize: boolean;
  readonly removals: readonly number[];
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

async function check({ steps, blockLog2, cipher, compression, keepSize, removals }: Case): Promise<void> {
  const store = memoryStore();
  const secret = cipher === 'none' ? null : SECRET;
  const encryption = cipher === 'none' ? { secret } : { secret, cipher };
  const blockSize = 2 ** blockLog2;
  const points: Model[][] = [];
  const parents: number[] = [];
  const images: Image[] = [];
  for (const [i, one] of steps.entries()) {
    const parent = i === 0 ? -1 : one.parent % (i + 1) === i ? i - 1 : one.parent % i;
    parents.push(parent);
    const wanted = keepSize ? steps[0]!.sizes : one.sizes;
    const sizes = cipher === 'aes-256-xts' ? wanted.map(size => size - (size % 512)) : wanted;
    const most = Math.max(2, Math.floor(PER_STEP / blockSize));
    const writes = one.writes.slice(0, most).flatMap(({ disk, at, what }, n): Write[] => {
      const on = disk % sizes.length;
      const count = Math.ceil(sizes[on]! / blockSize);
      if (count === 0) return [];
      const state: BlockState = what < 30 ? 'zero' : what < 60 ? 'absent' : pattern(blockSize, i * 1000 + n + what);
      return [[on, at % count, state]];
    });
    const empty = sizes.map(size => ({ size, blocks: new Map() }));
    points.push(apply(empty, points[parent] ?? [], writes, blockSize));
    const spec = { sizes, blockSize, parent: images[parent] ?? null, ...encryption, compression, openNodes: 3 };
    await writeLayer(store, `${i}.bml`, spec, writes);
    images.push(await openLayer(store, `${i}.bml`, secret));
  }
  for (const image of images) await image[Symbol.asyncDispose]();
  const all = new Map(points.entries());
  await expectPoints(store, all, secret, blockSize);
  if (await thin(store, parents, removals)) await expectPoints(store, all, secret, blockSize);
}

/** Removes points, one after another, as retention would; what something else needs is refused. True: some are gone. */
async function thin(store: MemoryStore, parents: readonly number[], removals: readonly number[]): Promise<boolean> {
  const under = new Map(parents.entries());
  const before = under.size;
  const file = (point: number): string => `${point}.bml`;
  for (const removal of removals) {
    const there = [...under.keys()];
    const point = there[removal % there.length]!;
    const children = there.filter(other => under.get(other) === point);
    const spec = { signal: new AbortController().signal, progress() {} };
    if (children.length === 0) await dropBml(store, file(point));
    else {
      const merging = consolidateBml(store, { ...spec, files: [file(point), file(children[0]!)] });
      if (children.length > 1) {
        await expect(merging).rejects.toMatchObject({ fault: 'usage' });
        continue;
      }
      await merging;
      under.set(children[0]!, under.get(point)!);
    }
    under.delete(point);
    if (under.size === 0) break;
  }
  return under.size < before;
}

/** Every file of the store is a sound point that reads as its model. */
async function expectPoints(
  store: MemoryStore,
  points: ReadonlyMap<number, readonly Model[]>,
  secret: Uint8Array | null,
  blockSize: number,
): Promise<void> {
  for await (const { name } of store.list()) {
    const i = Number.parseInt(name, 10);
    await using image = await openLayer(store, name, secret);
    for (const [disk, model] of points.get(i)!.entries()) {
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
    if (image.cipher === 'aes-256-xts') await expectLuks(store, name, contents(points.get(i)![0]!, blockSize));
  }
}

/** The point's first disk, made a LUKS image without the key, opens with it and reads as the model. */
async function expectLuks(store: MemoryStore, file: string, content: Uint8Array): Promise<void> {
  await using disk = await openLuksImage(store, { file, time: null, disk: 'disk0' });
  const source = { name: file, size: disk.size, read: disk.read };
  const header = (await luksHeader(source))!;
  const cipher = await unlockLuks(source, header, keyring(SECRET));
  const payload = new Uint8Array(disk.size - header.payloadAt);
  await disk.read(payload, header.payloadAt);
  cipher.decipher(payload, 0);
  expect(Buffer.compare(payload, content), `${file} as LUKS`).toBe(0);
}

const NAME =
  'every point of random chains and branches reads as its model, before and after others are consolidated into it';

test.each(SEEDS)(`${NAME} (seed %i)`, { timeout: 60_000 + PER_SEED * (LONG ? 60_000 : 2000) }, async seed => {
  const cases = fc.record<Case>({
    steps: fc.array(step, { minLength: 1, maxLength: DEPTH, size: 'max' }),
    blockLog2: LONG ? fc.integer({ min: 12, max: 22 }) : fc.constantFrom(12, 13, 16, 20),
    cipher: fc.constantFrom('none', 'aes-256-gcm', 'aes-256-xts'),
    compression: fc.constantFrom(0, 1),
    keepSize: fc.boolean(),
    removals: fc.array(fc.nat(100), { maxLength: 5 }),
  });
  let deepest = 0;
  let points = 0;
  const counted = async (one: Case): Promise<void> => {
    deepest = Math.max(deepest, one.steps.length);
    points += one.steps.length;
    await check(one);
  };
  const numRuns = Math.min(PER_SEED, RUNS - (seed - FIRST_SEED) * PER_SEED);
  await fc.assert(fc.asyncProperty(cases, counted), LONG ? { numRuns, seed } : { numRuns });
  if (LONG) process.stdout.write(`seed ${seed}: ${numRuns} chains, ${points} points, up to ${deepest} in one\n`);
});
