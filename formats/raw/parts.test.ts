import { crc32 } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { openDiskFile } from '../../src/chain/file.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { pattern } from '../../test/kit/disks.ts';
import { random } from '../../test/kit/random.ts';
import { counted } from '../../test/kit/tampered.ts';
import { raw } from './index.ts';
import { partNameOf } from './parts.ts';
import { RAW_EXTENSIONS } from './probe.ts';

const keys = { secrets: async () => [] };
const PART = 10_000;
const DISK = new Uint8Array(4 * PART + 777);
pattern(DISK, 0, 3);
DISK.set([0x55, 0xaa], 510);

/** The disk cut into parts of one length, under these names. */
const cut = (names: readonly string[], disk = DISK, length = PART): Record<string, Uint8Array> =>
  Object.fromEntries(names.map((name, i) => [name, disk.slice(i * length, (i + 1) * length)]));
const numbered = [1, 2, 3, 4, 5].map(n => `a/image.00${n}`);
const lettered = ['aa', 'ab', 'ac', 'ad', 'ae'].map(letters => `disk.raw.${letters}`);
const without = (files: Record<string, Uint8Array>, name: string): Record<string, Uint8Array> =>
  Object.fromEntries(Object.entries(files).filter(([each]) => each !== name));

describe('a disk that was cut', () => {
  test.each([
    ['numbers', numbered],
    ['letters', lettered],
  ])('by %s: the first part is the disk, the others are none', async (_name, names) => {
    const { store, open } = counted(memoryStore(cut(names)));
    {
      await using repository = await openRepository(store, [raw], keys);
      const points = repository.sets.flatMap(set => set.points);
      expect(points.map(point => [point.file, point.state])).toEqual([[names[0], 'ok']]);
      const disk = await points[0]!.openDisk(0);
      expect(disk.size).toBe(Math.ceil(DISK.length / 512) * 512);
      const { below } = random(1);
      for (let i = 0; i < 300; i++) {
        const at = below(DISK.length);
        const got = new Uint8Array(1 + below(Math.min(3 * PART, DISK.length - at)));
        await disk.read(got, at);
        expect(Buffer.compare(got, DISK.subarray(at, at + got.length)), `${got.length} bytes at ${at}`).toBe(0);
      }
    }
    expect(open()).toBe(0);
  });

  test('one missing in between breaks it, and is named', async () => {
    for (const name of numbered.slice(1, 4)) {
      const { store, open } = counted(memoryStore(without(cut(numbered), name)));
      await expect(raw.open(numbered[0]!, store, keys)).rejects.toMatchObject({
        fault: 'broken-chain',
        message: expect.stringContaining(`${name} is missing`),
        where: { file: name },
      });
      expect(open()).toBe(0);
    }
  });

  test('without its first part it is broken, not a shorter disk', async () => {
    await using repository = await openRepository(memoryStore(without(cut(numbered), numbered[0]!)), [raw], keys);
    const points = repository.sets.flatMap(set => set.points);
    expect(points.length).toBe(4);
    for (const point of points) {
      expect(point.problem).toMatchObject({ fault: 'broken-chain', message: expect.stringContaining('a/image.001') });
    }
  });

  test('a part of another length breaks it', async () => {
    for (const length of [PART - 1, PART + 1, 0]) {
      const files = { ...cut(numbered), 'a/image.003': new Uint8Array(length) };
      await expect(raw.open(numbered[0]!, memoryStore(files), keys)).rejects.toMatchObject({
        fault: 'broken-chain',
        where: { file: 'a/image.003' },
      });
    }
    const longer = { ...cut(numbered), 'a/image.005': new Uint8Array(PART + 1) };
    await expect(raw.open(numbered[0]!, memoryStore(longer), keys)).rejects.toMatchObject({ fault: 'broken-chain' });
  });

  test('a last part that is missing shows where the disk has a GPT', async () => {
    const disk = new Uint8Array(4 * PART);
    const header = Buffer.alloc(92);
    header.write('EFI PART');
    header.writeUInt32LE(92, 12);
    header.writeBigUInt64LE(BigInt(Math.floor(disk.length / 512) - 1), 32);
    header.writeUInt32LE(crc32(header), 16);
    disk.set(header, 512);
    const names = numbered.slice(0, 4);
    await using whole = await raw.open(names[0]!, memoryStore(cut(names, disk)), keys);
    expect(whole.points.length).toBe(1);
    const short = memoryStore(without(cut(names, disk), names[3]!));
    await expect(raw.open(names[0]!, short, keys)).rejects.toMatchObject({
      fault: 'broken-chain',
      message: expect.stringMatching(/image\.004 is missing: the disk has 39936 bytes/),
    });
    // A header that does not hold together proves nothing.
    disk[512 + 40]! ^= 1;
    await using guessed = await raw.open(names[0]!, memoryStore(without(cut(names, disk), names[3]!)), keys);
    expect(guessed.points.length).toBe(1);
  });

  test('holes of the parts are holes of the disk', async () => {
    const store = memoryStore(cut(numbered));
    const sparse = {
      ...store,
      async open(name: string) {
        const source = await store.open(name);
        if (name !== numbered[1]) return source;
        return {
          ...source,
          size: source.size,
          extent: (at: number, limit: number) =>
            ({ kind: at < 4096 ? 'zero' : 'data', length: Math.min(limit, at < 4096 ? 4096 - at : limit) }) as const,
        };
      },
    };
    await using image = await raw.open(numbered[0]!, sparse, keys);
    const layer = image.points[0]!.disks[0]!.layer!;
    expect(layer.locate(0, DISK.length)).toMatchObject({ kind: 'plain', length: PART });
    expect(layer.locate(PART + 96, 9000)).toEqual({ kind: 'zero', length: 4000 });
    expect(layer.locate(PART + 4096, 9000)).toMatchObject({ kind: 'plain', at: PART + 4096, length: PART - 4096 });
  });

  test('numbered snapshots are no parts', async () => {
    const overlay = new Uint8Array(5000);
    overlay.set(Buffer.from('QFI\xfb', 'latin1'));
    const files = { 'vm.001': DISK, 'vm.002': overlay };
    await using image = await raw.open('vm.001', memoryStore(files), keys);
    expect(image.points[0]!.disks[0]!.stored).toBe(DISK.length);
  });

  test('identity follows every part', async () => {
    const identity = async (files: Record<string, Uint8Array>): Promise<string> => {
      await using image = await raw.open(numbered[0]!, memoryStore(files), keys);
      return image.points[0]!.identity;
    };
    const changed = cut(numbered);
    changed['a/image.005']![5]! ^= 1;
    expect(await identity(changed)).not.toBe(await identity(cut(numbered)));
  });

  test('a single file of the series is opened with what lies beside it', async () => {
    await using file = await openDiskFile('disk.raw.aa', memoryStore(cut(lettered)), [raw], keys);
    const got = new Uint8Array(1000);
    await file.disk.read(got, PART - 500);
    expect(Buffer.compare(got, DISK.subarray(PART - 500, PART + 500))).toBe(0);
    await expect(openDiskFile('disk.raw.ab', memoryStore(cut(lettered)), [raw], keys)).rejects.toMatchObject({
      fault: 'not-this-format',
    });
  });

  test('an ending of two letters alone is a file of its own', async () => {
    await using image = await raw.open('disk.raw.zz', memoryStore({ 'disk.raw.zz': DISK }), keys);
    expect(image.points[0]!.disks[0]!.stored).toBe(DISK.length);
  });
});

describe('names of parts', () => {
  test.each([
    ['image.001', 0, 'image.002'],
    ['a.b/image.dd.999', 998, 'a.b/image.dd.1000'],
    ['image.dd.1000', 999, 'image.dd.1001'],
    ['disk.raw.aa', 0, 'disk.raw.ab'],
    ['disk.IMG.az', 25, 'disk.IMG.ba'],
  ])('%s', (name, index, next) => {
    const part = partNameOf(name, RAW_EXTENSIONS);
    expect(part?.index).toBe(index);
    expect(part?.nameOf(index)).toBe(name);
    expect(part?.nameOf(index + 1)).toBe(next);
  });

  test.each([
    'image.000',
    'image.1',
    'image.0001',
    'core.1234',
    'disk.raw.gz',
    'disk.raw.bak',
    'disk.aa',
    '.001',
    'a/.001',
    '001',
    'disk.raw',
  ])('%s is none', name => expect(partNameOf(name, RAW_EXTENSIONS)).toBeNull());

  const binary = new Uint8Array(600).fill(1);
  const signed = binary.slice();
  signed.set([0x55, 0xaa], 510);
  test.each([
    ['image.001', binary, 'no'],
    ['image.001', signed, 'maybe'],
    ['image.dd.001', binary, 'maybe'],
    ['image.002', binary, 'maybe'],
    ['log.002', Buffer.from('text\n'), 'no'],
    ['disk.raw.aa', binary, 'maybe'],
    ['disk.raw.ab', binary, 'no'],
    ['core.1234', binary, 'no'],
  ] as const)('probing %s', (name, head, confidence) => {
    expect(raw.probe(head, head, name)).toBe(confidence);
  });
});
