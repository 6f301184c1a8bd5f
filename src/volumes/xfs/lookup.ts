/**
 * One name in a large folder, by its hash. Source: "XFS Algorithms & Data Structures", Leaf Directories and Node
 * Directories: the index lies behind the entries, from 32 GiB of the folder on.
 */
import type { Bytes } from '../../base/contracts.ts';
import type { Xfs } from './filesystem.ts';
import { FOLDER_END } from './structs.ts';

/** Magic numbers of inner nodes and of leaves, in version 4 and 5. */
const NODES = new Set([0xfebe, 0x3ebe]);
const LEAVES = new Set([0xd2f1, 0xd2ff, 0x3df1, 0x3dff]);
const DEEPEST = 8;
const MOST_LEAVES = 4096;

const rotate = (value: number, by: number): number => (value << by) | (value >>> (32 - by));

/** Seven bits for each byte, turned round. */
export function nameHash(name: Uint8Array): number {
  let hash = 0;
  let at = 0;
  for (; name.length - at >= 4; at += 4) {
    hash = (name[at]! << 21) ^ (name[at + 1]! << 14) ^ (name[at + 2]! << 7) ^ name[at + 3]! ^ rotate(hash, 28);
  }
  const left = name.length - at;
  if (left === 3) hash = (name[at]! << 14) ^ (name[at + 1]! << 7) ^ name[at + 2]! ^ rotate(hash, 21);
  else if (left === 2) hash = (name[at]! << 7) ^ name[at + 1]! ^ rotate(hash, 14);
  else if (left === 1) hash = name[at]! ^ rotate(hash, 7);
  return hash >>> 0;
}

/** First index whose hash is not below; `count` when all are. */
function firstNotBelow(block: Buffer, entries: number, count: number, hash: number): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = low + Math.floor((high - low) / 2);
    if (block.readUInt32BE(entries + middle * 8) < hash) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Offsets in the folder of the entries whose names have that hash. `read` gives a block of the folder. */
export async function entriesWith(
  { source, blockSize, v5 }: Xfs,
  name: Uint8Array,
  read: (at: Bytes) => Promise<Buffer>,
): Promise<readonly Bytes[]> {
  const hash = nameHash(name);
  const countAt = v5 ? 56 : 12;
  const entries = v5 ? 64 : 16;
  let at: Bytes = FOLDER_END;
  let block = await read(at);
  for (let depth = 0; NODES.has(block.readUInt16BE(8)); depth++) {
    const count = block.readUInt16BE(countAt);
    const sound = depth < DEEPEST && entries + count * 8 <= block.length;
    source.check(sound, 'the index of a folder is damaged');
    const index = firstNotBelow(block, entries, count, hash);
    if (index === count) return [];
    at = block.readUInt32BE(entries + index * 8 + 4) * blockSize;
    block = await read(at);
  }
  const found: Bytes[] = [];
  for (let leaves = 0; ; leaves++) {
    source.check(LEAVES.has(block.readUInt16BE(8)) && leaves < MOST_LEAVES, 'the index of a folder is damaged');
    const count = block.readUInt16BE(countAt);
    source.check(entries + count * 8 <= block.length, 'the index of a folder is damaged');
    let index = firstNotBelow(block, entries, count, hash);
    for (; index < count && block.readUInt32BE(entries + index * 8) === hash; index++) {
      // Zero: the entry is gone.
      const place = block.readUInt32BE(entries + index * 8 + 4) * 8;
      if (place > 0) found.push(place);
    }
    // Names of one hash can go on in the next leaf.
    const next = block.readUInt32BE(0);
    if (index < count || next === 0) return found;
    block = await read(next * blockSize);
  }
}
