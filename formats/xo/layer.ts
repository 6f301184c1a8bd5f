/** The disk of a VHD directory: each block is a file, with a bit per sector before its data. */
import type { Bytes, Layer, LayerId } from '../../src/base/contracts.ts';
import { roundUp } from '../../src/base/range.ts';
import { SECTOR } from '../../src/base/vhd.ts';
import type { Directory } from './directory.ts';

/** 2 MiB of bitmaps stay in memory for blocks of 2 MiB. */
const MOST_BITMAPS = 4096;

export interface BlockSpec {
  readonly id: LayerId;
  readonly size: Bytes;
  readonly blockSize: Bytes;
  /** A bit per block, the first one highest: 1 where there is a file. */
  readonly present: Uint8Array;
  /** Sectors whose bit is 0 belong to the parent. */
  readonly differencing: boolean;
}

export interface BlockLayer {
  readonly layer: Layer;
  readonly blocks: number;
  has(block: number): boolean;
  memberOf(block: number): string;
  /** Length of a block's file, unpacked. */
  readonly fileLength: Bytes;
}

export const bitOf = (bitmap: Uint8Array, bit: number): number => (bitmap[Math.floor(bit / 8)]! >> (7 - (bit % 8))) & 1;

export const memberOf = (block: number): string => `blocks/${Math.floor(block / 1000)}/${block % 1000}`;

export function directoryLayer(directory: Directory, spec: BlockSpec): BlockLayer {
  const { id, size, blockSize, present, differencing } = spec;
  const bitmapLength = roundUp(blockSize / SECTOR / 8, SECTOR);
  const fileLength = bitmapLength + blockSize;
  const blocks = Math.ceil(size / blockSize);
  const bitmaps = new Map<number, Uint8Array>();
  const coming = new Map<number, Promise<void>>();
  const has = (block: number): boolean => bitOf(present, block) === 1;

  const keep = (block: number, bitmap: Uint8Array): void => {
    bitmaps.set(block, bitmap);
    const oldest = bitmaps.size > MOST_BITMAPS ? bitmaps.keys().next().value : undefined;
    if (oldest !== undefined) bitmaps.delete(oldest);
  };
  /** First bit at or after `from` that is not as the one at `from`; `to` when there is none. */
  const runEnd = (bits: Uint8Array, from: number, to: number): number => {
    const bit = bitOf(bits, from);
    let at = from + 1;
    while (at < to && bitOf(bits, at) === bit) at++;
    return at;
  };
  const layer: Layer = {
    id,
    size,
    blockSize,
    locate(at, limit) {
      const block = Math.floor(at / blockSize);
      const within = at - block * blockSize;
      if (!has(block)) {
        const end = runEnd(present, block, Math.ceil((at + limit) / blockSize));
        return { kind: differencing ? 'absent' : 'zero', length: Math.min(limit, end * blockSize - at) };
      }
      const most = Math.min(limit, blockSize - within);
      // Writers leave zeros in the sectors of a full disk that nobody wrote.
      if (!differencing) return { kind: 'packed', unit: block, within, length: most };
      const bitmap = bitmaps.get(block);
      if (bitmap === undefined) return null;
      const sector = Math.floor(within / SECTOR);
      const end = runEnd(bitmap, sector, Math.ceil((within + most) / SECTOR));
      const length = Math.min(most, end * SECTOR - within);
      return bitOf(bitmap, sector) === 1 ? { kind: 'packed', unit: block, within, length } : { kind: 'absent', length };
    },
    load(at) {
      const block = Math.floor(at / blockSize);
      if (!differencing || !has(block) || bitmaps.has(block)) return Promise.resolve();
      const shared = coming.get(block);
      if (shared !== undefined) return shared;
      const bitmap = new Uint8Array(bitmapLength);
      const reading = directory
        .readPart(memberOf(block), bitmap, 0, fileLength)
        .then(() => keep(block, bitmap))
        .finally(() => coming.delete(block));
      coming.set(block, reading);
      return reading;
    },
    async unpack(unit, into) {
      await directory.readPart(memberOf(unit), into, bitmapLength, fileLength);
      // Past the end of the disk a block may hold anything.
      into.fill(0, Math.min(blockSize, size - unit * blockSize));
    },
  };
  return { layer, blocks, has, memberOf, fileLength };
}
