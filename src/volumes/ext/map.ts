/** Where an inode's blocks lie: extent tree or indirect blocks. Kernel documentation, "The Contents of inode.i_block". */
import { type Runs, type RunsBuilder, runsBuilder } from '../runs.ts';
import type { Ext, ExtInode } from './filesystem.ts';
import { FLAG_EXTENTS, MAP_AT, MAP_SIZE } from './structs.ts';

const EXTENT_MAGIC = 0xf30a;
const DEEPEST = 5;
/** Longer extents are allocated and not written: they read as zeros. */
const LONGEST_WRITTEN = 32_768;

export async function mapOf(ext: Ext, inode: ExtInode): Promise<Runs> {
  const builder = runsBuilder(ext.source);
  const map = inode.raw.subarray(MAP_AT, MAP_AT + MAP_SIZE);
  if ((inode.fields.flags & FLAG_EXTENTS) !== 0) await extentTree(ext, inode, map, builder);
  else await indirect(ext, inode, map, builder);
  return ext.replayed(builder.done());
}

async function extentTree(ext: Ext, inode: ExtInode, map: Buffer, builder: RunsBuilder): Promise<void> {
  const { source, blockSize } = ext;
  const seen = new Set<number>();
  const number = Buffer.alloc(8);
  number.writeUInt32LE(inode.number, 0);
  number.writeUInt32LE(inode.fields.generation, 4);
  const walk = async (node: Buffer, depth: number | null): Promise<void> => {
    const count = node.readUInt16LE(2);
    const its = node.readUInt16LE(6);
    const sound = node.readUInt16LE(0) === EXTENT_MAGIC && 12 + count * 12 <= node.length && its <= DEEPEST;
    source.check(sound && (depth === null || its === depth), `an extent node of inode ${inode.number} is damaged`);
    for (let at = 12; at < 12 + count * 12; at += 12) {
      const fileAt = node.readUInt32LE(at) * blockSize;
      if (its === 0) {
        const length = node.readUInt16LE(at + 4);
        const start = node.readUInt32LE(at + 8) + node.readUInt16LE(at + 6) * 0x1_0000_0000;
        if (length > LONGEST_WRITTEN) builder.hole(fileAt, (length - LONGEST_WRITTEN) * blockSize);
        else builder.add(fileAt, length * blockSize, start * blockSize);
        continue;
      }
      const child = node.readUInt32LE(at + 4) + node.readUInt16LE(at + 8) * 0x1_0000_0000;
      source.check(!seen.has(child), `the extent tree of inode ${inode.number} has a loop`, child * blockSize);
      seen.add(child);
      await walk(await checkedNode(ext, inode, number, child), its - 1);
    }
  };
  await walk(map, null);
}

/** A node outside the inode carries a checksum after its last possible entry. */
async function checkedNode(ext: Ext, inode: ExtInode, number: Buffer, block: number): Promise<Buffer> {
  const node = await ext.block(block);
  const end = 12 + 12 * node.readUInt16LE(4);
  if (end + 4 <= node.length) {
    const crc = ext.checksum([number, node.subarray(0, end)]);
    const what = `the checksum of an extent node of inode ${inode.number} does not match`;
    ext.source.check(crc === null || crc === node.readUInt32LE(end), what, block * ext.blockSize);
  }
  return node;
}

const DIRECT = 12;

async function indirect(ext: Ext, inode: ExtInode, map: Buffer, builder: RunsBuilder): Promise<void> {
  const { source, blockSize } = ext;
  const total = Math.ceil(inode.size / blockSize);
  const perBlock = blockSize / 4;
  const seen = new Set<number>();
  let next = 0;
  const walk = async (block: number, depth: number): Promise<void> => {
    if (next >= total) return;
    if (block === 0) {
      next += perBlock ** depth;
      return;
    }
    if (depth === 0) {
      builder.add(next++ * blockSize, blockSize, block * blockSize);
      return;
    }
    source.check(!seen.has(block), `the block map of inode ${inode.number} has a loop`, block * blockSize);
    seen.add(block);
    const table = await ext.block(block);
    for (let i = 0; i < perBlock && next < total; i++) {
      const child = table.readUInt32LE(i * 4);
      // Without a wait for each block of data: a large file has millions.
      if (depth === 1 && child !== 0) builder.add(next++ * blockSize, blockSize, child * blockSize);
      else if (depth === 1) next++;
      else await walk(child, depth - 1);
    }
  };
  for (let i = 0; i < DIRECT + 3; i++) await walk(map.readUInt32LE(i * 4), Math.max(0, i - DIRECT + 1));
}
