import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { crc32 } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import type { Problem } from '../../src/base/contracts.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { missing } from '../../test/kit/oracles.ts';
import { openStack } from '../../test/kit/reference.ts';
import { scratch } from '../../test/kit/samples.ts';
import { partclone } from './index.ts';
import { type Digest, xxh3of128, xxh64 } from './xxhash.ts';

const NO_KEYS = { secrets: async () => [] };

interface Spec {
  readonly blockSize: number;
  readonly blocks: number;
  readonly mode: 0 | 32 | 48 | 49 | 255;
  readonly perSum: number;
  readonly reseed: boolean;
  readonly bitmap: 0 | 1 | 8;
  readonly deviceSize?: number;
}

const contentOf = ({ blockSize, blocks, bitmap }: Spec): { used: boolean[]; data: Buffer } => {
  const used = Array.from({ length: blocks }, (_, b) => bitmap === 0 || (b * 7919) % 13 < 5 || (b > 40 && b < 90));
  const data = Buffer.alloc(blocks * blockSize);
  for (let b = 0; b < blocks; b++) {
    if (used[b]) for (let i = 0; i < blockSize; i++) data[b * blockSize + i] = (b * 31 + i * 7 + (i >> 8)) % 256;
  }
  return { used, data };
};

/** CRC-32 by the bit, as the document describes it; apart from the code that reads. */
function plainCrc(bytes: Iterable<number>, start: number): number {
  let crc = start;
  for (const byte of bytes) {
    crc ^= byte;
    for (let i = 0; i < 8; i++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return crc >>> 0;
}
const u32 = (value: number): Buffer => {
  const out = Buffer.alloc(4);
  out.writeUInt32LE(value);
  return out;
};

function sums({ mode, blockSize }: Spec): { add(block: Buffer): void; end(): Buffer; reset(): void } {
  let crc = 0xffff_ffff;
  let xx: Digest = mode === 49 ? xxh3of128() : xxh64();
  return {
    add(block) {
      if (mode === 32) crc = plainCrc(block, crc);
      else if (mode === 255) crc = plainCrc(new Array(blockSize).fill(block[0]!), crc);
      else xx.update(block);
    },
    end: () => (mode === 0 ? Buffer.alloc(0) : mode === 32 || mode === 255 ? u32(crc) : Buffer.from(xx.digest())),
    reset() {
      crc = 0xffff_ffff;
      xx = mode === 49 ? xxh3of128() : xxh64();
    },
  };
}

function dataOf(spec: Spec, wide: number): Buffer {
  const { used, data } = contentOf(spec);
  const out: Buffer[] = [];
  const sum = sums(spec);
  let inStrip = 0;
  for (const [b, isUsed] of used.entries()) {
    if (!isUsed) continue;
    const block = data.subarray(b * spec.blockSize, (b + 1) * spec.blockSize);
    out.push(block);
    sum.add(block);
    if (++inStrip < spec.perSum || spec.mode === 0) continue;
    out.push(sum.end(), Buffer.alloc(wide));
    if (spec.reseed) sum.reset();
    inStrip = 0;
  }
  if (inStrip > 0) out.push(sum.end());
  return Buffer.concat(out);
}

function bitmapOf(spec: Spec): Buffer {
  const { used } = contentOf(spec);
  if (spec.bitmap === 0) return Buffer.alloc(0);
  if (spec.bitmap === 8) return Buffer.concat([Buffer.from(used.map(Number)), Buffer.from('BiTmAgIc')]);
  const bits = Buffer.alloc(Math.ceil(used.length / 8));
  for (const [b, isUsed] of used.entries()) if (isUsed) bits[Math.floor(b / 8)]! |= 1 << (b % 8);
  return Buffer.concat([bits, u32(plainCrc(bits, 0xffff_ffff))]);
}

function version2(spec: Spec): Buffer {
  const head = Buffer.alloc(110);
  head.write('partclone-image\0', 0, 'latin1');
  head.write('0.3.40', 16, 'latin1');
  head.write('0002', 30, 'latin1');
  head.writeUInt16LE(0xc0de, 34);
  head.write('EXTFS', 36, 'latin1');
  head.writeBigUInt64LE(BigInt(spec.deviceSize ?? spec.blocks * spec.blockSize), 52);
  head.writeBigUInt64LE(BigInt(spec.blocks), 60);
  head.writeUInt32LE(spec.blockSize, 84);
  head.writeUInt32LE(18, 88);
  head.writeUInt16LE(2, 92);
  head.writeUInt16LE(64, 94);
  head.writeUInt16LE(spec.mode, 96);
  head.writeUInt16LE({ 0: 0, 32: 4, 48: 8, 49: 16, 255: 4 }[spec.mode], 98);
  head.writeUInt32LE(spec.mode === 0 ? 0 : spec.perSum, 100);
  head.writeUInt8(spec.reseed ? 1 : 0, 104);
  head.writeUInt8(spec.bitmap, 105);
  head.writeUInt32LE(~crc32(head.subarray(0, 106)) >>> 0, 106);
  return Buffer.concat([head, bitmapOf(spec), dataOf(spec, 0)]);
}

const OLD: Spec = { blockSize: 1024, blocks: 300, mode: 255, perSum: 1, reseed: false, bitmap: 8 };
function version1(wide: number): Buffer {
  const head = Buffer.alloc(4160);
  head.write('partclone-image', 0, 'latin1');
  head.write('EXTFS', 15, 'latin1');
  head.write('0001', 30, 'latin1');
  head.writeUInt32LE(OLD.blockSize, 36);
  head.writeBigUInt64LE(BigInt(OLD.blocks * OLD.blockSize), 40);
  head.writeBigUInt64LE(BigInt(OLD.blocks), 48);
  head.writeBigUInt64LE(BigInt(contentOf(OLD).used.filter(Boolean).length), 56);
  return Buffer.concat([head, bitmapOf(OLD), dataOf(OLD, wide)]);
}

async function contentIn(file: Uint8Array): Promise<Buffer> {
  const store = memoryStore({ a: file });
  await using stack = await openStack({ adapter: partclone, store, name: 'a', keys: NO_KEYS });
  const out = Buffer.alloc(stack.size);
  for (let at = 0; at < out.length; at += 10_007) await stack.read(out.subarray(at, at + 10_007), at);
  return out;
}
async function findings(file: Uint8Array): Promise<readonly Problem[]> {
  await using image = await partclone.open('a', memoryStore({ a: file }), NO_KEYS);
  const found: Problem[] = [];
  const signal = new AbortController().signal;
  await image.verify!({ level: 1, found: problem => found.push(problem), progress() {}, signal });
  return found;
}

const BASE: Spec = { blockSize: 1024, blocks: 333, mode: 32, perSum: 16, reseed: true, bitmap: 1 };
const specs: readonly Spec[] = [
  BASE,
  { ...BASE, reseed: false },
  { ...BASE, perSum: 1 },
  { ...BASE, perSum: 100_000 },
  { ...BASE, mode: 0 },
  { ...BASE, bitmap: 8 },
  { ...BASE, bitmap: 0 },
  { ...BASE, mode: 48 },
  { ...BASE, mode: 49, perSum: 3 },
  { ...BASE, mode: 48, reseed: false },
  { ...BASE, mode: 49, reseed: false },
  { ...BASE, deviceSize: 333 * 1024 + 5 * 512 },
];

describe.each(specs.map(spec => [JSON.stringify(spec), spec] as const))('%s', (_, spec) => {
  const file = version2(spec);
  test('its content, and nothing found', async () => {
    const { data } = contentOf(spec);
    const want = Buffer.concat([data, Buffer.alloc((spec.deviceSize ?? data.length) - data.length)]);
    expect(Buffer.compare(await contentIn(file), want)).toBe(0);
    expect(await findings(file)).toEqual([]);
  });
  test.skipIf(spec.mode === 0)('a flipped byte of data is found; one that is checked is never read', async () => {
    const damaged = Buffer.from(file);
    damaged[Math.floor(damaged.length / 2)]! ^= 1;
    expect((await findings(damaged))[0]).toMatchObject({
      fault: 'corrupt',
      message: expect.stringMatching(/checksum/),
    });
    const isUnchecked = spec.perSum > 16_384 || (!spec.reseed && spec.mode !== 32);
    if (!isUnchecked) await expect(contentIn(damaged)).rejects.toMatchObject({ fault: 'corrupt' });
    await using image = await partclone.open('a', memoryStore({ a: file }), NO_KEYS);
    expect(image.warnings.length).toBe(isUnchecked ? 1 : 0);
  });
});

test.each([0, 4])('version 0001, %i more bytes behind each checksum', async wide => {
  const file = version1(wide);
  expect(Buffer.compare(await contentIn(file), contentOf(OLD).data)).toBe(0);
  expect(await findings(file)).toEqual([]);
  const damaged = Buffer.from(file);
  damaged[4160 + 308]! ^= 1;
  expect((await findings(damaged)).length).toBe(1);
});

const noRestore = missing(['partclone.restore']);
test.skipIf(noRestore !== null).each([
  ['reseeded', version2(BASE)],
  ['going on', version2({ ...BASE, reseed: false })],
  ['bytes', version2({ ...BASE, bitmap: 8 })],
  ['0001', version1(0)],
])('partclone.restore agrees with the images made here: %s', async (_, file) => {
  const folder = scratch();
  try {
    const [image, out] = ['image', 'out'].map(name => path.join(folder, name)) as [string, string];
    fs.writeFileSync(image, file);
    const want = await contentIn(file);
    fs.writeFileSync(out, Buffer.alloc(want.length));
    execFileSync('partclone.restore', ['-q', '-C', '-L', path.join(folder, 'log'), '-s', image, '-O', out], {
      stdio: 'ignore',
    });
    expect(Buffer.compare(fs.readFileSync(out), want)).toBe(0);
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
});

const noXxhsum = missing(['xxhsum']);
test.skipIf(noXxhsum !== null).each([512, 1024, 1088, 5120, 262_144])('xxhsum agrees on %i bytes', length => {
  const data = Buffer.from(Array.from({ length }, (_, i) => (i * i * 31 + i) % 253));
  for (const [flag, make] of [
    ['-H64', xxh64],
    ['-H128', xxh3of128],
  ] as const) {
    const hash = make();
    for (let at = 0; at < length; at += 448) hash.update(data.subarray(at, at + 448));
    const said = execFileSync('xxhsum', [flag, '-'], { input: data }).toString().split(' ')[0];
    expect(Buffer.from(hash.digest()).reverse().toString('hex')).toBe(said);
  }
});

test.each<readonly [string, (head: Buffer) => void, string]>([
  ['big-endian', h => h.writeUInt16LE(0xdec0, 34), 'big-endian'],
  ['version', h => h.write('0003', 30, 'latin1'), 'version "0003" is not known'],
  ['mode', h => h.writeUInt16LE(77, 96), 'checksum mode 77'],
  ['length of checksums', h => h.writeUInt16LE(8, 98), 'such a length'],
  ['bitmap', h => h.writeUInt8(3, 105), 'bitmap mode 3'],
  ['block size', h => h.writeUInt32LE(0, 84), 'blocks of 0 bytes'],
  ['blocks', h => h.writeBigUInt64LE(2n ** 50n, 60), 'are not possible'],
  ['more blocks than the bitmap in the file has', h => h.writeBigUInt64LE(2n ** 40n, 60), 'ends inside the bitmap'],
  ['device size', h => h.writeBigUInt64LE(2n ** 60n, 52), 'beyond 2^53'],
])('a header whose %s makes no sense is refused', async (_, change, message) => {
  const file = version2(BASE);
  change(file);
  file.writeUInt32LE(~crc32(file.subarray(0, 106)) >>> 0, 106);
  const started = performance.now();
  await expect(partclone.open('a', memoryStore({ a: file }), NO_KEYS)).rejects.toThrow(message);
  expect(performance.now() - started).toBeLessThan(1000);
});

test('a file that ends early, or goes on, is found', async () => {
  const file = version2(BASE);
  expect((await findings(file.subarray(0, file.length - 1000))).map(({ message }) => message)).toEqual([
    'the file ends 1000 bytes early',
    expect.stringContaining('the file ends early'),
  ]);
  expect((await findings(Buffer.concat([file, Buffer.alloc(7)])))[0]!.message).toBe('7 bytes follow the last block');
});
