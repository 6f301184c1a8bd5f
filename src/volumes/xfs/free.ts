/** Free blocks of XFS: the B-tree of free extents of each group. "XFS Algorithms & Data Structures", AG Free Space. */
import { crc32c } from '../../base/checksum.ts';
import { type FoundFree, freeRuns } from '../free.ts';
import type { Xfs } from './filesystem.ts';

const GROUP_CHECKSUM = 216;
const NODE_CHECKSUM = 52;
const DEEPEST = 8;

/** Version 5: CRC-32C over the block with its own place as zeros. */
function isSound({ v5 }: Xfs, block: Buffer, at: number): boolean {
  if (!v5) return true;
  const copy = Buffer.from(block);
  copy.writeUInt32LE(0, at);
  return crc32c(copy) === block.readUInt32LE(at);
}

export async function free(xfs: Xfs, found: FoundFree): Promise<void> {
  const { source, superblock, blockSize, v5 } = xfs;
  const { groups, groupBlocks, sectorSize } = superblock;
  const header = v5 ? 56 : 16;
  const most = Math.floor((blockSize - header) / 8);
  const pointers = Math.floor((blockSize - header) / 12);
  const runs = freeRuns(found);
  for (let group = 0; group < groups; group++) {
    const start = group * groupBlocks * blockSize;
    const agf = await source.bytes(start + sectorSize, sectorSize);
    const length = agf.readUInt32BE(12);
    const what = `the free space of group ${group} is damaged`;
    const sound = agf.toString('latin1', 0, 4) === 'XAGF' && agf.readUInt32BE(8) === group && length <= groupBlocks;
    source.check(sound && isSound(xfs, agf, GROUP_CHECKSUM), what, start + sectorSize);
    let end = 0;
    let total = 0;
    const walk = async (block: number, level: number): Promise<void> => {
      source.check(block > 0 && block < length && level >= 0 && level < DEEPEST, what);
      const node = await source.bytes(start + block * blockSize, blockSize);
      const count = node.readUInt16BE(6);
      const known = ['ABTB', 'AB3B'].includes(node.toString('latin1', 0, 4)) && node.readUInt16BE(4) === level;
      source.check(known && count <= (level === 0 ? most : pointers) && isSound(xfs, node, NODE_CHECKSUM), what);
      for (let i = 0; i < count; i++) {
        if (level > 0) {
          await walk(node.readUInt32BE(header + pointers * 8 + i * 4), level - 1);
          continue;
        }
        const [first, blocks] = [node.readUInt32BE(header + i * 8), node.readUInt32BE(header + i * 8 + 4)];
        source.check(first >= end && blocks > 0 && first + blocks <= length, what);
        end = first + blocks;
        total += blocks;
        runs.add(start + first * blockSize, blocks * blockSize);
      }
    };
    await walk(agf.readUInt32BE(16), agf.readUInt32BE(28) - 1);
    source.check(total === agf.readUInt32BE(52), `${what}: it counts other than its tree`, start + sectorSize);
  }
  runs.end();
}
