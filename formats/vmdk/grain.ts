/** Compressed grains: VMware, "Virtual Disk Format 5.0", section "Stream-Optimized Compressed Sparse Extents". */
import { promisify } from 'node:util';
import { inflate } from 'node:zlib';
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { GrainMarker } from './structs.ts';

const decode = promisify<Uint8Array, object, Buffer>(inflate);

/** Most grains are shorter than this, and need no second read. */
const FIRST_READ = 16_384;

/**
 * Reads the grain whose marker lies at `markerAt`, and decompresses it into all of `into`, on a pool thread. The marker
 * must name one of `sectors`: the grain's first sector on the disk, or within its extent. 'corrupt' otherwise, and when
 * more than the grain or less than `least` comes out: a writer may leave out what lies past the disk's end. The
 * compressed data carries a checksum (RFC 1950, Adler-32).
 */
export async function unpackGrain(
  source: ByteSource,
  markerAt: Bytes,
  sectors: readonly number[],
  into: Uint8Array,
  least: number,
): Promise<void> {
  const where = { file: source.name, at: markerAt };
  const first = new Uint8Array(Math.min(FIRST_READ, source.size - markerAt));
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
  let packed = first.subarray(GrainMarker.size, GrainMarker.size + size);
  if (packed.length < size) {
    packed = new Uint8Array(size);
    packed.set(first.subarray(GrainMarker.size));
    const had = first.length - GrainMarker.size;
    await source.read(packed.subarray(had), markerAt + first.length);
  }
  let out: Uint8Array;
  try {
    out = await decode(packed, { maxOutputLength: into.length, chunkSize: into.length + 64 });
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new ImageError('corrupt', `the grain of sector ${sectors[0]} does not decompress (${why})`, where, { cause });
  }
  if (out.length < least) {
    throw new ImageError('corrupt', `the grain of sector ${sectors[0]} has ${out.length} bytes of ${least}`, where);
  }
  into.set(out);
  into.fill(0, out.length);
}
