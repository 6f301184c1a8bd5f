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

/** Exactly `length` bytes, and nothing after them; otherwise an error that says what was found. */
export function decompress(packed: Uint8Array, length: number): Promise<Uint8Array<ArrayBuffer>> {
  return new Promise((resolve, reject) => {
    // The types leave out `info`, which makes the callback's result carry the engine with its count of consumed bytes.
    zlib.zstdDecompress(packed, { maxOutputLength: length, info: true } as zlib.ZstdOptions, (error, result) => {
      if (error) return reject(error);
      const { buffer, engine } = result as unknown as Inflated;
      if (engine.bytesWritten !== packed.length) return reject(new RangeError('bytes follow the compressed data'));
      if (buffer.length !== length) return reject(new RangeError(`${buffer.length} bytes instead of ${length}`));
      resolve(new Uint8Array(buffer.buffer as ArrayBuffer, buffer.byteOffset, buffer.length));
    });
  });
}

interface Inflated {
  readonly buffer: Buffer;
  readonly engine: { readonly bytesWritten: number };
}

/** As `decompress`, at once: for what is at most a page. */
export function decompressNow(packed: Uint8Array, length: number): Uint8Array {
  const options = { maxOutputLength: length, info: true } as zlib.ZstdOptions;
  const { buffer, engine } = zlib.zstdDecompressSync(packed, options) as unknown as Inflated;
  if (engine.bytesWritten !== packed.length || buffer.length !== length) {
    throw new RangeError('the compressed data has another length');
  }
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.length);
}
