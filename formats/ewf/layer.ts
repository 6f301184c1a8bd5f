/** The disk: every chunk is a packed unit, whose checksum is looked at whenever it is unpacked. */
import { promisify } from 'node:util';
import { inflate, inflateSync } from 'node:zlib';
import { adler32 } from '../../src/base/checksum.ts';
import type { Bytes, Layer, LayerId } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { native } from '../../src/base/native.ts';
import { viewOf } from '../../src/base/struct.ts';
import type { ChunkPlace, Directory } from './directory.ts';
import { corrupt } from './sections.ts';
import type { Segments } from './segments.ts';
import type { Geometry } from './volume.ts';

const zlib = native()?.zlib ?? null;
const unzip = promisify<Uint8Array, object, Buffer>(inflate);
const CHECKSUM = 4;
/** Up to this length a chunk is inflated at once: handing it to a pool thread takes as long as inflating it. */
const SMALL: Bytes = 65_536;

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

/** The content of a chunk as it is stored, which may be in `into`; null when its checksum does not hold. Throws what zlib says. */
function contentOf(
  raw: Uint8Array,
  compressed: boolean,
  needed: Bytes,
  into: Uint8Array,
): Uint8Array | null | Promise<Uint8Array> {
  const chunkSize = into.length;
  if (!compressed) return plainContent(raw, chunkSize, needed);
  const length = chunkSize <= SMALL && zlib !== null ? zlib.uncompress(raw, into) : -1;
  if (length >= 0) return into.subarray(0, length);
  // Without that, and to say what is wrong.
  const options = { maxOutputLength: chunkSize, chunkSize: chunkSize + 64 };
  return chunkSize <= SMALL ? inflateSync(raw, options) : unzip(raw, options);
}

/** A buffer that chunks are read into, one after the other, as long as reading and unpacking wait for nothing. */
interface Tray {
  free: Uint8Array;
}

/** Fills `into` with one chunk; its first `needed` bytes are bytes of the disk. */
async function readChunk(
  segments: Segments,
  tray: Tray,
  place: ChunkPlace,
  unit: number,
  needed: Bytes,
  into: Uint8Array,
): Promise<void> {
  const { segment, at, compressed } = place;
  const chunkSize = into.length;
  // The last chunk of a table reaches to the end of the section, whatever else is in it; zlib never needs so much.
  const most = compressed ? 2 * chunkSize + 1024 : chunkSize + CHECKSUM;
  const length = Math.min(place.length, most);
  if (tray.free.length < length) tray.free = new Uint8Array(most);
  const raw = tray.free.subarray(0, length);
  const reading = segments.read(segment, raw, at);
  // Who has to wait keeps the buffer, and the next chunk gets another.
  if (reading !== undefined || chunkSize > SMALL) tray.free = new Uint8Array(0);
  if (reading !== undefined) await reading;
  let content: Uint8Array | null;
  try {
    const got = contentOf(raw, compressed, needed, into);
    content = got instanceof Promise ? await got : got;
  } catch (cause) {
    const where = { file: segments.name(segment), at };
    throw new ImageError('corrupt', `chunk ${unit} cannot be unpacked`, where, { cause });
  }
  if (content === null) throw corrupt(`the checksum of chunk ${unit} does not hold`, segments.name(segment), at);
  if (content.length < needed) {
    const message = `chunk ${unit} has ${content.length} bytes and should have ${needed}`;
    throw corrupt(message, segments.name(segment), at);
  }
  if (content.buffer !== into.buffer || content.byteOffset !== into.byteOffset) into.set(content);
  into.fill(0, content.length);
}

/** Chunk by the table; where that leads nowhere, by the table's copy: the checksum shows which of them is right. */
async function unpackChunk(
  segments: Segments,
  tray: Tray,
  directory: Directory,
  unit: number,
  needed: Bytes,
  into: Uint8Array,
): Promise<void> {
  try {
    const place = directory.placeNow(unit) ?? (await directory.place(unit, 'table'));
    await readChunk(segments, tray, place!, unit, needed, into);
  } catch (error) {
    if (!(error instanceof ImageError) || error.fault !== 'corrupt') throw error;
    try {
      const copy = await directory.place(unit, 'copy');
      if (copy === null) throw error;
      await readChunk(segments, tray, copy, unit, needed, into);
    } catch {
      throw error;
    }
  }
}

/** `geometry.chunkSize` bytes in each unit; past the end of the disk zeros. */
export function chunkLayer(id: LayerId, segments: Segments, geometry: Geometry, directoryOf: () => Promise<Directory>) {
  const { size, chunkSize } = geometry;
  let known: Promise<Directory> | null = null;
  let read: Directory | null = null;
  const tray: Tray = { free: new Uint8Array(0) };
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
      await unpackChunk(segments, tray, read ?? (await directory()), unit, needed, into);
    },
  };
  return { layer, directory } satisfies ChunkLayer;
}
