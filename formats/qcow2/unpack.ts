/** Decompression of one cluster, on a pool thread. */
import { promisify } from 'node:util';
import { constants, inflateRaw, zstdDecompress } from 'node:zlib';
import type { Compression } from './header.ts';

const inflate = promisify<Uint8Array, object, Buffer>(inflateRaw);
const unzstd = promisify<Uint8Array, object, Buffer>(zstdDecompress);

/**
 * Decompresses `packed` and returns exactly `length` bytes, or throws. What follows the compressed data is ignored: the
 * image gives its length in 512-byte sectors only. "zlib" is raw deflate (docs/interop/qcow2.txt, "Compressed clusters").
 */
export async function decompress(packed: Uint8Array, compression: Compression, length: number): Promise<Uint8Array> {
  // The room beyond `length` lets the decoder see that its frame has ended; without it zstd goes on into what follows.
  const options = { maxOutputLength: length, chunkSize: length + 64 };
  const out =
    compression === 'zstd'
      ? await unzstd(packed, options)
      : await inflate(packed, { ...options, finishFlush: constants.Z_SYNC_FLUSH });
  if (out.length !== length) throw new RangeError(`only ${out.length} of ${length} bytes come out`);
  return out;
}
