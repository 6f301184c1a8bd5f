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
import { contentOf, OLD, type Spec, version1, version2 } from './fixtures.ts';
import { partclone } from './index.ts';
import { xxh3of128, xxh64 } from './xxhash.ts';

const NO_KEYS = { secrets: async () => [] };

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
