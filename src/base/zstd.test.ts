import zlib from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { unzstdInto, zstd } from './zstd.ts';

const fast = zstd();
const cannot = fast === null ? 'koffi is not installed' : '';

const text = Buffer.alloc(65_536, 'what lies here is said once more, ');
const shared = (data: Uint8Array): Uint8Array => {
  const copy = new Uint8Array(new SharedArrayBuffer(data.length + 32), 16, data.length);
  copy.set(data);
  return copy;
};

describe.skipIf(cannot !== '')(`zstd without a context for each call${cannot && ` (skipped: ${cannot})`}`, () => {
  test('what it packs, Node unpacks, and the other way round; in memory of both kinds', () => {
    for (const length of [1, 100, 4096, 65_535, 65_536]) {
      const plain = text.subarray(0, length);
      const into = shared(new Uint8Array(length + 200));
      const packed = into.subarray(0, fast!.compress(shared(plain), 3, into));
      expect(Buffer.compare(zlib.zstdDecompressSync(packed), plain)).toBe(0);
      const out = shared(new Uint8Array(length + 10).fill(7));
      expect(fast!.decompress(shared(zlib.zstdCompressSync(plain)), out)).toBe(length);
      expect(Buffer.compare(out.subarray(0, length), plain)).toBe(0);
    }
  });

  test('what does not fit is told from what fails', () => {
    const noise = crypto.getRandomValues(new Uint8Array(4096));
    expect(fast!.compress(noise, 3, new Uint8Array(4000))).toBe(0);
    expect(fast!.compress(text, 3, new Uint8Array(65_536))).toBeGreaterThan(0);
  });

  test('one whole frame, nothing before, behind or between, and no more than there is room for', () => {
    const into = new Uint8Array(4096);
    const frame = zlib.zstdCompressSync(text.subarray(0, 4096));
    const skippable = Uint8Array.of(0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4);
    expect(fast!.decompress(frame, into)).toBe(4096);
    const refused: readonly Uint8Array[] = [
      new Uint8Array(0),
      frame.subarray(0, 3),
      frame.subarray(0, -1),
      Buffer.concat([frame, Buffer.of(0)]),
      Buffer.concat([zlib.zstdCompressSync('a'), zlib.zstdCompressSync('b')]),
      Buffer.concat([skippable, frame]),
      Buffer.concat([frame, skippable]),
      skippable,
      zlib.zstdCompressSync(text.subarray(0, 4097)),
      Buffer.from(frame).fill(0x55, 6, 12),
    ];
    for (const packed of refused) expect(() => fast!.decompress(packed, into)).toThrow(RangeError);
    // The context is as good as new.
    expect(fast!.decompress(frame, into)).toBe(4096);
    expect(Buffer.compare(into, text.subarray(0, 4096))).toBe(0);
  });
});

test('frames at once and on other threads, whatever follows; damage and too much are errors', async () => {
  const packed = zlib.zstdCompressSync(text);
  const behind = Buffer.concat([packed, Buffer.alloc(300, 7)]);
  const failed = async (data: Uint8Array, room: number): Promise<string> => {
    try {
      return `${await unzstdInto(data, new Uint8Array(room))} bytes`;
    } catch (error) {
      return (error as Error).message;
    }
  };
  let later = 0;
  const one = async (): Promise<void> => {
    const into = new Uint8Array(text.length + 20).fill(0xee);
    const working = unzstdInto(behind, into.subarray(0, text.length + 1));
    if (working instanceof Promise) later++;
    expect(await working).toBe(text.length);
    expect(Buffer.compare(into.subarray(0, text.length), text)).toBe(0);
    expect(into.subarray(text.length + 1).every(byte => byte === 0xee)).toBe(true);
  };
  // Long enough that they count as slow.
  const long = zlib.zstdCompressSync(Buffer.alloc(2 ** 22, text));
  for (let i = 0; i < 40; i++) expect(await unzstdInto(long, new Uint8Array(2 ** 22))).toBe(2 ** 22);
  for (let i = 0; i < 10; i++) await Promise.all(Array.from({ length: 20 }, one));
  expect(later).toBeGreaterThan(0);
  for (let i = 0; i < 3; i++) {
    expect(await failed(packed, text.length - 1)).not.toMatch(/^\d+ bytes$/);
    expect(await failed(packed.subarray(0, -1), text.length)).not.toMatch(/^\d+ bytes$/);
    expect(await failed(new Uint8Array(512), text.length)).not.toMatch(/^\d+ bytes$/);
    expect(await failed(packed, text.length)).toBe(`${text.length} bytes`);
  }
});
