/** Every packing against the program that writes it: whole, in several parts, cut off, damaged, with something behind it. */
import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { missing } from '../../../test/kit/oracles.ts';
import { memorySource } from '../assemble.ts';
import type { ByteSource } from '../contracts.ts';
import { ImageError } from '../errors.ts';
import { PACKINGS, type Packing, packedHead, packingOf } from './packing.ts';
import { programContent } from './program.ts';
import { zstdContent } from './zstd.ts';

const CONTENT = Buffer.alloc(3_000_000, 'what is compressed ');
for (let i = 0; i < CONTENT.length; i += 7) CONTENT[i] = (i * 31 + (i >> 9)) & 255;
CONTENT.fill(0, 1_000_000, 1_600_000);

const pack = (program: string, args: readonly string[], content: Uint8Array = CONTENT): Buffer =>
  execFileSync(program, [...args], { input: content, maxBuffer: 2 ** 26, stdio: ['pipe', 'pipe', 'ignore'] });

const PROGRAMS: readonly (readonly [keyof typeof PACKINGS, string, readonly string[]])[] = [
  ['gz', 'gzip', ['-1']],
  ['zst', 'zstd', ['-q', '-1']],
  ['zst', 'zstd', ['-q', '-19', '--no-check']],
  ['lzo', 'lzop', ['-1']],
  ['lz4', 'lz4', ['-q', '-B4', '-BD']],
  ['lz4', 'lz4', ['-q', '-9', '--content-size', '-BX']],
  ['bz2', 'bzip2', ['-1']],
  ['xz', 'xz', ['-1']],
  ['lzma', 'xz', ['-1', '--format=lzma']],
  ['lzip', 'lzip', ['-1']],
];

async function unpacked({ content }: Pick<Packing, 'content'>, packed: Uint8Array): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of content(memorySource('x', packed))) parts.push(Buffer.from(part));
  return Buffer.concat(parts);
}

const outcome = async (packing: Packing, packed: Uint8Array): Promise<string> => {
  try {
    return (await unpacked(packing, packed)).equals(CONTENT) ? 'right' : 'wrong bytes';
  } catch (error) {
    return error instanceof ImageError ? error.fault : String(error);
  }
};

test.each(PROGRAMS)('%s: what %s %j writes', async (ending, program, args) => {
  if (missing([program]) !== null) return;
  const packing: Packing = PACKINGS[ending];
  const packed = pack(program, args);
  expect(packing.magic === null ? packing : packingOf(packed)).toBe(packing);
  expect(await outcome(packing, packed)).toBe('right');
  expect(await outcome(packing, packed.subarray(0, packed.length >> 1))).toBe('corrupt');
  // Without --check zstd has nothing that tells a changed byte in a block.
  const damaged = Buffer.from(packed);
  damaged[packed.length >> 1]! ^= 0x40;
  if (!args.includes('--no-check') && ending !== 'lzma') expect(await outcome(packing, damaged)).toBe('corrupt');
});

// What several processes compressed at once comes as several files behind each other.
test.each(PROGRAMS.filter(([ending]) => !['lzo', 'lzma'].includes(ending)))('%s: two of %s %j', async (...made) => {
  const [ending, program, args] = made;
  if (missing([program]) !== null) return;
  const both = Buffer.concat(
    [CONTENT.subarray(0, 500_000), CONTENT.subarray(500_000)].map(part => pack(program, args, part)),
  );
  expect(await outcome(PACKINGS[ending], both)).toBe('right');
  expect(await outcome(PACKINGS[ending], both.subarray(0, both.length - 1000))).toBe('corrupt');
});

test('frames of zstd: skipped ones, and what is none', async () => {
  if (missing(['zstd']) !== null) return;
  const frame = pack('zstd', ['-q']);
  const skipped = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4]);
  expect(await outcome(PACKINGS.zst, Buffer.concat([skipped, frame, skipped]))).toBe('right');
  expect(await outcome(PACKINGS.zst, Buffer.concat([frame, Buffer.alloc(100)]))).toBe('corrupt');
  expect(await outcome(PACKINGS.zst, Buffer.alloc(0))).toBe('corrupt');
  expect(await outcome(PACKINGS.zst, skipped)).toBe('corrupt');
});

test('the front is read without the rest', async () => {
  const frame = pack('zstd', ['-q']);
  let furthest = 0;
  const watched: ByteSource = {
    ...memorySource('x', Buffer.concat([frame, frame, frame, Buffer.alloc(20_000_000)])),
    read(into, at) {
      furthest = Math.max(furthest, at + into.length);
      into.set(Buffer.concat([frame, Buffer.alloc(into.length + at)]).subarray(at, at + into.length));
    },
  };
  const head = await packedHead(watched, { ...PACKINGS.zst, content: zstdContent }, () => 1000);
  expect(head.subarray(0, 1000)).toEqual(new Uint8Array(CONTENT.subarray(0, 1000)));
  expect(furthest).toBeLessThan(3_000_000);
});

test('a program that is missing is named, with its package', async () => {
  const none = { name: 'no-such-program', args: [], package: 'nothing' };
  await expect(unpacked({ content: source => programContent(source, none) }, CONTENT)).rejects.toMatchObject({
    fault: 'unsupported',
    message: expect.stringContaining('no-such-program'),
    hint: 'apt-get install nothing',
  });
});

test('a program is ended when nobody wants more of it', async () => {
  const endless = { name: 'yes', args: [], package: 'coreutils' };
  let length = 0;
  for await (const part of programContent(memorySource('x', CONTENT), endless)) {
    length += part.length;
    if (length > 100_000) break;
  }
  expect(length).toBeGreaterThan(100_000);
});

// Blocks of lzop, frames of the others.
test.each(PROGRAMS.filter(([ending]) => ['lzo', 'zst', 'lz4'].includes(ending)))(
  '%s: %s %j, begun anew',
  async (...made) => {
    const [ending, program, args] = made;
    if (missing([program]) !== null) return;
    const parts = ending === 'lzo' ? [CONTENT] : [CONTENT.subarray(0, 500_000), CONTENT.subarray(500_000)];
    const packed = Buffer.concat(parts.map(part => pack(program, args, part)));
    const source = memorySource('x', packed);
    const restarts: (readonly [packed: number, plain: number])[] = [];
    let plain = 0;
    for await (const part of PACKINGS[ending].content(source, 0, at => restarts.push([at, plain])))
      plain += part.length;
    expect(restarts.length).toBeGreaterThan(1);
    for (const [at, from] of restarts) {
      const rest: Buffer[] = [];
      for await (const part of PACKINGS[ending].content(source, at)) rest.push(Buffer.from(part));
      expect(Buffer.concat(rest).equals(CONTENT.subarray(from)), `from ${at}`).toBe(true);
    }
  },
);

test('a block of lzop that is said to hold more than its bytes can makes no room for it', async () => {
  if (missing(['lzop']) !== null) return;
  const zeros = Buffer.alloc(1_000_000);
  const packed = pack('lzop', ['-9'], zeros);
  expect((await unpacked(PACKINGS.lzo, packed)).equals(zeros)).toBe(true);
  // The header: 33 bytes, a name and its length, a checksum; the first block begins with its length.
  const at = 33 + 1 + packed[33]! + 4;
  expect(packed.readUInt32BE(at)).toBeLessThanOrEqual(262_144);
  packed.writeUInt32BE(2 ** 26, at);
  await expect(unpacked(PACKINGS.lzo, packed)).rejects.toThrow('more than its bytes can');
});
