/**
 * Gives a fresh btrfs a block group tree, which mkfs.btrfs of some years cannot make: the items move from the extent tree
 * to a tree of their own. All trees are one leaf yet. Source: btrfs documentation, "On-disk Format".
 */
import fs from 'node:fs';
import { crc32c } from '../../src/base/checksum.ts';

const SUPERBLOCKS = [65_536, 64 * 2 ** 20] as const;
const HEADER = 101;
const ITEM = 25;
const TREE = { extents: 2n, freeSpace: 10n, blockGroups: 11n } as const;
const KEY = { root: 132, metadata: 169, blockGroup: 192, freeExtent: 199 } as const;
const TREE_BLOCK = 2n;
const TREE_BLOCK_REFERENCE = 0xb0;
const BLOCK_GROUP_TREE = 8n;

interface Item {
  readonly object: bigint;
  readonly type: number;
  readonly offset: bigint;
  readonly data: Buffer;
}

const itemsOf = (leaf: Buffer): readonly Item[] =>
  Array.from({ length: leaf.readUInt32LE(0x60) }, (_, i) => {
    const at = HEADER + i * ITEM;
    const start = HEADER + leaf.readUInt32LE(at + 17);
    const data = Buffer.from(leaf.subarray(start, start + leaf.readUInt32LE(at + 21)));
    return { object: leaf.readBigUInt64LE(at), type: leaf[at + 8]!, offset: leaf.readBigUInt64LE(at + 9), data };
  });

const compare = (a: Item, b: Item): number =>
  Number(a.object - b.object) || a.type - b.type || Number(a.offset - b.offset);

/** A leaf with the header of another one. */
function leafOf(like: Buffer, items: readonly Item[]): Buffer {
  const leaf = Buffer.alloc(like.length);
  like.copy(leaf, 0, 0, HEADER);
  leaf.writeUInt32LE(items.length, 0x60);
  let end = leaf.length - HEADER;
  for (const [i, { object, type, offset, data }] of [...items].sort(compare).entries()) {
    const at = HEADER + i * ITEM;
    end -= data.length;
    leaf.writeBigUInt64LE(object, at);
    leaf.writeUInt8(type, at + 8);
    leaf.writeBigUInt64LE(offset, at + 9);
    leaf.writeUInt32LE(end, at + 17);
    leaf.writeUInt32LE(data.length, at + 21);
    data.copy(leaf, HEADER + end);
  }
  return leaf;
}

function sealed(block: Buffer): Buffer {
  block.writeUInt32LE(crc32c(block.subarray(32)));
  return block;
}

/** Where the copies of a tree block lie. */
export function placesOf(image: Buffer, logical: bigint): readonly number[] {
  const nodeSize = image.readUInt32LE(SUPERBLOCKS[0] + 0x94);
  const places: number[] = [];
  for (let at = 2 ** 20; at < image.length; at += 4096) {
    if (image.readBigUInt64LE(at + 0x30) !== logical) continue;
    if (crc32c(image.subarray(at + 32, at + nodeSize)) === image.readUInt32LE(at)) places.push(at);
  }
  return places;
}

export function withBlockGroupTree(file: string): void {
  const image = fs.readFileSync(file);
  const superblock = image.subarray(SUPERBLOCKS[0], SUPERBLOCKS[0] + 4096);
  const nodeSize = superblock.readUInt32LE(0x94);
  const blockAt = (at: number): Buffer => image.subarray(at, at + nodeSize);

  const rootPlaces = placesOf(image, superblock.readBigUInt64LE(0x50));
  const rootLeaf = blockAt(rootPlaces[0]!);
  const rootOf = (tree: bigint): Item =>
    itemsOf(rootLeaf).find(({ object, type }) => object === tree && type === KEY.root)!;
  const extentRoot = rootOf(TREE.extents);
  const extentsAt = extentRoot.data.readBigUInt64LE(176);
  const extentPlaces = placesOf(image, extentsAt);
  const extentLeaf = blockAt(extentPlaces[0]!);
  const extents = itemsOf(extentLeaf);

  // The last block of the group that the extent tree lies in.
  const groups = extents.filter(({ type }) => type === KEY.blockGroup);
  const home = groups.find(({ object, offset }) => extentsAt >= object && extentsAt < object + offset)!;
  const logical = home.object + home.offset - BigInt(nodeSize);
  home.data.writeBigUInt64LE(home.data.readBigUInt64LE(0) + BigInt(nodeSize), 0);
  const groupLeaf = leafOf(extentLeaf, groups);
  groupLeaf.writeBigUInt64LE(logical, 0x30);
  groupLeaf.writeBigUInt64LE(TREE.blockGroups, 0x58);

  const generation = extentLeaf.readBigUInt64LE(0x50);
  const owned = Buffer.alloc(33);
  owned.writeBigUInt64LE(1n, 0);
  owned.writeBigUInt64LE(generation, 8);
  owned.writeBigUInt64LE(TREE_BLOCK, 16);
  owned.writeUInt8(TREE_BLOCK_REFERENCE, 24);
  owned.writeBigUInt64LE(TREE.blockGroups, 25);
  const extent: Item = { object: logical, type: KEY.metadata, offset: 0n, data: owned };
  const rest = leafOf(extentLeaf, [...extents.filter(({ type }) => type !== KEY.blockGroup), extent]);
  const groupRoot = Buffer.from(extentRoot.data);
  groupRoot.writeBigUInt64LE(logical, 176);
  const roots = [...itemsOf(rootLeaf), { ...extentRoot, object: TREE.blockGroups, data: groupRoot }];
  const newRoots = leafOf(rootLeaf, roots);

  for (const at of rootPlaces) sealed(newRoots).copy(image, at);
  for (const at of extentPlaces) {
    sealed(rest).copy(image, at);
    sealed(groupLeaf).copy(image, at + Number(logical - extentsAt));
  }
  // That block was the end of what is free in its group.
  for (const at of placesOf(image, rootOf(TREE.freeSpace).data.readBigUInt64LE(176))) {
    const shorter = itemsOf(blockAt(at)).map(item => {
      const its = item.type === KEY.freeExtent && item.object + item.offset === logical + BigInt(nodeSize);
      return its ? { ...item, offset: item.offset - BigInt(nodeSize) } : item;
    });
    sealed(leafOf(blockAt(at), shorter)).copy(image, at);
  }
  superblock.writeBigUInt64LE(superblock.readBigUInt64LE(0x78) + BigInt(nodeSize), 0x78);
  superblock.writeBigUInt64LE(superblock.readBigUInt64LE(0xb4) | BLOCK_GROUP_TREE, 0xb4);
  for (const at of SUPERBLOCKS) {
    superblock.writeBigUInt64LE(BigInt(at), 0x30);
    sealed(Buffer.from(superblock)).copy(image, at);
  }
  superblock.writeBigUInt64LE(BigInt(SUPERBLOCKS[0]), 0x30);
  sealed(superblock);
  fs.writeFileSync(file, image);
}
