/** zstd of whole blocks and nodes, with the length of what comes out known in advance. */
import zlib from 'node:zlib';
import { zstd } from '../../src/base/zstd.ts';

/** Stored as it is unless compression saves this part of it. */
const LEAST_GAIN = 1 / 16;
/** Level for nodes, whatever the blocks have. */
export const NODE_LEVEL = 3;

/** zstd's own bound for what `length` bytes become at worst (ZSTD_compressBound). */
const mostCompressed = (length: number): number =>
  length + Math.floor(length / 256) + Math.max(0, Math.floor((131_072 - length) / 2048));

/** Bytes that compression may come to at most. */
const mostWorth = (length: number): number => Math.floor(length * (1 - LEAST_GAIN));

/**
 * Length of the compressed bytes, which are at the start of `into` (as long as `plain`); 0: they are not worth it. At once:
 * the caller has a thread for it, or a page only.
 */
export function compressInto(into: Uint8Array, plain: Uint8Array, level: number): number {
  const room = into.subarray(0, mostWorth(plain.length));
  const fast = zstd();
  if (fast !== null) return fast.compress(plain, level, room);
  const out = zlib.zstdCompressSync(plain, {
    params: { [zlib.constants.ZSTD_c_compressionLevel]: level },
    // Tables for this length and not for gigabytes: several times as fast for a block.
    pledgedSrcSize: plain.length,
    // The whole result in one piece: nothing to join.
    chunkSize: Math.max(64, mostCompressed(plain.length)),
  });
  if (out.length > room.length) return 0;
  room.set(out);
  return out.length;
}

/** The compressed bytes, or null when they are not worth it. */
export function compressNow(plain: Uint8Array, level: number): Uint8Array | null {
  const into = new Uint8Array(plain.length);
  const length = compressInto(into, plain, level);
  return length === 0 ? null : into.slice(0, length);
}

interface Inflated {
  readonly buffer: Buffer;
  readonly engine: { readonly bytesWritten: number };
}

/** Fills all of `into` with what `packed` holds, and nothing after it; otherwise an error that says what was found. */
export function decompressInto(into: Uint8Array, packed: Uint8Array): void {
  const wrong = (length: number): RangeError => new RangeError(`${length} bytes instead of ${into.length}`);
  const fast = zstd();
  if (fast !== null) {
    const length = fast.decompress(packed, into);
    if (length !== into.length) throw wrong(length);
    return;
  }
  // A little more room than is wanted, so that one pass shows that nothing follows.
  const options = { maxOutputLength: into.length, chunkSize: into.length + 64, info: true } as zlib.ZstdOptions;
  const { buffer, engine } = zlib.zstdDecompressSync(packed, options) as unknown as Inflated;
  if (engine.bytesWritten !== packed.length) throw new RangeError('bytes follow the compressed data');
  if (buffer.length !== into.length) throw wrong(buffer.length);
  into.set(buffer);
}

/** Exactly `length` bytes. */
export function decompressNow(packed: Uint8Array, length: number): Uint8Array {
  const into = new Uint8Array(length);
  decompressInto(into, packed);
  return into;
}
