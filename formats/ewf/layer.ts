/** The disk: every chunk is a packed unit, whose checksum is looked at whenever it is unpacked. */
import { adler32 } from '../../src/base/checksum.ts';
import type { Bytes, Done, Layer, LayerId } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { native } from '../../src/base/native.ts';
import { chunkOpeners } from '../../src/base/packing/chunk.ts';
import { Rooms } from '../../src/base/rooms.ts';
import { viewOf } from '../../src/base/struct.ts';
import type { ChunkPlace, Directory } from './directory.ts';
import { corrupt } from './sections.ts';
import type { Segments } from './segments.ts';
import type { Geometry } from './volume.ts';

const zlib = native()?.zlib ?? null;
const CHECKSUM = 4;

/** For chunks that are stored as they are. */
const ROOMS = new Rooms();

export interface ChunkLayer {
  readonly layer: Layer;
  /** Reads the sections of all files, once; a failure is tried again by the next call. */
  directory(): Promise<Directory>;
}

/** The data before its checksum. The last chunk may be stored as long as the others, or only as far as the disk goes. */
function plainContent(raw: Uint8Array, chunkSize: Bytes, needed: Bytes): Uint8Array | null {
  for (const length of new Set([Math.min(raw.length - CHECKSUM, chunkSize), needed])) {
    if (length < needed || length + CHECKSUM > raw.length) continue;
    const content = raw.subarray(0, length);
    if ((zlib?.adler32(content) ?? adler32(content)) === viewOf(raw).getUint32(length, true)) return content;
  }
  return null;
}

/** Fills `into` with one chunk; its first `needed` bytes are bytes of the disk. */
async function readChunk(
  segments: Segments,
  place: ChunkPlace,
  unit: number,
  needed: Bytes,
  into: Uint8Array,
): Promise<void> {
  const { segment, at, compressed } = place;
  const chunkSize = into.length;
  const read = (raw: Uint8Array): Done => segments.read(segment, raw, at);
  if (compressed) {
    // The last chunk of a table reaches to the end of the section, whatever else is in it; zlib never needs so much.
    const length = Math.min(place.length, 2 * chunkSize + 1024);
    const chunk = { method: 'zlib', length: chunkSize, needed, digest: null } as const;
    const fault = await chunkOpeners.fetch(length, read, chunk, into);
    if (fault !== null) throw corrupt(`chunk ${unit} ${fault}`, segments.name(segment), at);
    return;
  }
  await ROOMS.lend(Math.min(place.length, chunkSize + CHECKSUM), async raw => {
    const reading = read(raw);
    if (reading !== undefined) await reading;
    const content = plainContent(raw, chunkSize, needed);
    if (content === null) throw corrupt(`the checksum of chunk ${unit} does not hold`, segments.name(segment), at);
    into.set(content);
    into.fill(0, content.length);
  });
}

/** Chunk by the table; where that leads nowhere, by the table's copy: the checksum shows which of them is right. */
async function unpackChunk(
  segments: Segments,
  directory: Directory,
  unit: number,
  needed: Bytes,
  into: Uint8Array,
): Promise<void> {
  try {
    const place = directory.placeNow(unit) ?? (await directory.place(unit, 'table'));
    await readChunk(segments, place!, unit, needed, into);
  } catch (error) {
    if (!(error instanceof ImageError) || error.fault !== 'corrupt') throw error;
    try {
      const copy = await directory.place(unit, 'copy');
      if (copy === null) throw error;
      await readChunk(segments, copy, unit, needed, into);
    } catch {
      throw error;
    }
  }
}

/** `geometry.chunkSize` bytes in each unit; past the end of the disk zeros. */
export function chunkLayer(id: LayerId, segments: Segments, geometry: Geometry, directoryOf: () => Promise<Directory>) {
  const { size, chunkSize } = geometry;
  chunkOpeners.prepare('zlib');
  let known: Promise<Directory> | null = null;
  let read: Directory | null = null;
  const directory = (): Promise<Directory> => {
    known ??= directoryOf().then(
      found => {
        read = found;
        return found;
      },
      error => {
        known = null;
        throw error;
      },
    );
    return known;
  };
  const layer: Layer = {
    id,
    size,
    blockSize: chunkSize,
    locate(at, limit) {
      const unit = Math.floor(at / chunkSize);
      const within = at - unit * chunkSize;
      return { kind: 'packed', unit, within, length: Math.min(limit, chunkSize - within) };
    },
    // A chunk is found by its number alone; tables are read when it is unpacked.
    async load() {},
    async unpack(unit, into) {
      const needed = Math.min(chunkSize, size - unit * chunkSize);
      await unpackChunk(segments, read ?? (await directory()), unit, needed, into);
    },
  };
  return { layer, directory } satisfies ChunkLayer;
}
