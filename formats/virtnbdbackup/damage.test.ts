import { describe, expect, test } from 'vitest';
import { adler32 } from '../../src/base/checksum.ts';
import type { Problem } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { decodeFrame, lz4Block } from '../../src/base/packing/lz4.ts';
import { xxhash, xxhash32 } from '../../src/base/packing/xxhash32.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { missing } from '../../test/kit/oracles.ts';
import { openStack } from '../../test/kit/reference.ts';
import { content, lz4Frame, sizedFrame, stream } from './fixtures.ts';
import { virtnbdbackup } from './index.ts';

const keys = { secrets: async () => [] };
const NAME = 'sda.full.data';
const SIZE = 400_384;
const DATA = content(100_352, 1);
const RANGES = [
  { start: 0, data: DATA },
  { start: 100_352, data: 200_192 },
  { start: 300_544, data: content(SIZE - 300_544, 2) },
];
const DISK = new Uint8Array(SIZE);
for (const { start, data } of RANGES) if (typeof data !== 'number') DISK.set(data, start);
const sound = (change = {}): Buffer => stream({ size: SIZE, checkpoint: 'c.0', ranges: RANGES, change });

async function findings(files: Record<string, Uint8Array>, level: 1 | 2 | 3 = 3): Promise<readonly Problem[]> {
  await using image = await virtnbdbackup.open(NAME, memoryStore(files), keys);
  const found: Problem[] = [];
  const signal = new AbortController().signal;
  await image.verify!({ level, found: problem => found.push(problem), progress() {}, signal });
  return found;
}

/** Sectors that read right; every other one must be an error. */
async function goodSectors(file: Uint8Array): Promise<number> {
  await using stack = await openStack({
    adapter: virtnbdbackup,
    store: memoryStore({ [NAME]: file }),
    name: NAME,
    keys,
  });
  let good = 0;
  for (let at = 0; at < SIZE; at += 512) {
    const part = new Uint8Array(512);
    try {
      await stack.read(part, at);
      expect(Buffer.compare(part, DISK.subarray(at, at + 512))).toBe(0);
      good++;
    } catch (error) {
      expect(error).toMatchObject({ fault: 'corrupt' });
    }
  }
  return good;
}

test('a sound stream', async () => {
  expect(await goodSectors(sound())).toBe(SIZE / 512);
  expect(await findings({ [NAME]: sound() })).toEqual([]);
});

test('the checksum beside the file', async () => {
  const file = sound();
  const noted = (text: string) => ({ [NAME]: file, [`${NAME}.chksum`]: Buffer.from(text) });
  expect(await findings(noted(`${adler32(file)}`), 1)).toEqual([]);
  // What some versions of the product write.
  expect(await findings(noted('{checksum}'), 1)).toEqual([]);
  file[file.length - 60]! ^= 1;
  expect(await findings(noted(`${adler32(sound())}`), 1)).toEqual([
    expect.objectContaining({ fault: 'corrupt', file: NAME }),
  ]);
});

test('a file that was cut off is read as far as it goes', async () => {
  const file = sound();
  const second = file.indexOf('zero ');
  for (const [end, good] of [
    [second, 196],
    [second + 39, 196],
    [second + 40, 196 + 391],
    [file.length - 40, SIZE / 512],
    [second - 1000, 194],
  ] as const) {
    expect(await goodSectors(file.subarray(0, end))).toBe(good);
    expect(await findings({ [NAME]: file.subarray(0, end) })).toHaveLength(1);
  }
});

test.each([
  ['a frame of another kind', (f: Buffer) => f.write('meta', f.indexOf('zero '))],
  ['an odd digit', (f: Buffer) => f.write('g', f.indexOf('zero ') + 10)],
  ['upper case', (f: Buffer) => f.write('A', f.indexOf('zero ') + 10)],
  ['a range beyond the disk', (f: Buffer) => f.write('7', f.indexOf('zero ') + 26)],
  ['an offset beyond 2^53', (f: Buffer) => f.write('7', f.indexOf('zero ') + 5)],
])('%s: what is behind it is not guessed', async (_, change) => {
  const file = sound();
  const at = file.indexOf('zero ');
  change(file);
  expect(await goodSectors(file)).toBe(196);
  expect(await findings({ [NAME]: file })).toEqual([expect.objectContaining({ fault: 'corrupt', offset: at })]);
});

test('ranges that overlap are refused', async () => {
  const ranges = [...RANGES, { start: 512, data: content(512, 3) }];
  const file = stream({ size: SIZE, checkpoint: 'c.0', ranges });
  expect(await findings({ [NAME]: file })).toEqual([
    expect.objectContaining({ message: 'two frames cover the disk at 512' }),
  ]);
});

test('a full that leaves a range out does not read as zeros there', async () => {
  const file = stream({ size: SIZE, checkpoint: 'c.0', ranges: [RANGES[0]!, RANGES[2]!] });
  expect(await goodSectors(file)).toBe((SIZE - 200_192) / 512);
  expect(await findings({ [NAME]: file })).toEqual([
    expect.objectContaining({ message: 'no frame covers the disk at 100352' }),
  ]);
});

test('another amount of data than the backup noted is a finding', async () => {
  expect(await findings({ [NAME]: sound({ dataSize: 5 }) })).toEqual([
    expect.objectContaining({ message: expect.stringContaining('the backup says 5') }),
  ]);
});

test.each([
  [{ virtualSize: -1 }, 'virtualSize'],
  [{ virtualSize: 2 ** 60 }, 'virtualSize'],
  [{ dataSize: 'x' }, 'dataSize'],
  [{ streamVersion: 3 }, 'streamVersion'],
  [{ diskName: '../x' }, 'diskName'],
  [{ checkpointName: 'a/b' }, 'checkpointName'],
  [{ incremental: 1 }, 'incremental'],
  [{ compressed: 2, compressionMethod: 'brotli' }, 'compressionMethod'],
])('a meta frame that makes no sense is refused: %j', async (change, field) => {
  const store = memoryStore({ [NAME]: sound(change) });
  await expect(virtnbdbackup.open(NAME, store, keys)).rejects.toMatchObject({ where: { field } });
});

describe.skipIf(missing(['lz4']) !== null)('LZ4', () => {
  const packed = () => stream({ size: SIZE, checkpoint: 'c.0', ranges: RANGES, piece: 65_536 });

  const unpack = async (raw: Uint8Array, length: number): Promise<Buffer> => {
    const source = await memoryStore({ x: raw }).open('x');
    const parts: Buffer[] = [];
    await decodeFrame(
      { source, at: 0, length: raw.length, content: length },
      null,
      part => parts.push(Buffer.from(part)) > 0,
    );
    return Buffer.concat(parts);
  };

  test.each([[['-B4', '-BD', '-BX']], [['-B5', '-BI']], [['-B6', '-BD', '-BX']], [['-B7', '-9', '--no-frame-crc']]])(
    'frames of the lz4 program: %j',
    async options => {
      for (const data of [
        content(1_300_000, 3),
        new Uint8Array(200_000),
        content(5, 1),
        Buffer.from('ab'.repeat(70_000)),
      ]) {
        expect(Buffer.compare(await unpack(lz4Frame(data, options), data.length), data)).toBe(0);
        expect(Buffer.compare(await unpack(sizedFrame(data), data.length), data)).toBe(0);
      }
    },
  );

  test('every byte that is changed is an error', async () => {
    const data = content(150_000, 6);
    const raw = sizedFrame(data);
    for (let at = 0; at < raw.length; at += Math.max(1, Math.floor(raw.length / 400))) {
      const changed = Buffer.from(raw);
      changed[at]! ^= 1 << (at % 8);
      await expect(unpack(changed, data.length), `byte ${at}`).rejects.toBeInstanceOf(ImageError);
    }
    for (const cut of [0, 3, 7, 15, 19, 1000, raw.length - 9, raw.length - 1]) {
      await expect(unpack(raw.subarray(0, cut), data.length), `cut to ${cut}`).rejects.toBeInstanceOf(ImageError);
    }
    await expect(unpack(raw, data.length - 1)).rejects.toBeInstanceOf(ImageError);
  });

  test('damage in a packed range is an error for its part, and verify finds it', async () => {
    const file = packed();
    const at = file.indexOf(Buffer.from('04224d18', 'hex')) + 5000;
    file[at]! ^= 4;
    const good = await goodSectors(file);
    expect(good).toBeGreaterThanOrEqual((SIZE - 65_536) / 512);
    expect(good).toBeLessThan(SIZE / 512);
    expect(await findings({ [NAME]: file })).toEqual([
      expect.objectContaining({ fault: 'corrupt', message: expect.stringContaining('checksum of a block') }),
    ]);
  });

  test.each([
    ['no list', (f: Buffer) => f.subarray(0, f.length - 40)],
    ['a list that is no JSON', (f: Buffer) => f.fill('x', f.length - 45, f.length - 44)],
    ['a list that does not fit', (f: Buffer) => f.fill('f', f.length - 12, f.length - 11)],
  ])('%s: nothing is guessed', async (_, change) => {
    expect(await goodSectors(change(packed()))).toBe(0);
  });

  test('parts of a long frame, in any order and at once', async () => {
    const size = 5 * 2 ** 20 + 512;
    const data = content(size, 8);
    const file = stream({ size, checkpoint: 'c.0', ranges: [{ start: 0, data }], piece: 2 ** 23 });
    await using image = await virtnbdbackup.open(NAME, memoryStore({ [NAME]: file }), keys);
    const layer = image.points[0]!.disks[0]!.layer!;
    await layer.load(0, size);
    const unitAt = async (unit: number): Promise<void> => {
      const into = new Uint8Array(layer.blockSize).fill(9);
      await layer.unpack(unit, into);
      const want = new Uint8Array(layer.blockSize);
      want.set(data.subarray(unit * 2 ** 20, (unit + 1) * 2 ** 20));
      expect(Buffer.compare(into, want), `unit ${unit}`).toBe(0);
    };
    for (const unit of [3, 0, 5, 5, 1, 4, 2, 0]) await unitAt(unit);
    await Promise.all([5, 2, 3, 1, 4, 0].map(unitAt));
  });

  test('blocks: whatever comes in, only a RangeError goes out', () => {
    let seed = 7;
    const random = (): number => {
      seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
      return seed >>> 8;
    };
    for (let i = 0; i < 20_000; i++) {
      const raw = Uint8Array.from({ length: random() % 60 }, () => random() % 256);
      const out = new Uint8Array(random() % 300);
      try {
        expect(lz4Block(raw, out, 0, out.length)).toBeLessThanOrEqual(out.length);
      } catch (error) {
        expect(error).toBeInstanceOf(RangeError);
      }
    }
  });
});

test('xxHash-32: known values, and in parts the same as at once', () => {
  const text = (s: string) => new TextEncoder().encode(s);
  expect(xxhash32(text(''))).toBe(0x02cc5d05);
  expect(xxhash32(text('a'))).toBe(0x550d7456);
  expect(xxhash32(text('abc'))).toBe(0x32d153ff);
  expect(xxhash32(text('Nobody inspects the spammish repetition'))).toBe(0xe2293b2f);
  const data = content(1000, 9);
  for (const cut of [0, 1, 15, 16, 17, 500, 999]) {
    const hash = xxhash();
    hash.update(data.subarray(0, cut));
    const copy = hash.copy();
    hash.update(text('something else'));
    copy.update(data.subarray(cut));
    expect(copy.digest()).toBe(xxhash32(data));
  }
});
