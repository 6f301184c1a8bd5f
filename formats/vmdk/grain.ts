/** Compressed grains: VMware, "Virtual Disk Format 5.0", section "Stream-Optimized Compressed Sparse Extents". */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { inflateInto } from '../../src/base/inflate.ts';
import { Rooms } from '../../src/base/rooms.ts';
import { GrainMarker } from './structs.ts';

/** Most grains are shorter than this, and need no second read. */
const FIRST_READ = 16_384;
const ROOMS = new Rooms();

/**
 * Reads the grain whose marker lies at `markerAt`, and decompresses it into all of `into`. The marker must name
 * one of `sectors`: the grain's first sector on the disk, or within its extent. 'corrupt' otherwise, and when more than
 * the grain or less than `least` comes out: a writer may leave out what lies past the disk's end. The compressed data carry a checksum (RFC 1950, Adler-32).
 */
export async function unpackGrain(
  source: ByteSource,
  markerAt: Bytes,
  sectors: readonly number[],
  into: Uint8Array,
  least: number,
): Promise<void> {
  const where = { file: source.name, at: markerAt };
  // As long as the marker may say, so that the rest lies behind the first read.
  const room = ROOMS.take(Math.max(FIRST_READ, GrainMarker.size + 2 * into.length));
  const first = room.subarray(0, Math.min(FIRST_READ, source.size - markerAt));
  await source.read(first, markerAt);
  const { lba, size } = GrainMarker.parse(first, 0, source.name);
  if (!sectors.includes(lba)) {
    throw new ImageError('corrupt', `the grain of sector ${sectors[0]} says it is that of sector ${lba}`, {
      ...where,
      field: 'lba',
    });
  }
  // What cannot be compressed becomes a little longer.
  if (size === 0 || size > 2 * into.length || markerAt + GrainMarker.size + size > source.size) {
    throw new ImageError('corrupt', `a compressed grain of ${size} bytes cannot be`, { ...where, field: 'size' });
  }
  const end = GrainMarker.size + size;
  if (end > first.length) await source.read(room.subarray(first.length, end), markerAt + first.length);
  const packed = room.subarray(GrainMarker.size, end);
  let length: number;
  try {
    length = await inflateInto(packed, into, 'zlib');
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new ImageError('corrupt', `the grain of sector ${sectors[0]} does not decompress (${why})`, where, { cause });
  }
  if (length < least) {
    throw new ImageError('corrupt', `the grain of sector ${sectors[0]} has ${length} bytes of ${least}`, where);
  }
  into.fill(0, length);
  ROOMS.give(room);
}
