import { deflateRawSync, zstdCompressSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { random } from '../../test/kit/random.ts';
import { decompress as decompressInto } from './unpack.ts';

async function decompress(packed: Uint8Array, compression: 'zlib' | 'zstd', length: number): Promise<Uint8Array> {
  const into = new Uint8Array(length);
  await decompressInto(packed, compression, into);
  return into;
}

const LENGTH = 65536;
const { below } = random(1);
const contents = {
  noise: Uint8Array.from({ length: LENGTH }, () => below(256)),
  same: new Uint8Array(LENGTH).fill(7),
  mixed: Uint8Array.from({ length: LENGTH }, (_, i) => (i < LENGTH / 2 ? below(256) : 0)),
};

describe.each(['zlib', 'zstd'] as const)('%s', compression => {
  const pack = (data: Uint8Array): Uint8Array =>
    compression === 'zstd' ? zstdCompressSync(data) : deflateRawSync(data, { windowBits: 12 });

  test.each(Object.entries(contents))('%s, whatever follows it in the sector', async (_name, data) => {
    const packed = pack(data);
    for (const behind of [0, 1, 300, 512]) {
      const junk = Uint8Array.from({ length: behind }, () => below(256));
      const out = await decompress(Buffer.concat([packed, junk]), compression, LENGTH);
      expect(Buffer.compare(out, data)).toBe(0);
    }
  });

  test('too little, too much and half of it are errors', async () => {
    const { mixed } = contents;
    await expect(decompress(pack(mixed.subarray(1)), compression, LENGTH)).rejects.toThrow();
    await expect(decompress(pack(Buffer.concat([mixed, mixed])), compression, LENGTH)).rejects.toThrow();
    const packed = pack(mixed);
    await expect(decompress(packed.subarray(0, packed.length / 2), compression, LENGTH)).rejects.toThrow();
    await expect(decompress(new Uint8Array(512), compression, LENGTH)).rejects.toThrow();
  });
});
