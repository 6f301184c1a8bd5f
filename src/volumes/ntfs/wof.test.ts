/** XPRESS and LZX against wimlib, whose WIM archives hold files in the chunks that CompactOS uses. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { memoryDisk } from '../../../test/kit/disks.ts';
import { lacking, noise, scratch, tool } from '../../../test/kit/volume-images.ts';
import { MetadataCache, u64, volumeSource } from '../source.ts';
import { lzx } from './lzx.ts';
import { xpressHuffman } from './xpress.ts';

const cannot = lacking('wimcapture');
const folder = scratch();
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const disk = memoryDisk(new Uint8Array(512));
const source = volumeSource({ name: 'x', disk, start: 0, size: 512, cache: new MetadataCache(0) });
const FLAG_METADATA = 2;

/** Stored bytes of the only file in an archive: length in 7 bytes, flags, offset, length unpacked. */
function resourceOf(wim: Buffer): Buffer {
  const header = (at: number) => ({ size: wim.readUIntLE(at, 6), flags: wim[at + 7]!, offset: u64(wim, at + 8) });
  const table = header(0x30);
  for (let at = table.offset; at < table.offset + table.size; at += 50) {
    const { size, flags, offset } = header(at);
    if ((flags & FLAG_METADATA) === 0) return wim.subarray(offset, offset + size);
  }
  throw new Error('the archive holds no file');
}

/** Code with calls, text and noise: literals, near and far matches, chunks that stay as they are. */
function content(): Buffer {
  const program = fs.readFileSync(process.execPath).subarray(1_000_000, 1_300_000);
  const text = Buffer.from('All work and no play makes a dull test. '.repeat(4000));
  return Buffer.concat([program, text, noise(70_000, 3), text.subarray(0, 1234)]);
}

describe.skipIf(cannot !== '')(`CompactOS ${cannot}`, () => {
  test.each([
    ['XPRESS', '4K', 4096, xpressHuffman],
    ['XPRESS', '16K', 16_384, xpressHuffman],
    ['LZX', '32K', 32_768, lzx],
  ] as const)('%s in chunks of %s', (algorithm, size, unit, unpack) => {
    const whole = content();
    const from = path.join(folder, `${algorithm}${size}`);
    fs.mkdirSync(from);
    fs.writeFileSync(path.join(from, 'file'), whole);
    const archive = `${from}.wim`;
    tool('wimcapture', [from, archive, `--compress=${algorithm}`, `--chunk-size=${size}`]);
    const packed = resourceOf(fs.readFileSync(archive));
    const chunks = Math.ceil(whole.length / unit);
    const table = (chunks - 1) * 4;
    const placeOf = (chunk: number): number =>
      chunk === 0 ? table : chunk === chunks ? packed.length : table + packed.readUInt32LE((chunk - 1) * 4);
    let unpacked = 0;
    for (let chunk = 0; chunk < chunks; chunk++) {
      const wanted = whole.subarray(chunk * unit, (chunk + 1) * unit);
      const stored = packed.subarray(placeOf(chunk), placeOf(chunk + 1));
      if (stored.length === wanted.length) continue;
      unpacked++;
      expect(Buffer.compare(unpack(source, stored, wanted.length), wanted)).toBe(0);
      // Damage ends in an error or in other bytes, never outside the buffer or in a loop.
      const damaged = Buffer.from(stored);
      damaged[chunk % damaged.length]! ^= 0x55;
      try {
        expect(unpack(source, damaged, wanted.length)).toHaveLength(wanted.length);
      } catch (error) {
        expect(error instanceof RangeError || 'fault' in (error as object)).toBe(true);
      }
    }
    expect(unpacked).toBeGreaterThan(5);
  });
});
