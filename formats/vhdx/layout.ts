import type { Bytes, DiskFormat, Extents, Piece } from '../../src/base/contracts.ts';
import { constant, diskPiece, table, virtualFile, zeroPiece } from '../../src/base/pieces.ts';
import { roundUp } from '../../src/base/range.ts';
import { frame, type Plan, planFor, putPresent, TABLE_AT } from './frame.ts';
import { ENTRY_SIZE, PAGE, slotOf } from './structs.ts';

type Put = (from: number, to: number) => void;

/** Calls `put` for every run of blocks in [first, last) that hold data; a promise when metadata must be loaded first. */
function dataBlocks(disk: Extents, blockSize: Bytes, first: number, last: number, put: Put): void | Promise<void> {
  const end = Math.min(last * blockSize, disk.size);
  const walk = (from: Bytes): void | Promise<void> => {
    for (let at = from; at < end; ) {
      const extent = disk.extent(at, Math.min(blockSize * 128, end - at));
      if (extent === null) {
        const missing = at;
        return disk.load(missing, end - missing).then(() => walk(missing));
      }
      const reach = at + extent.length;
      if (extent.kind === 'data') put(Math.floor(at / blockSize), Math.ceil(reach / blockSize));
      // The rest of a block that holds any data needs no answer of its own.
      at = extent.kind === 'data' ? roundUp(reach, blockSize) : reach;
    }
  };
  return walk(first * blockSize);
}

/** Entries [first, last) of the table. Those of sector bitmaps stay zero: there is no parent. */
function fillTable(disk: Extents, plan: Plan, writable: boolean, view: DataView, first: number, last: number) {
  const { blockSize, blocks, ratio, dataAt } = plan;
  const blockAt = (slot: number): number => Math.min(blocks, slot - Math.floor(slot / (ratio + 1)));
  const put: Put = (from, to) => {
    for (let block = from; block < to; block++) {
      putPresent(view, (slotOf(block, ratio) - first) * ENTRY_SIZE, dataAt + block * blockSize);
    }
  };
  const [from, to] = [blockAt(first), blockAt(last)];
  return writable ? put(from, to) : dataBlocks(disk, blockSize, from, to, put);
}

/** The structures with zeros between them, up to the table. */
function leadPieces(plan: Plan, fixed: boolean, seed: string): Piece[] {
  const pieces: Piece[] = [];
  let end = 0;
  for (const { at, raw } of frame(plan, fixed, seed)) {
    const length = roundUp(raw.length, PAGE);
    pieces.push(zeroPiece(at - end), constant(raw, length));
    end = at + length;
  }
  pieces.push(zeroPiece(TABLE_AT - end));
  return pieces;
}

/**
 * Guest byte x lies at the same distance from the start of the data in every view. Read-only: blocks without data are not
 * present, and their places are holes. Writable: every block is present and the disk says that it stays so, so that guest
 * data is all that changes, besides the headers and the log.
 */
export const vhdxFormat: DiskFormat = {
  name: 'vhdx',
  title: 'Virtual Hard Disk v2 (Hyper-V)',
  layout(disk, { writable, name }) {
    const plan = planFor(disk);
    return [
      virtualFile('.vhdx', [
        ...leadPieces(plan, writable, `vhdx view\n${disk.id}\n${name}`),
        table(ENTRY_SIZE, plan.tableLength, (view, first, last) => fillTable(disk, plan, writable, view, first, last)),
        diskPiece(plan.blocks * plan.blockSize),
      ]),
    ];
  },
};
