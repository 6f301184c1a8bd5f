/** Where the blocks of a VHDX lie: [MS-VHDX] sections 2.4 and 2.5. */
import type { ByteSource, Bytes, Layer, LayerId, Location } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { pages } from '../../src/base/pages.ts';
import { BITMAP_SIZE, chunkRatio, STATE, slotOf } from './structs.ts';
import { type BlockMap, type BlockTable, blockTable, misplaced, offsetIn, PART, PARTS, stateIn } from './table.ts';

const bitOf = (bitmap: Uint8Array, bit: number): number => (bitmap[Math.floor(bit / 8)]! >> (bit % 8)) & 1;

/** First bit at or after `from` that is not `value`, `to` when there is none. The first sector is the lowest bit. */
function runEnd(bitmap: Uint8Array, from: number, to: number, value: number): number {
  const same = value === 1 ? 0xff : 0;
  let bit = from;
  while (bit < to) {
    if (bit % 8 === 0 && bitmap[bit / 8] === same) bit += 8;
    else if (bitOf(bitmap, bit) === value) bit++;
    else return bit;
  }
  return to;
}

/** How a block's sectors are shared with the parent, from the chunk's bitmap. */
function sectorBitmaps(source: ByteSource, map: BlockMap, table: BlockTable) {
  const { blockSize, sectorSize, reserved } = map;
  const ratio = chunkRatio(blockSize, sectorSize);
  const parts = pages(source, PARTS);

  /** Offset in the file of the bitmap's part that speaks of `guestAt`, and the number of the bit there; null: load. */
  const placeOf = (guestAt: Bytes): { readonly at: Bytes; readonly bit: number } | null => {
    const chunk = Math.floor(guestAt / (blockSize * ratio));
    const slot = chunk * (ratio + 1) + ratio;
    const entry = table.entry(slot);
    if (entry === null) return null;
    if (stateIn(entry) !== STATE.full) {
      const [first, last] = [chunk * ratio, (chunk + 1) * ratio - 1];
      throw table.corrupt(slot, `the sector bitmap of blocks ${first} to ${last} is missing`);
    }
    const at = offsetIn(entry);
    const wrong = misplaced(at, BITMAP_SIZE, source.size, reserved);
    if (wrong !== null) throw table.corrupt(slot, `the sector bitmap of chunk ${chunk} is said to lie ${wrong}`);
    const bit = Math.floor((guestAt - chunk * blockSize * ratio) / sectorSize);
    return { at: at + Math.floor(bit / (PART * 8)) * PART, bit: bit % (PART * 8) };
  };
  return {
    /** Whether the sector is in this file, and for how many bytes that holds; null: load. */
    locate(at: Bytes, most: Bytes): { readonly own: boolean; readonly length: Bytes } | null {
      const place = placeOf(at);
      const bitmap = place === null ? null : parts.resident(place.at);
      if (place === null || bitmap === null) return null;
      const value = bitOf(bitmap, place.bit);
      const skip = at % sectorSize;
      const last = Math.min(PART * 8, place.bit + Math.ceil((skip + most) / sectorSize));
      const end = runEnd(bitmap, place.bit, last, value);
      return { own: value === 1, length: Math.min(most, (end - place.bit) * sectorSize - skip) };
    },
    async load(at: Bytes): Promise<void> {
      await table.load(Math.floor(at / (blockSize * ratio)) * (ratio + 1) + ratio);
      const place = placeOf(at);
      if (place !== null) await parts.load(place.at, PART);
    },
  };
}

/** Without a parent the states that store nothing all read as zeros; with one, only NOT_PRESENT is the parent's. */
function emptyKind(state: number, differencing: boolean): 'absent' | 'zero' | null {
  switch (state) {
    case STATE.notPresent:
      return differencing ? 'absent' : 'zero';
    case STATE.undefined:
    case STATE.zero:
    case STATE.unmapped:
    case STATE.unmappedOld:
      return 'zero';
    default:
      return null;
  }
}

/** Reads table and bitmaps in parts as they are needed; bitmaps only for blocks that share their content with a parent. */
export function blockLayer(id: LayerId, source: ByteSource, map: BlockMap): Layer {
  const { size, blockSize, differencing, reserved } = map;
  const ratio = chunkRatio(blockSize, map.sectorSize);
  const table = blockTable(source, map);
  const bitmaps = sectorBitmaps(source, map, table);
  const isShared = (state: number): boolean => differencing && state === STATE.partial;

  const dataOf = (block: number, entry: number): Bytes => {
    const at = offsetIn(entry);
    const wrong = misplaced(at, Math.min(blockSize, size - block * blockSize), source.size, reserved);
    if (wrong === null) return at;
    throw table.corrupt(slotOf(block, ratio), `block ${block} of the disk is said to lie ${wrong}`);
  };

  const locateEmpty = (at: Bytes, limit: Bytes, block: number, state: number): Location => {
    const kind = emptyKind(state, differencing);
    if (kind === null) {
      const what = state === STATE.partial ? 'shared with a parent that the disk does not have' : `in state ${state}`;
      throw table.corrupt(slotOf(block, ratio), `block ${block} of the disk is ${what}`);
    }
    // Another state of the same kind is left to the next question.
    const end = table.runEnd(block, Math.ceil((at + limit) / blockSize), state);
    return { kind, length: Math.min(limit, end * blockSize - at) };
  };

  return {
    id,
    size,
    blockSize,
    locate(at, limit) {
      const block = Math.floor(at / blockSize);
      const entry = table.entry(slotOf(block, ratio));
      if (entry === null) return null;
      const state = stateIn(entry);
      const shared = isShared(state);
      if (state !== STATE.full && !shared) return locateEmpty(at, limit, block, state);
      const within = at % blockSize;
      const most = Math.min(limit, blockSize - within);
      const dataAt = dataOf(block, entry) + within;
      if (!shared) return { kind: 'plain', source, at: dataAt, length: most };
      const part = bitmaps.locate(at, most);
      if (part === null) return null;
      const { own, length } = part;
      return own ? { kind: 'plain', source, at: dataAt, length } : { kind: 'absent', length };
    },
    async load(at) {
      const slot = slotOf(Math.floor(at / blockSize), ratio);
      await table.load(slot);
      const entry = table.entry(slot);
      if (entry !== null && isShared(stateIn(entry))) await bitmaps.load(at);
    },
    unpack: () => Promise.reject(new ImageError('unsupported', 'a VHDX holds no packed blocks', { file: source.name })),
  };
}
