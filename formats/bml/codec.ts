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

/** Up to this length a block is opened in the calling thread: a turn through the thread pool takes longer. */
const AT_ONCE = 1024 * 1024;

interface Inflated {
  readonly buffer: Buffer;
  readonly engine: { readonly bytesWritten: number };
}

/** The types leave out `info`, which makes the result carry the engine with its count of consumed bytes. */
const exactly = (length: number): zlib.ZstdOptions =>
  // The whole result in one piece, and room to see its end: nothing to join, no second turn.
  ({ maxOutputLength: length, chunkSize: length + 64, info: true }) as zlib.ZstdOptions;

function checked({ buffer, engine }: Inflated, packed: Uint8Array, length: number): Uint8Array<ArrayBuffer> {
  if (engine.bytesWritten !== packed.length) throw new RangeError('bytes follow the compressed data');
  if (buffer.length !== length) throw new RangeError(`${buffer.length} bytes instead of ${length}`);
  return new Uint8Array(buffer.buffer as ArrayBuffer, buffer.byteOffset, buffer.length);
}

/** Exactly `length` bytes, and nothing after them; otherwise an error that says what was found. */
export function decompress(
  packed: Uint8Array,
  length: number,
): Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>> {
  if (length <= AT_ONCE) return decompressNow(packed, length);
  return new Promise<Inflated>((resolve, reject) => {
    zlib.zstdDecompress(packed, exactly(length), (error, result) =>
      error ? reject(error) : resolve(result as unknown as Inflated),
    );
  }).then(inflated => checked(inflated, packed, length));
}

/** As `decompress`, at once. */
export const decompressNow = (packed: Uint8Array, length: number): Uint8Array<ArrayBuffer> =>
  checked(zlib.zstdDecompressSync(packed, exactly(length)) as unknown as Inflated, packed, length);
