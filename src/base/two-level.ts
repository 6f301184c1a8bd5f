/** Blocks found through two levels of tables with entries of 64 bits, as in QCOW version 1 and QED. */
import { BAD, type Blocks } from './block-layer.ts';
import type { ByteSource, Bytes } from './contracts.ts';
import { ImageError } from './errors.ts';
import { pages } from './pages.ts';
import { viewOf } from './struct.ts';

export interface TwoLevelSpec {
  readonly source: ByteSource;
  readonly littleEndian: boolean;
  readonly size: Bytes;
  readonly blockSize: Bytes;
  /** Offset of the first level; it has an entry for every table of the second. */
  readonly firstAt: Bytes;
  /** Entries in a table of the second level, a power of two, and what their offsets are multiples of. */
  readonly perTable: number;
  readonly alignment: Bytes;
  /** What blocks without a place or a table are: ABSENT or ZERO. */
  readonly none: number;
  /** Meaning of an entry of the second level that is no plain offset: one of the kinds; null when it is one. */
  special(high: number, low: number): number | null;
}

export interface TwoLevelBlocks extends Blocks {
  /** The two halves of a block's entry. Loads what is missing. */
  entry(block: number): Promise<{ readonly high: number; readonly low: number; readonly at: Bytes }>;
}

/** Part of a table that is read at once; 1 MiB of each level stays in memory. */
const PAGE = 16_384;
const PAGES = 64;

/** Files and tables end somewhere: entries that lead out of the file are BAD. */
export function twoLevelBlocks(spec: TwoLevelSpec): TwoLevelBlocks {
  const { source, littleEndian, size, blockSize, firstAt, perTable, alignment, none } = spec;
  const tables = Math.ceil(size / (blockSize * perTable));
  const tableBytes = perTable * 8;
  const secondPage = Math.min(PAGE, tableBytes);
  const first = pages(source, PAGES);
  const second = pages(source, PAGES);

  const firstPageOf = (table: number): Bytes => firstAt + Math.floor((table * 8) / PAGE) * PAGE;
  const high = (view: DataView, at: number): number => view.getUint32(littleEndian ? at + 4 : at, littleEndian);
  const low = (view: DataView, at: number): number => view.getUint32(littleEndian ? at : at + 4, littleEndian);
  /** An offset from its halves; BAD beyond 2^53 or off the alignment. */
  const offset = (h: number, l: number): Bytes => {
    const at = h > 0x1f_ffff ? BAD : h * 0x1_0000_0000 + l;
    return at > 0 && at % alignment !== 0 ? BAD : at;
  };
  /** 0: there is none. */
  const tableAt = (block: number): Bytes | null => {
    const table = Math.floor(block / perTable);
    const page = first.resident(firstPageOf(table));
    if (page === null) return null;
    const view = viewOf(page);
    const at = offset(high(view, (table * 8) % PAGE), low(view, (table * 8) % PAGE));
    return at > 0 && at + tableBytes > source.size ? BAD : at;
  };
  const entryAt = (table: Bytes, block: number): Bytes => table + (block % perTable) * 8;
  const secondPageOf = (table: Bytes, block: number): Bytes =>
    table + Math.floor(((block % perTable) * 8) / secondPage) * secondPage;

  const load = async (block: number): Promise<void> => {
    const page = firstPageOf(Math.floor(block / perTable));
    await first.load(page, Math.min(PAGE, firstAt + tables * 8 - page));
    const table = tableAt(block);
    if (table !== null && table > 0) await second.load(secondPageOf(table, block), secondPage);
  };
  const bad = (message: string, at: Bytes): ImageError =>
    new ImageError('corrupt', message, { file: source.name, at, field: 'table' });
  return {
    at(block) {
      const table = tableAt(block);
      if (table === null || table === BAD) return table;
      if (table === 0) return none;
      const page = second.resident(secondPageOf(table, block));
      if (page === null) return null;
      const view = viewOf(page);
      const at = ((block % perTable) * 8) % secondPage;
      const [h, l] = [high(view, at), low(view, at)];
      const kind = spec.special(h, l);
      if (kind !== null) return kind;
      const place = offset(h, l);
      // The disk may end inside its last block.
      return place > 0 && place + Math.min(blockSize, size - block * blockSize) > source.size ? BAD : place;
    },
    load,
    next(block) {
      return tableAt(block) === 0 ? (Math.floor(block / perTable) + 1) * perTable : block + 1;
    },
    fault(block) {
      const table = tableAt(block);
      if (table === BAD) {
        const number = Math.floor(block / perTable);
        return bad(`table ${number} is not at the start of a cluster inside the file`, firstAt + number * 8);
      }
      const message = `block ${block} of the disk is not at the start of a cluster inside the file`;
      return bad(message, table === null ? firstAt : entryAt(table, block));
    },
    async entry(block) {
      for (;;) {
        await load(block);
        const table = tableAt(block);
        const page = table === null || table <= 0 ? null : second.resident(secondPageOf(table, block));
        if (table === null || (page === null && table > 0)) continue;
        if (page === null) throw bad(`block ${block} has no table`, firstAt);
        const view = viewOf(page);
        const at = ((block % perTable) * 8) % secondPage;
        return { high: high(view, at), low: low(view, at), at: entryAt(table, block) };
      }
    },
  };
}
