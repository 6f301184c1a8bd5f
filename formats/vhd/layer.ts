/** Where the blocks of a VHD lie: specification, sections "Block Allocation Table and Data Blocks" and "Data Blocks". */
import type { ByteSource, Bytes, Layer, LayerId, Location } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { pages } from '../../src/base/pages.ts';
import { roundUp } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import { FOOTER_SIZE, HEADER_SIZE, SECTOR, UNUSED } from '../../src/base/vhd.ts';

/** Part of the table that is read at once: 4096 entries, 8 GiB of disk in blocks of 2 MiB. */
const TABLE_PAGE = 16_384;
const TABLE_PAGES = 64;
/** So many bytes of sector bitmaps stay in memory. */
const BITMAP_BUDGET = 1_048_576;

const unpack = (): Promise<void> => Promise.reject(new ImageError('unsupported', 'a VHD holds no packed blocks'));

/** A fixed disk: the content from the file's first byte on. */
export function fixedLayer(id: LayerId, source: ByteSource, size: Bytes): Layer {
  return {
    id,
    size,
    blockSize: 2_097_152,
    locate: (at, limit) => ({ kind: 'plain', source, at, length: limit }),
    async load() {},
    unpack,
  };
}

export interface BlockMap {
  readonly size: Bytes;
  readonly blockSize: Bytes;
  /** Offset of the block allocation table, and its length without padding. */
  readonly tableAt: Bytes;
  readonly tableLength: Bytes;
  /** Sectors whose bit is 0 belong to the parent. */
  readonly differencing: boolean;
}

/** Length of the bitmap before a block's data: one bit per sector, padded to whole sectors. */
export const bitmapLength = (blockSize: Bytes): Bytes => roundUp(blockSize / SECTOR / 8, SECTOR);

/** First sector at or after `from` whose bit is not `bit`, `to` when there is none. The first sector is the highest bit. */
function runEnd(bitmap: Uint8Array, from: number, to: number, bit: number): number {
  const same = bit === 1 ? 0xff : 0;
  let sector = from;
  while (sector < to) {
    const byte = bitmap[Math.floor(sector / 8)]!;
    if (sector % 8 === 0 && byte === same) sector += 8;
    else if (bitOf(bitmap, sector) === bit) sector++;
    else return sector;
  }
  return to;
}

const bitOf = (bitmap: Uint8Array, sector: number): number =>
  (bitmap[Math.floor(sector / 8)]! >> (7 - (sector % 8))) & 1;

/**
 * A dynamic or differencing disk. The table is read in parts as it is needed; bitmaps are read for differencing disks
 * only, since every writer leaves zeros in the sectors of a dynamic disk that it never wrote.
 */
export function blockLayer(id: LayerId, source: ByteSource, map: BlockMap): Layer {
  const { size, blockSize, tableAt, tableLength, differencing } = map;
  const skip = bitmapLength(blockSize);
  const table = pages(source, TABLE_PAGES);
  const bitmaps = pages(source, Math.max(8, Math.floor(BITMAP_BUDGET / skip)));
  const perPage = TABLE_PAGE / 4;
  const pageOf = (block: number): Bytes => tableAt + Math.floor(block / perPage) * TABLE_PAGE;
  const pageLength = (page: Bytes): number => Math.min(TABLE_PAGE, tableAt + tableLength - page);

  /** File offset of the block's bitmap, -1 when the block has no space, null when the table's part is not in memory. */
  const bitmapAt = (block: number): Bytes | null => {
    const page = table.resident(pageOf(block));
    if (page === null) return null;
    const entry = viewOf(page).getUint32((block % perPage) * 4);
    if (entry === UNUSED) return -1;
    const at = entry * SECTOR;
    const used = Math.min(blockSize, size - block * blockSize);
    const where = { file: source.name, at: tableAt + block * 4, field: `entry ${block}` };
    if (at < FOOTER_SIZE + HEADER_SIZE || (at < tableAt + tableLength && at + skip + used > tableAt)) {
      throw new ImageError(
        'corrupt',
        `block ${block} of the disk is said to lie in the file's metadata, at ${at}`,
        where,
      );
    }
    if (at + skip + used > source.size) {
      throw new ImageError('corrupt', `block ${block} of the disk lies beyond the end of the file, at ${at}`, where);
    }
    return at;
  };

  /** Length of the stretch without space from `at` on, as far as the table's part in memory tells. */
  const emptyLength = (at: Bytes, limit: Bytes, block: number): Bytes => {
    const page = table.resident(pageOf(block))!;
    const view = viewOf(page);
    const last = Math.min(block - (block % perPage) + page.length / 4, Math.ceil((at + limit) / blockSize));
    let next = block + 1;
    while (next < last && view.getUint32((next % perPage) * 4) === UNUSED) next++;
    return Math.min(limit, next * blockSize - at);
  };

  const locateStored = (at: Bytes, limit: Bytes, bitmapFrom: Bytes): Location | null => {
    const within = at % blockSize;
    const most = Math.min(limit, blockSize - within);
    const dataAt = bitmapFrom + skip + within;
    if (!differencing) return { kind: 'plain', source, at: dataAt, length: most };
    const bitmap = bitmaps.resident(bitmapFrom);
    if (bitmap === null) return null;
    const sector = Math.floor(within / SECTOR);
    const bit = bitOf(bitmap, sector);
    const end = runEnd(bitmap, sector, Math.ceil((within + most) / SECTOR), bit);
    const length = Math.min(most, end * SECTOR - within);
    return bit === 1 ? { kind: 'plain', source, at: dataAt, length } : { kind: 'absent', length };
  };

  return {
    id,
    size,
    blockSize,
    locate(at, limit) {
      const block = Math.floor(at / blockSize);
      const found = bitmapAt(block);
      if (found === null) return null;
      if (found >= 0) return locateStored(at, limit, found);
      return { kind: differencing ? 'absent' : 'zero', length: emptyLength(at, limit, block) };
    },
    async load(at) {
      const block = Math.floor(at / blockSize);
      const page = pageOf(block);
      await table.load(page, pageLength(page));
      if (!differencing) return;
      const found = bitmapAt(block);
      if (found !== null && found >= 0) await bitmaps.load(found, skip);
    },
    unpack,
  };
}
