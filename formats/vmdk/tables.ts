/** Grains found through a directory and tables: one way for the three sparse extents, which differ in their entries. */

import { ABSENT, BAD, type Blocks, blockLayer, PACKED, ZERO } from '../../src/base/block-layer.ts';
import type { ByteSource, Bytes, Layer, LayerId } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { pages } from '../../src/base/pages.ts';
import { viewOf } from '../../src/base/struct.ts';
import { unpackGrain } from './grain.ts';

/** Tables are read in stretches of this length, at multiples of it; an entry never lies across two. */
const PAGE = 16_384;

export interface GrainTables {
  readonly source: ByteSource;
  /** Length of the extent's share of the disk, and of one grain. */
  readonly size: Bytes;
  readonly grain: Bytes;
  /** File offset of the directory; checked to lie inside the file with all entries that the size needs. */
  readonly directoryAt: Bytes;
  readonly entrySize: 4 | 8;
  readonly perTable: number;
  /** File offset of the table that a directory entry names; ABSENT when there is none, BAD for nonsense. */
  table(view: DataView, at: number): Bytes;
  /** File offset of a grain's data; ABSENT, ZERO, or BAD for nonsense. */
  place(view: DataView, at: number): Bytes;
  /** Grains are packed, each with its marker before it. */
  readonly packed: boolean;
}

/** What the extent is a part of. */
export interface Part {
  readonly id: LayerId;
  /** Sectors of the disk before the extent. */
  readonly firstSector: number;
  /** Pages of tables that may stay in memory. */
  readonly pages: number;
  /** A disk lies below this one. */
  readonly hasParent: boolean;
}

/** The part of the disk that one sparse file holds, as a layer of its own. */
export function grainLayer(tables: GrainTables, part: Part): Layer {
  const { source, size, grain, directoryAt, entrySize, perTable, packed } = tables;
  const kept = pages(source, part.pages);
  const tableLength = perTable * entrySize;
  const nobody = part.hasParent ? ABSENT : ZERO;

  // Neighbours are asked for one after another: they have a table and a page in common, as a rule.
  let lastPage: Uint8Array | null = null;
  let lastView: DataView | null = null;
  let lastTable = -1;
  let lastTableAt: Bytes = ABSENT;

  const pageAt = (at: Bytes): Bytes => at - (at % PAGE);
  const view = (at: Bytes): DataView | null => {
    const page = kept.resident(pageAt(at));
    if (page !== lastPage) {
      lastPage = page;
      lastView = page === null ? null : viewOf(page);
    }
    return lastView;
  };
  const loadPage = async (at: Bytes): Promise<void> => {
    await kept.load(pageAt(at), Math.min(PAGE, source.size - pageAt(at)));
  };
  const directoryEntry = (block: number): Bytes => directoryAt + Math.floor(block / perTable) * entrySize;

  /** null: the directory's page is not in memory. */
  const tableOf = (block: number): Bytes | null => {
    const number = Math.floor(block / perTable);
    if (number === lastTable) return lastTableAt;
    const at = directoryEntry(block);
    const page = view(at);
    if (page === null) return null;
    const table = tables.table(page, at % PAGE);
    lastTableAt = table >= 0 && table + tableLength > source.size ? BAD : table;
    lastTable = number;
    return lastTableAt;
  };
  const entryAt = (table: Bytes, block: number): Bytes => table + (block % perTable) * entrySize;

  /** File offset of the grain's data (or of its marker), or what it is instead. */
  const placeOf = (block: number): Bytes | null => {
    const table = tableOf(block);
    if (table === null || table === BAD) return table;
    if (table === ABSENT) return nobody;
    const at = entryAt(table, block);
    const page = view(at);
    if (page === null) return null;
    const place = tables.place(page, at % PAGE);
    if (place === ABSENT) return nobody;
    return place >= source.size ? BAD : place;
  };

  const load = async (block: number): Promise<void> => {
    if (tableOf(block) === null) await loadPage(directoryEntry(block));
    const table = tableOf(block);
    if (table !== null && table >= 0) await loadPage(entryAt(table, block));
  };
  const blocks: Blocks = {
    at(block) {
      const place = placeOf(block);
      return packed && place !== null && place >= 0 ? PACKED : place;
    },
    load,
    next: block => (tableOf(block) === ABSENT ? (Math.floor(block / perTable) + 1) * perTable : block + 1),
    fault(block) {
      const table = tableOf(block);
      const inTable = table !== null && table >= 0;
      const at = inTable ? entryAt(table, block) : directoryEntry(block);
      const message = inTable
        ? `the entry of grain ${block} makes no sense`
        : `grain table ${Math.floor(block / perTable)} lies outside the file`;
      return new ImageError('corrupt', message, {
        file: source.name,
        at,
        field: inTable ? 'grain table' : 'grain directory',
      });
    },
  };
  const unpack = async (block: number, into: Uint8Array): Promise<void> => {
    let place = placeOf(block);
    while (place === null) {
      await load(block);
      place = placeOf(block);
    }
    if (place === BAD) throw blocks.fault(block);
    if (place < 0) throw new ImageError('out-of-range', `grain ${block} is not stored`, { file: source.name });
    const sector = (block * grain) / 512;
    const used = Math.min(grain, size - block * grain);
    await unpackGrain(source, place, [sector, part.firstSector + sector], into.subarray(0, grain), used);
    into.fill(0, used);
  };
  const spec = { id: part.id, source, size, blockSize: grain, blocks };
  return blockLayer(packed ? { ...spec, unpack } : spec);
}
