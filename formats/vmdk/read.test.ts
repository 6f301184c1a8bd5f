import fs from 'node:fs';
import { describe, expect, test } from 'vitest';
import type { Problem, Store } from '../../src/base/contracts.ts';
import { viewOf } from '../../src/base/struct.ts';
import { localStore } from '../../src/stores/local.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { memoryDisk, pattern } from '../../test/kit/disks.ts';
import { missing } from '../../test/kit/oracles.ts';
import { openStack } from '../../test/kit/reference.ts';
import { sampleMissing, scratch, unpackSample } from '../../test/kit/samples.ts';
import { counted } from '../../test/kit/tampered.ts';
import { cowd, descriptor, type Grain, hosted, seSparse, seSparseEntry } from './fixtures.ts';
import { vmdk, writeVmdk } from './index.ts';
import { planFor } from './layout.ts';
import { FLAG } from './structs.ts';

const GRAIN = 4096;
const keys = { secrets: async () => [] };

const filled = (length: number, seed: number): Uint8Array<ArrayBuffer> => {
  const content = new Uint8Array(length);
  pattern(content, 0, seed);
  return content;
};
const grain = (seed: number): Uint8Array => filled(GRAIN, seed);
const zeros = (length = GRAIN): Uint8Array => new Uint8Array(length);

async function contentOf(store: Store, name: string): Promise<Uint8Array> {
  await using stack = await openStack({ adapter: vmdk, store, name, keys });
  const out = new Uint8Array(stack.size);
  await stack.read(out, 0);
  return out;
}

const joined = (...parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));
const same = (a: Uint8Array, b: Uint8Array): void => expect(Buffer.compare(a, b)).toBe(0);
const sparse = (grains: readonly Grain[], spec = {}): Uint8Array => hosted({ grains, grainSize: GRAIN, ...spec });
const single = (grains: readonly Grain[], keysOf = {}, spec = {}): Uint8Array => {
  const text = descriptor([`RW ${grains.length * 8} SPARSE "x.vmdk"`], { createType: '"monolithicSparse"', ...keysOf });
  return sparse(grains, { text, ...spec });
};
const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);
const pointOf = async (store: Store, name: string) => {
  await using image = await vmdk.open(name, store, keys);
  return { image, point: image.points[0]! };
};

describe('hosted extents', () => {
  const grains = [grain(1), null, 'zero', grain(2), null] as const;
  const content = joined(grain(1), zeros(), zeros(), grain(2), zeros());

  test.each([
    ['plain', {}],
    ['small tables', { perTable: 2 }],
    ['stream-optimized with a footer', { stream: true }],
    ['stream-optimized, small tables', { stream: true, perTable: 3 }],
  ])('%s', async (_title, spec) => {
    const store = memoryStore({ 'a.vmdk': single(grains, {}, spec) });
    same(await contentOf(store, 'a.vmdk'), content);
    const { image } = await pointOf(store, 'a.vmdk');
    expect(image.warnings).toEqual([]);
  });

  test('a capacity that is no multiple of the grain', async () => {
    const text = descriptor(['RW 35 SPARSE "x.vmdk"']);
    for (const [stream, shortEnd] of [
      [false, false],
      [true, false],
      [true, true],
    ]) {
      const file = sparse(
        grains.map(each => each ?? grain(9)),
        { text, capacity: 35, stream, shortEnd },
      );
      const store = memoryStore({ 'a.vmdk': file });
      const got = await contentOf(store, 'a.vmdk');
      expect(got.length).toBe(35 * 512);
      same(got.subarray(4 * GRAIN), grain(9).subarray(0, 3 * 512));
    }
  });

  test('an unpacked grain past the end of the disk is zeros', async () => {
    const text = descriptor(['RW 3 SPARSE "x.vmdk"']);
    const store = memoryStore({ 'a.vmdk': sparse([grain(1)], { text, capacity: 3, stream: true }) });
    await using stack = await openStack({ adapter: vmdk, store, name: 'a.vmdk', keys });
    const unit = new Uint8Array(GRAIN).fill(0xcc);
    await stack.layers[0]!.load(0, 512);
    await stack.layers[0]!.unpack(0, unit);
    same(unit, joined(grain(1).subarray(0, 1536), zeros(GRAIN - 1536)));
  });

  test.each([
    ['version', { version: 4 }, 'unsupported', 'version 4'],
    ['flags', { flags: 1 + 8 + 0x4_0000 }, 'unsupported', 'flags 0x40008'],
    ['newLines', { newLines: Uint8Array.of(10, 32, 10, 10) }, 'corrupt', 'text mode'],
    ['compressAlgorithm', { compressAlgorithm: 2 }, 'unsupported', 'compression 2'],
    ['flags', { compressAlgorithm: 1 }, 'unsupported', 'without their flag'],
    ['grainSize', { grainSize: 9 }, 'unsupported', 'grain of 9 sectors'],
    ['grainSize', { grainSize: 65_536 }, 'unsupported', 'grain of 65536 sectors'],
    ['numGTEsPerGT', { numGTEsPerGT: 0 }, 'unsupported', '0 entries'],
    ['capacity', { capacity: 0 }, 'corrupt', '0 sectors'],
    ['gdOffset', { gdOffset: 0n }, 'corrupt', 'does not fit'],
    ['gdOffset', { gdOffset: 2n ** 60n }, 'corrupt', 'does not fit'],
    ['gdOffset', { gdOffset: 0xffff_ffff_ffff_ffffn }, 'corrupt', 'cut off'],
    ['descriptorOffset', { descriptorOffset: 1000 }, 'corrupt', 'outside the file'],
  ] as const)('a bad %s is refused by name: %o', async (field, fields, fault, message) => {
    const store = memoryStore({ 'a.vmdk': single([grain(1)], {}, { fields }) });
    const { store: watched, open } = counted(store);
    await expect(vmdk.open('a.vmdk', watched, keys)).rejects.toMatchObject({
      fault,
      message: expect.stringContaining(message),
      where: { file: 'a.vmdk', field },
    });
    expect(open()).toBe(0);
  });

  test('a disk that was not closed is read with a warning', async () => {
    const store = memoryStore({ 'a.vmdk': single([grain(1)], {}, { fields: { uncleanShutdown: 1 } }) });
    const { image } = await pointOf(store, 'a.vmdk');
    expect(image.warnings).toEqual([expect.stringContaining('not closed cleanly')]);
  });

  test('a zeroed grain without the flag for it is an error, not data', async () => {
    const file = single(['zero', grain(2)], {}, { fields: { flags: FLAG.newLineTest } });
    await expect(contentOf(memoryStore({ 'a.vmdk': file }), 'a.vmdk')).rejects.toMatchObject({ fault: 'corrupt' });
  });
});

describe('damage', () => {
  const plain = single([grain(1), grain(2), null]);
  const stream = single([grain(1), grain(2), null], {}, { stream: true });
  const gdAt = (file: Uint8Array): number => Number(viewOf(file).getBigUint64(56, true)) * 512;
  const gtAt = (file: Uint8Array): number => viewOf(file).getUint32(gdAt(file), true) * 512;

  test('a grain beyond the end of the file', async () => {
    const file = plain.slice();
    viewOf(file).setUint32(gtAt(file) + 4, 0x7fff_ffff, true);
    await expect(contentOf(memoryStore({ 'a.vmdk': file }), 'a.vmdk')).rejects.toMatchObject({
      fault: 'corrupt',
      message: expect.stringContaining('grain 1'),
      where: { file: 'a.vmdk', at: gtAt(file) + 4 },
    });
  });

  test('a table beyond the end of the file', async () => {
    const file = plain.slice();
    viewOf(file).setUint32(gdAt(file), 0x7fff_ffff, true);
    await expect(contentOf(memoryStore({ 'a.vmdk': file }), 'a.vmdk')).rejects.toMatchObject({
      fault: 'corrupt',
      message: expect.stringContaining('grain table 0'),
      where: { file: 'a.vmdk', at: gdAt(file) },
    });
  });

  const firstGrain = 22 * 512;
  test.each([
    [
      'the marker of another grain',
      (view: DataView) => view.setUint32(firstGrain, 8, true),
      'says it is that of sector 8',
    ],
    ['a grain of no length', (view: DataView) => view.setUint32(firstGrain + 8, 0, true), '0 bytes cannot be'],
    [
      'a grain that is too long',
      (view: DataView) => view.setUint32(firstGrain + 8, 8193, true),
      '8193 bytes cannot be',
    ],
    [
      'a changed byte',
      (view: DataView) => view.setUint8(firstGrain + 40, view.getUint8(firstGrain + 40) ^ 1),
      'does not decompress',
    ],
  ])('packed: %s', async (_title, damage, message) => {
    const file = stream.slice();
    damage(viewOf(file));
    const expected = { fault: 'corrupt', message: expect.stringContaining(message), where: { at: firstGrain } };
    await expect(contentOf(memoryStore({ 'a.vmdk': file }), 'a.vmdk')).rejects.toMatchObject(expected);
    const found = await problemsOf(file, 3);
    expect(
      found.some(({ message: text, offset, block }) => text.includes(message) && offset === firstGrain && block === 0),
    ).toBe(true);
    expect(await problemsOf(file, 2)).toEqual([]);
  });

  async function problemsOf(file: Uint8Array, level: 1 | 2 | 3): Promise<readonly Problem[]> {
    const found: Problem[] = [];
    await using image = await vmdk.open('a.vmdk', memoryStore({ 'a.vmdk': file }), keys);
    const signal = new AbortController().signal;
    await image.verify!({ level, signal, progress() {}, found: problem => found.push(problem) });
    return found;
  }

  test('verify compares the tables with their redundant copies', async () => {
    const written = memoryStore();
    await using file = await written.create('a.vmdk');
    await writeVmdk(memoryDisk(filled(200_000, 1)), file);
    const bytes = written.bytes('a.vmdk');
    expect(await problemsOf(bytes, 3)).toEqual([]);
    const redundantAt = planFor(200_192)!.redundantTablesAt;
    bytes[redundantAt]! ^= 1;
    expect(await problemsOf(bytes, 1)).toMatchObject([
      { message: expect.stringContaining('redundant copy'), offset: redundantAt },
    ]);
  });

  const samples = ['dfvfs/ext2.vmdk', 'dissect/sesparse.vmdk.gz', 'qemu-samples/iotest-version3.vmdk.bz2'].map(
    name => `vmdk/${name}`,
  );
  test.for(samples)('verify finds nothing in %s', async (sample, { skip }) => {
    const reason = sampleMissing(sample) ?? (sample.endsWith('.bz2') ? missing(['bzip2']) : null);
    if (reason !== null) skip(reason);
    const folder = scratch();
    try {
      await using image = await vmdk.open(unpackSample(sample, folder), localStore(folder), keys);
      const found: Problem[] = [];
      const signal = new AbortController().signal;
      const { checked } = await image.verify!({ level: 3, signal, progress() {}, found: each => found.push(each) });
      expect(found).toEqual([]);
      expect(checked).toBeGreaterThan(10);
    } finally {
      fs.rmSync(folder, { recursive: true });
    }
  });

  test('verify finds nothing in sound images', async () => {
    for (const file of [plain, stream]) expect(await problemsOf(file, 3)).toEqual([]);
  });

  test('verify finds entries that leave the file, lie in metadata or are used twice', async () => {
    const file = plain.slice();
    const view = viewOf(file);
    const at = gtAt(file);
    const first = view.getUint32(at, true);
    for (const [entry, message] of [
      [0x7fff_ffff, 'leaves the file'],
      [first, 'holds another one too'],
      [gdAt(file) / 512 - 7, 'in metadata'],
    ] as const) {
      view.setUint32(at + 4, entry, true);
      const found = await problemsOf(file, 1);
      expect(found).toEqual([
        {
          fault: 'corrupt',
          message: expect.stringContaining(message),
          file: 'a.vmdk',
          offset: at + 4,
          disk: 'disk0',
          block: 1,
        },
      ]);
    }
    view.setUint32(gdAt(file), 0x7fff_ffff, true);
    expect(await problemsOf(file, 1)).toMatchObject([
      { message: expect.stringContaining('grain table 0'), offset: gdAt(file) },
    ]);
  });
});

describe('extents of ESXi', () => {
  test('COWD, over a parent', async () => {
    const base = filled(5 * GRAIN, 3);
    const text = descriptor([`RW 40 VMFSSPARSE "x-000001-delta.vmdk"`], {
      createType: '"vmfsSparse"',
      CID: '2',
      parentCID: '1',
      parentFileNameHint: '"x.vmdk"',
    });
    const store = memoryStore({
      'x.vmdk': bytesOf(descriptor(['RW 40 VMFS "x-flat.vmdk"'], { CID: '1', createType: '"vmfs"' })),
      'x-flat.vmdk': base,
      'x-000001.vmdk': bytesOf(text),
      'x-000001-delta.vmdk': cowd([null, grain(7), null, grain(8), null], 8),
    });
    const want = joined(
      base.subarray(0, GRAIN),
      grain(7),
      base.subarray(2 * GRAIN, 3 * GRAIN),
      grain(8),
      base.subarray(4 * GRAIN),
    );
    same(await contentOf(store, 'x-000001.vmdk'), want);
    for (const part of ['x-flat.vmdk', 'x-000001-delta.vmdk'])
      expect((await pointOf(store, part)).image.points).toEqual([]);
  });

  const entries = [0n, seSparseEntry(1), 1n << 60n, 2n << 60n, seSparseEntry(0)];
  test('seSparse: all states of a grain, numbers of grains beyond 4096', async () => {
    const want = joined(zeros(), grain(2), zeros(), zeros(), grain(1));
    same(await contentOf(memoryStore({ 'a.vmdk': seSparse(entries, [grain(1), grain(2)]) }), 'a.vmdk'), want);
    const data = Array.from({ length: 4100 }, (_, i) => (i === 4099 ? grain(5) : zeros()));
    same(await contentOf(memoryStore({ 'a.vmdk': seSparse([seSparseEntry(4099)], data) }), 'a.vmdk'), grain(5));
  });

  test('seSparse over a parent: unmapped and zeroed grains hide it, others do not', async () => {
    const text = descriptor(['RW 40 SESPARSE "a-sesparse.vmdk"'], {
      createType: '"seSparse"',
      parentCID: '1',
      parentFileNameHint: '"base.vmdk"',
    });
    const store = memoryStore({
      'a.vmdk': bytesOf(text),
      'a-sesparse.vmdk': seSparse(entries, [grain(1), grain(2)]),
      'base.vmdk': single([grain(3), grain(3), grain(3), grain(3), grain(3)], { CID: '00000001' }),
    });
    same(await contentOf(store, 'a.vmdk'), joined(grain(3), grain(2), zeros(), zeros(), grain(1)));
  });

  test.each([
    ['flags', { flags: 4n }, 'unsupported', 'flags 0x4'],
    ['replayJournal', { replayJournal: 1n }, 'unsupported', 'journal'],
  ] as const)('seSparse: %s is refused', async (field, fields, fault, message) => {
    const store = memoryStore({ 'a.vmdk': seSparse(entries, [grain(1), grain(2)], fields) });
    await expect(vmdk.open('a.vmdk', store, keys)).rejects.toMatchObject({
      fault,
      message: expect.stringContaining(message),
      where: { field },
    });
  });

  test.each([[5n], [4n << 60n], [(3n << 60n) | 99n]])('seSparse: entry %d is an error when it is read', async entry => {
    const store = memoryStore({ 'a.vmdk': seSparse([entry], [grain(1)]) });
    await expect(contentOf(store, 'a.vmdk')).rejects.toMatchObject({ fault: 'corrupt' });
  });

  test('seSparse: a directory entry of an unknown kind is an error when it is read', async () => {
    const store = memoryStore({ 'a.vmdk': seSparse(entries, [grain(1), grain(2)], { directory: 2n << 60n }) });
    await expect(contentOf(store, 'a.vmdk')).rejects.toMatchObject({ fault: 'corrupt' });
  });
});
