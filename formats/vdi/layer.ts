/** Where the blocks of a VDI file lie: one u32 per block, the number of its place behind the data offset. */
import { ABSENT, BAD, type Blocks, blockLayer, ZERO } from '../../src/base/block-layer.ts';
import type { ByteSource, Bytes, Layer, LayerId } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { pages } from '../../src/base/pages.ts';
import { viewOf } from '../../src/base/struct.ts';
import { DISCARDED, FREE } from './structs.ts';

/** Part of the map that is read at once: 4096 entries, 4 GiB of disk in blocks of 1 MiB. */
const PAGE = 16_384;
const PAGES = 64;
const PER_PAGE = PAGE / 4;

export interface BlockMap {
  readonly size: Bytes;
  readonly blockSize: Bytes;
  readonly blocks: number;
  readonly mapAt: Bytes;
  /** Offset of the first place, and of the data in every place. */
  readonly dataAt: Bytes;
  readonly extra: Bytes;
  /** Blocks that were never written to belong to the parent. */
  readonly differencing: boolean;
}

export function mapLayer(id: LayerId, source: ByteSource, map: BlockMap): Layer {
  const { size, blockSize, blocks, mapAt, dataAt, extra } = map;
  const table = pages(source, PAGES);
  const free = map.differencing ? ABSENT : ZERO;
  const pageOf = (block: number): Bytes => mapAt + Math.floor(block / PER_PAGE) * PAGE;
  const placeOf = (block: number): number | null => {
    const page = table.resident(pageOf(block));
    return page === null ? null : viewOf(page).getUint32((block % PER_PAGE) * 4, true);
  };
  const offsetOf = (place: number): Bytes => dataAt + place * (blockSize + extra) + extra;
  const found: Blocks = {
    at(block) {
      const place = placeOf(block);
      if (place === null) return null;
      if (place === FREE) return free;
      if (place === DISCARDED) return ZERO;
      const at = offsetOf(place);
      // The disk may end inside its last block.
      return at + Math.min(blockSize, size - block * blockSize) > source.size ? BAD : at;
    },
    async load(block) {
      const page = pageOf(block);
      await table.load(page, Math.min(PAGE, mapAt + blocks * 4 - page));
    },
    fault(block) {
      const at = offsetOf(placeOf(block)!);
      const message = `block ${block} of the disk lies beyond the end of the file, at ${at}`;
      return new ImageError('corrupt', message, { file: source.name, at: mapAt + block * 4, field: 'map' });
    },
  };
  return blockLayer({ id, source, size, blockSize, blocks: found });
}
