import { promisify } from 'node:util';
import { constants, inflateRaw } from 'node:zlib';
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import type { TwoLevelBlocks } from '../../src/base/two-level.ts';

const inflate = promisify<Uint8Array, object, Buffer>(inflateRaw);

export interface PackedIn {
  readonly source: ByteSource;
  readonly blocks: TwoLevelBlocks;
  readonly clusterBits: number;
  readonly size: Bytes;
}

/**
 * Decompresses a cluster into `into`. Bit 63 of its entry is set; below come the length of the raw deflate data, in as
 * many bits as a cluster's number of bytes takes, and their offset, of any alignment.
 */
export async function unpackCluster(
  { source, blocks, clusterBits, size }: PackedIn,
  cluster: number,
  into: Uint8Array,
): Promise<void> {
  const { high, low, at: entryAt } = await blocks.entry(cluster);
  const unit = 2 ** (31 - clusterBits);
  const rest = high % 0x8000_0000;
  const length = Math.floor(rest / unit);
  const at = (rest % unit) * 0x1_0000_0000 + low;
  const fail = (why: string, cause?: unknown): never => {
    const where = { file: source.name, at: entryAt, field: 'table' };
    throw new ImageError('corrupt', `packed cluster ${cluster} ${why}`, where, { cause });
  };
  if (length === 0 || at + length > source.size) fail(`lies beyond the end of the file, at ${at}`);
  const packed = new Uint8Array(length);
  await source.read(packed, at);
  let data: Uint8Array;
  try {
    // One byte more shows data that is too long.
    const options = {
      maxOutputLength: into.length + 1,
      chunkSize: into.length + 64,
      finishFlush: constants.Z_SYNC_FLUSH,
    };
    data = await inflate(packed, options);
  } catch (cause) {
    return fail('does not decompress', cause);
  }
  if (data.length !== into.length) fail(`gives ${data.length} bytes instead of ${into.length}`);
  into.set(data);
  into.fill(0, Math.min(into.length, size - cluster * into.length));
}
