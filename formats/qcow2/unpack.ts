/** Decompression of one cluster: at once where that is quick, else on a pool thread. */
import { zstdDecompress } from 'node:zlib';
import { inflateInto } from '../../src/base/inflate.ts';
import { Pace } from '../../src/base/pace.ts';
import { zstd } from '../../src/base/zstd.ts';
import type { Compression } from './header.ts';

const pace = new Pace();

function unzstdAside(packed: Uint8Array, into: Uint8Array): Promise<number> {
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

function unzstd(packed: Uint8Array, into: Uint8Array): number | Promise<number> {
  const fast = zstd();
  if (fast === null || !pace.isQuick()) return unzstdAside(packed, into);
  const began = performance.now();
  try {
    return fast.decompress(packed.subarray(0, fast.frameLength(packed)), into);
  } finally {
    pace.took(performance.now() - began);
  }
}

/**
 * Fills all of `into`, or throws. What follows the compressed data is ignored: the image gives its length in 512-byte sectors
 * only. "zlib" is raw deflate (docs/interop/qcow2.txt, "Compressed clusters").
 */
export async function decompress(packed: Uint8Array, compression: Compression, into: Uint8Array): Promise<void> {
  const working = compression === 'zstd' ? unzstd(packed, into) : inflateInto(packed, into, 'raw');
  const length = typeof working === 'number' ? working : await working;
  if (length !== into.length) throw new RangeError(`only ${length} of ${into.length} bytes come out`);
}
