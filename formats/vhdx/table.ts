/** The block allocation table: [MS-VHDX] section 2.5. */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { pages } from '../../src/base/pages.ts';
import { viewOf } from '../../src/base/struct.ts';
import { type Area, overlaps } from './header.ts';
import { chunkRatio, ENTRY_SIZE, entryCount, MIB, STATE, slotOf } from './structs.ts';

/** Parts of the table and of sector bitmaps that are read at once: 2048 entries, 4 GiB of disk in blocks of 2 MiB. */
export const PART = 16_384;
export const PARTS = 64;
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

export interface BlockTable {
  /** The entry as one number; null: its part of the table is not in memory. */
  entry(slot: number): number | null;
  load(slot: number): Promise<unknown>;
  /** First block after `block`, at most `last`, whose state is not known to be `state`; `block` is in memory. */
  runEnd(block: number, last: number, state: number): number;
  /** A fault that names the entry. */
  corrupt(slot: number, message: string): ImageError;
}

/** Reads the table in parts as it is needed. */
export function blockTable(source: ByteSource, map: BlockMap): BlockTable {
  const { tableAt } = map;
  const ratio = chunkRatio(map.blockSize, map.sectorSize);
  const end = tableAt + tableLength(map);
  const parts = pages(source, PARTS);
  const partOf = (slot: number): Bytes => tableAt + Math.floor(slot / ENTRIES_PER_PART) * PART;
  const corrupt = (slot: number, message: string): ImageError =>
    new ImageError('corrupt', message, {
      file: source.name,
      at: tableAt + slot * ENTRY_SIZE,
      field: `entry ${slot}`,
    });
  return {
    entry(slot) {
      const part = parts.resident(partOf(slot));
      if (part === null) return null;
      const entry = entryIn(viewOf(part), (slot % ENTRIES_PER_PART) * ENTRY_SIZE);
      if (entry === null) throw corrupt(slot, `entry ${slot} of the block table has bits without a meaning`);
      return entry;
    },
    load: slot => parts.load(partOf(slot), Math.min(PART, end - partOf(slot))),
    runEnd(block, last, state) {
      const first = slotOf(block, ratio);
      const view = viewOf(parts.resident(partOf(first))!);
      const start = first - (first % ENTRIES_PER_PART);
      let next = block + 1;
      for (; next < last; next++) {
        const within = (slotOf(next, ratio) - start) * ENTRY_SIZE;
        if (within >= view.byteLength || stateIn(entryIn(view, within) ?? STATE.full) !== state) break;
      }
      return next;
    },
    corrupt,
  };
}
