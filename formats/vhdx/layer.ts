/** Where the blocks of a VHDX lie: [MS-VHDX] sections 2.4 and 2.5. */
import type { ByteSource, Bytes, Layer, LayerId, Location } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { pages } from '../../src/base/pages.ts';
import { viewOf } from '../../src/base/struct.ts';
import { type Area, overlaps } from './header.ts';
import { BITMAP_SIZE, chunkRatio, ENTRY_SIZE, entryCount, MIB, STATE, slotOf } from './structs.ts';

/** Parts of the table and of sector bitmaps that are read at once: 2048 entries, 4 GiB of disk in blocks of 2 MiB. */
const PART = 16_384;
const PARTS = 64;
const ENTRIES_PER_PART = PART / ENTRY_SIZE;

export interface BlockMap {
  readonly size: Bytes;
  readonly blockSize: Bytes;
  readonly sectorSize: number;
  /** Offset of the block allocation table. */
  readonly tableAt: Bytes;
  /** Blocks that are not present, and sectors whose bit is 0, belong to the parent. */
  readonly differencing: boolean;
  /** Where no block can lie. */
  readonly reserved: readonly Area[];
}

export const blockCount = ({ size, blockSize }: BlockMap): number => Math.ceil(size / blockSize);
export const tableLength = (map: BlockMap): Bytes =>
  ENTRY_SIZE * entryCount(blockCount(map), chunkRatio(map.blockSize, map.sectorSize), map.differencing);

/** A BAT entry as one number: the file offset in MiB times 8, plus the state. */
export const stateIn = (entry: number): number => entry % 8;
export const offsetIn = (entry: number): Bytes => Math.floor(entry / 8) * MIB;

/** The entry at `at` of a part of the table; null when bits are set that have no meaning. */
export function entryIn(part: DataView, at: number): number | null {
  const low = part.getUint32(at, true);
  if ((low & 0xf_fff8) !== 0) return null;
  return (part.getUint32(at + 4, true) * 4096 + (low >>> 20)) * 8 + (low & 7);
}

/** What is wrong with the place of `length` bytes, or null. */
export function misplaced(at: Bytes, length: Bytes, size: Bytes, reserved: readonly Area[]): string | null {
  if (at < MIB || reserved.some(area => overlaps(area, { at, length }))) return `in the file's metadata, at ${at}`;
  return at + length > size ? `beyond the end of the file, at ${at}` : null;
}

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

/** Reads the table in parts as it is needed; sector bitmaps are read for blocks that share their content with a parent. */
export function blockLayer(id: LayerId, source: ByteSource, map: BlockMap): Layer {
  const { size, blockSize, sectorSize, tableAt, differencing, reserved } = map;
  const file = source.name;
  const ratio = chunkRatio(blockSize, sectorSize);
  const tableEnd = tableAt + tableLength(map);
  const table = pages(source, PARTS);
  const bitmaps = pages(source, PARTS);
  const partOf = (slot: number): Bytes => tableAt + Math.floor(slot / ENTRIES_PER_PART) * PART;
  const loadPart = (slot: number) => table.load(partOf(slot), Math.min(PART, tableEnd - partOf(slot)));

  const corrupt = (slot: number, message: string): ImageError =>
    new ImageError('corrupt', message, { file, at: tableAt + slot * ENTRY_SIZE, field: `entry ${slot}` });

  /** null: the table's part is not in memory. */
  const entryOf = (slot: number): number | null => {
    const part = table.resident(partOf(slot));
    if (part === null) return null;
    const entry = entryIn(viewOf(part), (slot % ENTRIES_PER_PART) * ENTRY_SIZE);
    if (entry === null) throw corrupt(slot, `entry ${slot} of the block table has bits without a meaning`);
    return entry;
  };

  const dataOf = (block: number, entry: number): Bytes => {
    const at = offsetIn(entry);
    const used = Math.min(blockSize, size - block * blockSize);
    const wrong = misplaced(at, used, source.size, reserved);
    if (wrong !== null) throw corrupt(slotOf(block, ratio), `block ${block} of the disk is said to lie ${wrong}`);
    return at;
  };

  /** Offset in the file of the bitmap's part that speaks of `guestAt`, and the number of the bit there; null: load. */
  const bitmapOf = (guestAt: Bytes): { readonly at: Bytes; readonly bit: number } | null => {
    const chunk = Math.floor(guestAt / (blockSize * ratio));
    const slot = chunk * (ratio + 1) + ratio;
    const entry = entryOf(slot);
    if (entry === null) return null;
    if (stateIn(entry) !== STATE.full) {
      throw corrupt(slot, `the sector bitmap of blocks ${chunk * ratio} to ${(chunk + 1) * ratio - 1} is missing`);
    }
    const at = offsetIn(entry);
    const wrong = misplaced(at, BITMAP_SIZE, source.size, reserved);
    if (wrong !== null) throw corrupt(slot, `the sector bitmap of chunk ${chunk} is said to lie ${wrong}`);
    const bit = Math.floor((guestAt - chunk * blockSize * ratio) / sectorSize);
    return { at: at + Math.floor(bit / (PART * 8)) * PART, bit: bit % (PART * 8) };
  };

  /** Without a parent the states that store nothing all read as zeros; with one, only NOT_PRESENT is the parent's. */
  const emptyKind = (block: number, state: number): 'absent' | 'zero' => {
    switch (state) {
      case STATE.notPresent:
        return differencing ? 'absent' : 'zero';
      case STATE.undefined:
      case STATE.zero:
      case STATE.unmapped:
      case STATE.unmappedOld:
        return 'zero';
    }
    const what = state === STATE.partial ? 'shared with a parent that the disk does not have' : `in state ${state}`;
    throw corrupt(slotOf(block, ratio), `block ${block} of the disk is ${what}`);
  };

  /** Length of the stretch of one kind from `at` on, as far as the table's part in memory tells. */
  const emptyLength = (at: Bytes, limit: Bytes, block: number, state: number): Bytes => {
    const first = slotOf(block, ratio);
    const view = viewOf(table.resident(partOf(first))!);
    const start = first - (first % ENTRIES_PER_PART);
    const last = Math.ceil((at + limit) / blockSize);
    let next = block + 1;
    for (; next < last; next++) {
      const within = (slotOf(next, ratio) - start) * ENTRY_SIZE;
      // Another state of the same kind is left to the next question.
      if (within >= view.byteLength || stateIn(entryIn(view, within) ?? STATE.full) !== state) break;
    }
    return Math.min(limit, next * blockSize - at);
  };

  const locateShared = (at: Bytes, most: Bytes, dataAt: Bytes): Location | null => {
    const place = bitmapOf(at);
    const bitmap = place === null ? null : bitmaps.resident(place.at);
    if (place === null || bitmap === null) return null;
    const value = bitOf(bitmap, place.bit);
    const skip = at % sectorSize;
    const end = runEnd(bitmap, place.bit, Math.min(PART * 8, place.bit + Math.ceil((skip + most) / sectorSize)), value);
    const length = Math.min(most, (end - place.bit) * sectorSize - skip);
    return value === 1 ? { kind: 'plain', source, at: dataAt, length } : { kind: 'absent', length };
  };

  return {
    id,
    size,
    blockSize,
    locate(at, limit) {
      const block = Math.floor(at / blockSize);
      const entry = entryOf(slotOf(block, ratio));
      if (entry === null) return null;
      const state = stateIn(entry);
      const shared = state === STATE.partial && differencing;
      if (state !== STATE.full && !shared) {
        return { kind: emptyKind(block, state), length: emptyLength(at, limit, block, state) };
      }
      const within = at % blockSize;
      const most = Math.min(limit, blockSize - within);
      const dataAt = dataOf(block, entry) + within;
      return shared ? locateShared(at, most, dataAt) : { kind: 'plain', source, at: dataAt, length: most };
    },
    async load(at) {
      const block = Math.floor(at / blockSize);
      const slot = slotOf(block, ratio);
      await loadPart(slot);
      const entry = entryOf(slot);
      if (!differencing || entry === null || stateIn(entry) !== STATE.partial) return;
      await loadPart(Math.floor(block / ratio) * (ratio + 1) + ratio);
      const place = bitmapOf(at);
      if (place !== null) await bitmaps.load(place.at, PART);
    },
    unpack: () => Promise.reject(new ImageError('unsupported', 'a VHDX holds no packed blocks', { file })),
  };
}
