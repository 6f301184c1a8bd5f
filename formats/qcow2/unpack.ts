/** Decompression of one cluster: at once where that is quick, else on a pool thread. */
import { inflateInto } from '../../src/base/inflate.ts';
import { unzstdInto } from '../../src/base/zstd.ts';
import type { Compression } from './header.ts';

/**
 * Fills all of `into`, or throws. What follows the compressed data is ignored: the image gives its length in 512-byte sectors
 * only. "zlib" is raw deflate (docs/interop/qcow2.txt, "Compressed clusters").
 */
export async function decompress(packed: Uint8Array, compression: Compression, into: Uint8Array): Promise<void> {
  const working = compression === 'zstd' ? unzstdInto(packed, into) : inflateInto(packed, into, 'raw');
  const length = typeof working === 'number' ? working : await working;
  if (length !== into.length) throw new RangeError(`only ${length} of ${into.length} bytes come out`);
}
