/**
 * One disk put together from parts: volumes that were backed up apart, and bytes that are known (a boot track, a
 * partition table). Pure arithmetic over `locate`; what reads a volume belongs to its format.
 */
import type { ByteSource, Bytes, Layer, LayerId, Location } from './contracts.ts';
import { ImageError } from './errors.ts';
import { lastAtOrBefore } from './range.ts';

/** A layer's way of answering, with offsets that count from the volume's start. */
export interface Volume extends Pick<Layer, 'blockSize' | 'locate' | 'load' | 'unpack' | 'deferred'> {
  /** Its unit numbers are below this. */
  readonly units: number;
}

export interface VolumePart {
  /** Where the volume starts on the disk. */
  readonly at: Bytes;
  /** So much of it is shown. */
  readonly length: Bytes;
  readonly volume: Volume;
}

export interface BytesPart {
  readonly at: Bytes;
  readonly bytes: Uint8Array;
  /** What the bytes are, for messages. */
  readonly name: string;
}

export type DiskPart = VolumePart | BytesPart;

export interface AssembleSpec {
  readonly id: LayerId;
  readonly size: Bytes;
  /** In any order; a later one lies over the earlier ones. What none covers reads as zeros. */
  readonly parts: readonly DiskPart[];
}

/** A source over bytes in memory, which stay the caller's. */
export function memorySource(name: string, bytes: Uint8Array): ByteSource {
  return {
    name,
    size: bytes.length,
    read(into, at) {
      if (at < 0 || at + into.length > bytes.length)
        throw new ImageError('corrupt', `${into.length} bytes at ${at} are not there`, { file: name, at });
      into.set(bytes.subarray(at, at + into.length));
    },
    async [Symbol.asyncDispose]() {},
  };
}

interface Piece {
  readonly from: Bytes;
  readonly to: Bytes;
  /** Where offset 0 of the part lies on the disk. */
  readonly origin: Bytes;
  readonly content: Content;
}

type Content =
  | { readonly kind: 'gap' }
  | { readonly kind: 'bytes'; readonly source: ByteSource }
  | { readonly kind: 'volume'; readonly volume: Volume; readonly firstUnit: number };

/** Puts a piece over what is there already. */
function cover(pieces: readonly Piece[], over: Piece): Piece[] {
  if (over.to <= over.from) return [...pieces];
  const rest = pieces.flatMap(piece => [
    { ...piece, to: Math.min(piece.to, over.from) },
    { ...piece, from: Math.max(piece.from, over.to) },
  ]);
  return [...rest.filter(piece => piece.from < piece.to), over].sort((a, b) => a.from - b.from);
}

interface Placed {
  readonly pieces: readonly Piece[];
  /** First unit of each volume, ascending, and the volumes in that order. */
  readonly firstUnits: readonly number[];
  readonly volumes: readonly Volume[];
}

function place({ size, parts }: AssembleSpec): Placed {
  let pieces: Piece[] = size > 0 ? [{ from: 0, to: size, origin: 0, content: { kind: 'gap' } }] : [];
  const firstUnits: number[] = [];
  const volumes: Volume[] = [];
  let units = 0;
  for (const part of parts) {
    const length = 'bytes' in part ? part.bytes.length : part.length;
    const span = { from: Math.max(0, part.at), to: Math.min(size, part.at + length), origin: part.at };
    if ('bytes' in part) {
      const source = memorySource(part.name, part.bytes);
      pieces = cover(pieces, { ...span, content: { kind: 'bytes', source } });
      continue;
    }
    pieces = cover(pieces, { ...span, content: { kind: 'volume', volume: part.volume, firstUnit: units } });
    firstUnits.push(units);
    volumes.push(part.volume);
    units += part.volume.units;
  }
  return { pieces, firstUnits, volumes };
}

/**
 * The disk as a layer. A unit of a volume appears under a number of its own; `blockSize` is that of the volume with the
 * largest blocks, and the units of the others fill its beginning.
 */
export function assembleDisk(spec: AssembleSpec): Layer {
  const { pieces, firstUnits, volumes } = place(spec);
  const starts = pieces.map(piece => piece.from);
  const pieceAt = (at: Bytes): Piece => pieces[lastAtOrBefore(starts, at)]!;
  const blockSize = volumes.reduce((most, volume) => Math.max(most, volume.blockSize), 4096);
  return {
    id: spec.id,
    size: spec.size,
    blockSize,
    locate(at, limit): Location | null {
      const { to, origin, content } = pieceAt(at);
      const most = Math.min(limit, to - at);
      switch (content.kind) {
        case 'gap':
          return { kind: 'zero', length: most };
        case 'bytes':
          return { kind: 'plain', source: content.source, at: at - origin, length: most };
        case 'volume': {
          const found = content.volume.locate(at - origin, most);
          return found?.kind === 'packed' ? { ...found, unit: content.firstUnit + found.unit } : found;
        }
      }
    },
    async load(at, limit) {
      const { to, origin, content } = pieceAt(at);
      if (content.kind === 'volume') await content.volume.load(at - origin, Math.min(limit, to - at));
    },
    deferred: () => volumes.some(volume => volume.deferred?.() === true),
    async unpack(unit, into) {
      const index = lastAtOrBefore(firstUnits, unit);
      const volume = volumes[index];
      if (volume === undefined) throw new ImageError('out-of-range', `there is no unit ${unit}`);
      await volume.unpack(unit - firstUnits[index]!, into.subarray(0, volume.blockSize));
      into.fill(0, volume.blockSize);
    },
  };
}
