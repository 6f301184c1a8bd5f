/**
 * zstd of single frames through the library that is part of Node, by the optional package `koffi`: `node:zlib` makes a context,
 * buffers and an object for every call, which takes longer than a block. Here a thread has one context of each kind, and those
 * that were needed at once on pool threads.
 */
import { zstdDecompress } from 'node:zlib';
import { callAside } from './aside.ts';
import type { Koffi } from './native.ts';
import { koffi } from './native.ts';
import { Pace } from './pace.ts';

export interface Zstd {
  /** Length of the frame that was put at the start of `into`; 0: it does not fit. */
  compress(plain: Uint8Array, level: number, into: Uint8Array): number;
  /**
   * Bytes that were put at the start of `into`. Throws when `packed` is not one whole frame, and nothing else, of at most that
   * many bytes; what is in `into` is not to be used then.
   */
  decompress(packed: Uint8Array, into: Uint8Array): number;
  /** As `decompress`, on a pool thread. */
  decompressAside(packed: Uint8Array, into: Uint8Array): Promise<number>;
  /** Length of the frame that `packed` begins with. Throws when it begins with none, or ends inside it. */
  frameLength(packed: Uint8Array): number;
}

/** The error of what does not fit (zstd_errors.h, ZSTD_error_dstSize_tooSmall). */
const TOO_SMALL = -70;

/** First bytes of a frame (RFC 8878, section 3.1.1), as a number; others are skippable frames and what older versions wrote. */
const MAGIC = 0xfd2fb528;

const magicOf = (packed: Uint8Array): number =>
  packed.length < 4 ? 0 : ((packed[3]! << 24) | (packed[2]! << 16) | (packed[1]! << 8) | packed[0]!) >>> 0;

function open({ load }: Koffi): Zstd {
  // The program itself: Node has the library inside, and exports it.
  const node = load(null);
  // Lengths come as signed numbers: errors are the negative ones.
  const newCompressor = node.func('void *ZSTD_createCCtx()');
  const freeCompressor = node.func('int64_t ZSTD_freeCCtx(void *)');
  const compress = node.func('int64_t ZSTD_compressCCtx(void *, void *, size_t, void *, size_t, int)');
  const newDecompressor = node.func('void *ZSTD_createDCtx()');
  const freeDecompressor = node.func('int64_t ZSTD_freeDCtx(void *)');
  const decompress = node.func('int64_t ZSTD_decompressDCtx(void *, void *, size_t, void *, size_t)');
  const frameLength = node.func('int64_t ZSTD_findFrameCompressedSize(void *, size_t)');
  const errorName = node.func('const char *ZSTD_getErrorName(int64_t)');
  let compressor: unknown = null;
  let decompressor: unknown = null;
  // As many as were needed at once; never freed, since a thread may be at work when the program ends.
  const aside: unknown[] = [];
  // A thread that ends leaves nothing behind.
  process.once('exit', () => {
    if (compressor !== null) freeCompressor(compressor);
    if (decompressor !== null) freeDecompressor(decompressor);
  });
  const checked = (length: unknown): number => {
    if (typeof length === 'number' && length >= 0) return length;
    throw new RangeError(String(errorName(length)));
  };
  const lengthOf = (packed: Uint8Array): number => {
    if (magicOf(packed) !== MAGIC) throw new RangeError('no zstd frame');
    return checked(frameLength(packed, packed.length));
  };
  return {
    frameLength: lengthOf,
    compress(plain, level, into) {
      compressor ??= newCompressor();
      const length = compress(compressor, into, into.length, plain, plain.length, level);
      return length === TOO_SMALL ? 0 : checked(length);
    },
    decompress(packed, into) {
      if (lengthOf(packed) !== packed.length) throw new RangeError('bytes follow the compressed data');
      decompressor ??= newDecompressor();
      return checked(decompress(decompressor, into, into.length, packed, packed.length));
    },
    async decompressAside(packed, into) {
      if (lengthOf(packed) !== packed.length) throw new RangeError('bytes follow the compressed data');
      let context: unknown = null;
      try {
        const length = await callAside(told => {
          context = aside.pop() ?? newDecompressor();
          decompress.async(context, into, into.length, packed, packed.length, told);
        });
        return checked(length);
      } finally {
        if (context !== null) aside.push(context);
      }
    },
  };
}

let opened: Zstd | null | undefined;

/** null: not to be had here. */
export function zstd(): Zstd | null {
  if (opened === undefined) {
    try {
      const found = koffi();
      opened = found === null ? null : open(found);
    } catch {
      // A Node without the library inside, or with one that it keeps to itself.
      opened = null;
    }
  }
  return opened;
}

function unzstdByNode(packed: Uint8Array, into: Uint8Array): Promise<number> {
  // The room beyond the length lets the decoder see that its frame has ended; without it, it goes on into what follows.
  const options = { maxOutputLength: into.length, chunkSize: into.length + 64 };
  return new Promise((resolve, reject) => {
    zstdDecompress(packed, options, (error, out) => {
      if (error === null) into.set(out);
      if (error === null) resolve(out.length);
      else reject(error);
    });
  });
}

/** How long frames take that are opened in the caller's thread. */
const pace = new Pace();

/**
 * Decompresses the frame that `packed` begins with to the start of `into`; gives the length, and what is in `into` behind it
 * is not to be used. What follows the frame is ignored. Fails for damage, for what is cut off and for more than there is room
 * for; nothing in `into` is to be used then. At once while frames are quick, else on a pool thread.
 */
export function unzstdInto(packed: Uint8Array, into: Uint8Array): number | Promise<number> {
  const fast = zstd();
  if (fast === null) return unzstdByNode(packed, into);
  const frame = packed.subarray(0, fast.frameLength(packed));
  if (!pace.isQuick()) return fast.decompressAside(frame, into);
  const began = performance.now();
  try {
    return fast.decompress(frame, into);
  } finally {
    pace.took(performance.now() - began);
  }
}
