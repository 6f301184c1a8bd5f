import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Store, VirtualFile } from '../../src/base/contracts.ts';
import { constant, virtualFile, zeroPiece } from '../../src/base/pieces.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { localStore } from '../../src/stores/local.ts';
import { pattern, sparseDisk } from '../../test/kit/disks.ts';
import { virtualStore } from '../../test/kit/format-checks.ts';
import { missing, sevenZipDigest } from '../../test/kit/oracles.ts';
import { type Random, random } from '../../test/kit/random.ts';
import { openStack } from '../../test/kit/reference.ts';
import { sampleMissing, scratch, unpackSample } from '../../test/kit/samples.ts';
import { counted } from '../../test/kit/tampered.ts';
import { type Block, bytesOf, dataGuid, type Fixture, fixture } from './fixtures.ts';
import { vhdx } from './index.ts';
import { MIB } from './structs.ts';

const GIB = 2 ** 30;
const keys = { secrets: async () => [] };

const filled = (length: number, seed: number): Uint8Array<ArrayBuffer> => {
  const content = new Uint8Array(length);
  pattern(content, 0, seed);
  return content;
};

/** The built files, without the zeros between their parts in memory. */
function storeOf(files: Readonly<Record<string, Fixture>>): Store {
  const shown = Object.entries(files).map(([name, { size, parts }]): VirtualFile => {
    let end = 0;
    const pieces = parts.flatMap(({ at, raw }) => {
      const gap = zeroPiece(at - end);
      end = at + raw.length;
      return [gap, constant(raw)];
    });
    return virtualFile(name, [...pieces, zeroPiece(size - end)]);
  });
  return virtualStore(shown, sparseDisk(512, 0, []), '');
}

interface Level {
  readonly blockSize: number;
  readonly sectorSize: number;
  readonly size: number;
}

/** A random image over `below`, and the content that both make together. */
function level(spec: Level, number: number, below: Uint8Array | null, { below: upTo, pick }: Random) {
  const { blockSize, sectorSize, size } = spec;
  const want = new Uint8Array(size);
  if (below !== null) want.set(below.subarray(0, size));
  const blocks: Record<number, Block> = {};
  for (let block = 0; block * blockSize < size; block++) {
    const at = block * blockSize;
    const end = Math.min(size, at + blockSize);
    const state = pick(below === null ? [0, 2, 6, 6] : [0, 1, 2, 3, 6, 7, 7, 7]);
    if (state >= 1 && state <= 3) want.fill(0, at, end);
    if (state < 6) {
      blocks[block] = { state };
      continue;
    }
    const data = filled(blockSize, number * 1000 + block);
    if (state === 6) {
      want.set(data.subarray(0, end - at), at);
      blocks[block] = { state, data };
      continue;
    }
    // Long runs and short ones, so that whole bytes of the bitmap are equal here and mixed there.
    const bits: boolean[] = [];
    while (bits.length < blockSize / sectorSize) {
      const bit = upTo(2) === 0;
      for (let run = 1 + upTo(pick([3, 40, 400])); run > 0; run--) bits.push(bit);
    }
    bits.length = blockSize / sectorSize;
    for (const [i, bit] of bits.entries()) {
      const from = i * sectorSize;
      if (bit && at + from < end) want.set(data.subarray(from, Math.min(from + sectorSize, end - at)), at + from);
    }
    blocks[block] = { state, data, bits };
  }
  const parent = [
    ['parent_linkage', `{${dataGuid(`level ${number - 1}`)}}`],
    ['relative_path', `.\\level-${number - 1}.vhdx`],
  ] as const;
  const built = fixture({ ...spec, name: `level ${number}`, blocks, ...(below === null ? {} : { parent }) });
  return { want, built };
}

function chain(levels: readonly Level[], seed: number) {
  const numbers = random(seed);
  const files: Record<string, Fixture> = {};
  let want: Uint8Array | null = null;
  for (const [number, spec] of levels.entries()) {
    const made = level(spec, number, want, numbers);
    want = made.want;
    files[`level-${number}.vhdx`] = made.built;
  }
  return { files, want: want!, tip: `level-${levels.length - 1}.vhdx` };
}

const SHAPES: readonly (readonly [string, readonly Level[]])[] = [
  ['two levels, sectors of 512', [1, 1].map(mib => ({ blockSize: mib * MIB, sectorSize: 512, size: 9 * MIB }))],
  ['sectors of 4096', [1, 1].map(mib => ({ blockSize: mib * MIB, sectorSize: 4096, size: 9 * MIB }))],
  ['blocks of 2, 1 and 4 MiB', [2, 1, 4].map(mib => ({ blockSize: mib * MIB, sectorSize: 512, size: 10 * MIB }))],
  ['the end within a block', [2, 2].map(mib => ({ blockSize: mib * MIB, sectorSize: 512, size: 5 * MIB + 4096 }))],
  ['a child larger than its parent', [3, 9].map(mib => ({ blockSize: MIB, sectorSize: 512, size: mib * MIB }))],
];

describe('random chains', () => {
  for (const [i, [title, levels]] of SHAPES.entries()) {
    const { files, want, tip } = chain(levels, 60 + i);

    test(`${title}: as the model says`, async () => {
      await using stack = await openStack({ adapter: vhdx, store: storeOf(files), name: tip, keys });
      expect(stack.image.warnings).toEqual([]);
      const got = new Uint8Array(stack.size);
      await stack.read(got, 0);
      expect(Buffer.compare(got, want)).toBe(0);
      const { below } = random(9);
      for (let n = 0; n < 200; n++) {
        const at = below(want.length);
        const part = new Uint8Array(1 + below(Math.min(want.length - at, 20_000)));
        await stack.read(part, at);
        expect(Buffer.compare(part, want.subarray(at, at + part.length))).toBe(0);
      }
    });

    // Parent and child of different sizes are beyond it.
    const sameSize = levels.every(({ size }) => size === levels[0]!.size);
    test.skipIf(missing(['7zz']) !== null || !sameSize)(`${title}: as 7-Zip reads it`, async () => {
      const folder = scratch();
      try {
        for (const [name, built] of Object.entries(files)) fs.writeFileSync(path.join(folder, name), bytesOf(built));
        const digest = createHash('sha256').update(want).digest('hex');
        expect(await sevenZipDigest(path.join(folder, tip), 'vhdx')).toBe(digest);
      } finally {
        fs.rmSync(folder, { recursive: true });
      }
    });
  }
});

describe('bitmaps', () => {
  const linkage = [['parent_linkage', `{${dataGuid('base')}}`]] as const;
  const baseOf = (size: number, sectorSize: number) =>
    fixture({
      name: 'base',
      size,
      sectorSize,
      blockSize: 256 * MIB,
      blocks: { 0: { state: 6, data: filled(MIB, 1) } },
    });

  test('of blocks far into the disk, in the bitmap of their own chunk', async () => {
    for (const sectorSize of [512, 4096]) {
      // Chunks are 2^23 sectors long.
      const chunk = 2 ** 23 * sectorSize;
      const size = 3 * chunk;
      const blockSize = 32 * MIB;
      const places = [0, chunk - blockSize, chunk, 2 * chunk + 5 * blockSize];
      const bits = (i: number) => Array.from({ length: blockSize / sectorSize }, (_, sector) => sector === i + 1);
      const blocks = Object.fromEntries(
        places.map((at, i) => [at / blockSize, { state: 7, data: filled(8 * sectorSize, 10 + i), bits: bits(i) }]),
      );
      const child = fixture({ name: 'child', size, blockSize, sectorSize, blocks, parent: linkage });
      const store = storeOf({ 'base.vhdx': baseOf(size, sectorSize), 'child.vhdx': child });
      await using stack = await openStack({ adapter: vhdx, store, name: 'child.vhdx', keys });
      for (const [i, at] of places.entries()) {
        const got = new Uint8Array(8 * sectorSize);
        await stack.read(got, at);
        const want = at === 0 ? filled(MIB, 1).subarray(0, got.length) : new Uint8Array(got.length);
        const own = filled(8 * sectorSize, 10 + i).subarray((i + 1) * sectorSize, (i + 2) * sectorSize);
        want.set(own, (i + 1) * sectorSize);
        expect(Buffer.compare(got, want)).toBe(0);
      }
    }
  });

  test('of blocks of 256 MiB are read in parts', async () => {
    const size = GIB;
    const blockSize = 256 * MIB;
    const data = filled(200 * MIB, 5);
    const bits = Array.from({ length: blockSize / 512 }, (_, i) => i === 131_071 || i === 131_072 || i === 400_000);
    const child = fixture({ name: 'child', size, blockSize, blocks: { 1: { state: 7, data, bits } }, parent: linkage });
    const { store, reads } = counted(storeOf({ 'base.vhdx': baseOf(size, 512), 'child.vhdx': child }));
    await using image = await vhdx.open('child.vhdx', store, keys);
    const before = reads();
    const layer = image.points[0]!.disks[0]!.layer!;
    const at = blockSize + 131_071 * 512;
    await layer.load(at, MIB);
    expect(layer.locate(at - 512, 512)).toMatchObject({ kind: 'absent', length: 512 });
    // As far as the part tells; the next one goes on.
    expect(layer.locate(at, MIB)).toMatchObject({ kind: 'plain', length: 512 });
    expect(layer.locate(at + 512, MIB)).toBeNull();
    await layer.load(at + 512, MIB);
    expect(layer.locate(at + 512, MIB)).toMatchObject({ kind: 'plain', length: 512 });
    expect(layer.locate(at + 1024, MIB)).toMatchObject({ kind: 'absent', length: MIB });
    // One part of the table, two of the bitmap.
    expect(reads() - before).toBe(3);
  });
});

const AVHDX = 'vhdx/dissect/differencing.avhdx.gz';
test.skipIf(sampleMissing(AVHDX) !== null)('a checkpoint of Hyper-V without its parent is a broken chain', async () => {
  const folder = scratch();
  try {
    const name = unpackSample(AVHDX, folder);
    await using repository = await openRepository(localStore(folder), [vhdx], keys);
    const point = repository.sets[0]!.points[0]!;
    expect(point).toMatchObject({ state: 'broken', type: 'incremental', problem: { fault: 'broken-chain' } });
    expect(point.problem!.message).toContain('vhdx:ff34003b-11ed-4cf8-a166-b2be05e20b80');
    expect(point.problem!.message).toContain('Generation 1_49C4BAF3-4B25-4406-8C4B-D39E65C32385.avhdx');
    expect(repository.warnings).toEqual([]);
    await expect(point.openDisk(0)).rejects.toMatchObject({ fault: 'broken-chain' });

    await using image = await vhdx.open(name, localStore(folder), keys);
    const { layer, size } = image.points[0]!.disks[0]!;
    expect(size).toBe(8 * GIB);
    const kinds = new Set<string>();
    for (let at = 0; at < size; ) {
      await layer!.load(at, size - at);
      const found = layer!.locate(at, size - at)!;
      kinds.add(found.kind);
      at += found.length;
    }
    expect(kinds).toEqual(new Set(['absent', 'plain']));
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
});

test('a chain of three in a repository: every point shows its own state', async () => {
  const { files, want, tip } = chain(
    [1, 2, 1].map(mib => ({ blockSize: mib * MIB, sectorSize: 512, size: 6 * MIB })),
    70,
  );
  await using repository = await openRepository(storeOf(files), [vhdx], keys);
  const [set] = repository.sets;
  expect(repository.sets.length).toBe(1);
  expect(set!.points.map(({ file, type, parent }) => [file, type, parent])).toEqual([
    ['level-0.vhdx', 'full', null],
    ['level-1.vhdx', 'incremental', 'level-0'],
    ['level-2.vhdx', 'incremental', 'level-1'],
  ]);
  await using disk = await set!.points.find(({ file }) => file === tip)!.openDisk(0);
  const got = new Uint8Array(disk.size);
  await disk.read(got, 0);
  expect(Buffer.compare(got, want)).toBe(0);
});
