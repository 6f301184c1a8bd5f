/** zstd of whole blocks and nodes, with the length of what comes out known in advance. */
import zlib from 'node:zlib';

/** Stored as it is unless compression saves this part of it. */
const LEAST_GAIN = 1 / 16;
/** Level for nodes, whatever the blocks have. */
export const NODE_LEVEL = 3;

/** zstd's own bound for what `length` bytes become at worst (ZSTD_compressBound). */
const mostCompressed = (length: number): number =>
  length + Math.floor(length / 256) + Math.max(0, Math.floor((131_072 - length) / 2048));

const worth = (plain: Uint8Array, packed: Uint8Array): boolean => packed.length <= plain.length * (1 - LEAST_GAIN);

/** The compressed bytes, or null when they are not worth it. At once: the caller has a thread for it, or a page only. */
export function compressNow(plain: Uint8Array, level: number): Uint8Array | null {
  const out = zlib.zstdCompressSync(plain, {
    params: { [zlib.constants.ZSTD_c_compressionLevel]: level },
    // Tables for this length and not for gigabytes: several times as fast for a block.
    pledgedSrcSize: plain.length,
    // The whole result in one piece: nothing to join.
    chunkSize: Math.max(64, mostCompressed(plain.length)),
  });
  return worth(plain, out) ? out : null;
}

interface Inflated {
  readonly buffer: Buffer;
  readonly engine: { readonly bytesWritten: number };
}

/** Exactly `length` bytes, and nothing after them; otherwise an error that says what was found. */
export function decompressNow(packed: Uint8Array, length: number): Uint8Array {
  // A little more room than is wanted, so that one pass shows that nothing follows.
  const options = { maxOutputLength: length, chunkSize: length + 64, info: true } as zlib.ZstdOptions;
  const { buffer, engine } = zlib.zstdDecompressSync(packed, options) as unknown as Inflated;
  if (engine.bytesWritten !== packed.length) throw new RangeError('bytes follow the compressed data');
  if (buffer.length !== length) throw new RangeError(`${buffer.length} bytes instead of ${length}`);
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.length);
}
