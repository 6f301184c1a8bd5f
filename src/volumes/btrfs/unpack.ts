/** Compressed extents. Sources: btrfs documentation, "On-disk Format"; RFC 1950; RFC 8878. */
import { promisify } from 'node:util';
import zlib from 'node:zlib';
import type { VolumeSource } from '../source.ts';
import { lzo1x } from './lzo.ts';

const inflate = promisify(zlib.inflate);
const zstdDecompress = promisify<Buffer, zlib.ZstdOptions, Buffer>(zlib.zstdDecompress);

export const COMPRESSION = { zlib: 1, lzo: 2, zstd: 3 } as const;

const ZSTD_MAGIC = 0xfd2f_b528;
const CONTENT_SIZE_BYTES = [0, 2, 4, 8] as const;
const DICTIONARY_BYTES = [0, 1, 2, 4] as const;
const BLOCK_RLE = 1;

/** Where a zstd frame ends: an extent is padded to whole sectors after it. RFC 8878, 3.1.1. */
function zstdFrame(source: VolumeSource, packed: Buffer): Buffer {
  source.check(packed.length > 8 && packed.readUInt32LE(0) === ZSTD_MAGIC, 'compressed data is no zstd frame');
  const descriptor = packed[4]!;
  const single = (descriptor >> 5) & 1;
  const sizeBytes = descriptor >> 6 === 0 ? single : CONTENT_SIZE_BYTES[(descriptor >> 6) as 1 | 2 | 3];
  let at = 5 + (1 - single) + DICTIONARY_BYTES[(descriptor & 3) as 0 | 1 | 2 | 3] + sizeBytes;
  for (let last = false; !last; ) {
    const header = packed.readUIntLE(at, 3);
    last = (header & 1) === 1;
    at += 3 + (((header >> 1) & 3) === BLOCK_RLE ? 1 : header >> 3);
  }
  const end = at + ((descriptor & 4) !== 0 ? 4 : 0);
  source.check(end <= packed.length, 'compressed data ends early');
  return packed.subarray(0, end);
}

/** Segments of one sector each; a segment's header never crosses a sector, except in data kept inline. */
function lzoSegments(source: VolumeSource, packed: Buffer, size: number, sectorSize: number, inline: boolean): Buffer {
  const out = Buffer.alloc(size);
  const total = packed.readUInt32LE(0);
  source.check(total <= packed.length, 'compressed data ends early');
  for (let read = 4, write = 0; read + 4 < total && write < size; ) {
    const left = sectorSize - (read % sectorSize);
    if (!inline && left < 4) read += left;
    const length = packed.readUInt32LE(read);
    read += 4;
    source.check(length > 0 && read + length <= total, 'compressed data is damaged');
    const target = out.subarray(write, Math.min(size, write + sectorSize));
    write += lzo1x(source, packed.subarray(read, read + length), target);
    read += length;
  }
  return out;
}

/** `size` bytes: what is packed may be shorter, and zeros follow. */
export async function unpack(
  source: VolumeSource,
  compression: number,
  packed: Buffer,
  size: number,
  sectorSize: number,
  inline: boolean,
): Promise<Buffer> {
  if (compression === COMPRESSION.lzo) return lzoSegments(source, packed, size, sectorSize, inline);
  const maxOutputLength = size + 65_536;
  let out: Buffer;
  if (compression === COMPRESSION.zlib) {
    // The padding after the stream is none of its business.
    out = await inflate(packed, { maxOutputLength, finishFlush: zlib.constants.Z_SYNC_FLUSH });
  } else if (compression === COMPRESSION.zstd) {
    out = await zstdDecompress(zstdFrame(source, packed), { maxOutputLength });
  } else throw source.unsupported(`compression ${compression} is not known`);
  return out.length >= size ? out.subarray(0, size) : Buffer.concat([out, Buffer.alloc(size - out.length)]);
}
