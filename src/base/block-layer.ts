/** Layers of images whose disk is cut into blocks of one length, each with an entry in a table that says where it lies. */
import type { ByteSource, Bytes, Layer, LayerId, Location } from './contracts.ts';
import { ImageError } from './errors.ts';

/** What a block is when it has no place in the file: the parent's, zeros, packed, or an entry that cannot be followed. */
export const ABSENT = -1;
export const ZERO = -2;
export const PACKED = -3;
export const BAD = -4;

export interface Blocks {
  /** File offset of the block's data, or one of the kinds above. null: the table's part is not in memory. */
  at(block: number): Bytes | null;
  load(block: number): Promise<void>;
  /** First block behind `block` that a look at another entry is needed for; `block + 1` unless a whole table is missing. */
  next?(block: number): number;
  /** What is wrong with a BAD block. */
  fault(block: number): ImageError;
}

export interface BlockLayerSpec {
  readonly id: LayerId;
  readonly source: ByteSource;
  readonly size: Bytes;
  readonly blockSize: Bytes;
  readonly blocks: Blocks;
  /** Unpacks a PACKED block; without it there are none. */
  readonly unpack?: (block: number, into: Uint8Array) => Promise<void>;
}

/** Entries that one answer looks at: long enough to merge, short enough to be asked again and again. */
const MOST_STEPS = 8192;

/** Neighbours that lie one after another in the file, or are of the same kind, make one answer. */
export function blockLayer({ id, source, size, blockSize, blocks, unpack }: BlockLayerSpec): Layer {
  const next = blocks.next ?? ((block: number): number => block + 1);
  /** First block behind `block`, at most `end`, that does not continue what `first` says. */
  const runEnd = (block: number, first: Bytes, end: number): number => {
    const step = first >= 0 ? blockSize : 0;
    let reached = next(block);
    for (let steps = 0; reached < end && steps < MOST_STEPS; steps++) {
      if (blocks.at(reached) !== first + (reached - block) * step) break;
      reached = next(reached);
    }
    return Math.min(reached, end);
  };
  return {
    id,
    size,
    blockSize,
    locate(at, limit): Location | null {
      const block = Math.floor(at / blockSize);
      const first = blocks.at(block);
      if (first === null) return null;
      if (first === BAD) throw blocks.fault(block);
      const within = at - block * blockSize;
      if (first === PACKED) return { kind: 'packed', unit: block, within, length: Math.min(limit, blockSize - within) };
      const end = limit <= blockSize - within ? block + 1 : Math.ceil((at + limit) / blockSize);
      const length = Math.min(limit, runEnd(block, first, end) * blockSize - at);
      if (first >= 0) return { kind: 'plain', source, at: first + within, length };
      return { kind: first === ZERO ? 'zero' : 'absent', length };
    },
    load: at => blocks.load(Math.floor(at / blockSize)),
    unpack:
      unpack ??
      (() => Promise.reject(new ImageError('out-of-range', 'nothing is packed in this image', { file: source.name }))),
  };
}
