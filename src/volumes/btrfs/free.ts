/**
 * What btrfs does not use: what it has given to no chunk, and what lies between the extents inside chunks. Source: btrfs
 * documentation, "On-disk Format" (EXTENT_ITEM, METADATA_ITEM, BLOCK_GROUP_ITEM, CHUNK_ITEM, superblock).
 */
import type { Bytes } from '../../base/contracts.ts';
import { type FoundFree, freeRuns } from '../free.ts';
import { u64 } from '../source.ts';
import { type Btrfs, dataOf, keyOf, type TreeRoot } from './filesystem.ts';

/** Boot code and the first superblock, whose copies follow; chunks may lie over them, and leave them alone. */
const RESERVED: readonly (readonly [from: Bytes, to: Bytes])[] = [
  [0, 2 ** 20],
  [64 * 2 ** 20, 64 * 2 ** 20 + 65_536],
  [256 * 2 ** 30, 256 * 2 ** 30 + 65_536],
];
const TREE = { extents: 2, blockGroups: 11 } as const;
const DEVICE_ITEMS = 1;
const ITEM = { extent: 168, metadata: 169, blockGroup: 192, device: 216 } as const;
/** Who refers to an extent: takes no space of its own. */
const REFERENCES: readonly number[] = [172, 176, 178, 182, 184];

const ZONED = 0x1000;
/** Free space tree, its validity, verity, block group tree: none of them lets an extent be missing from the extent tree. */
const KNOWN_READ_ONLY = 0xfn;
const BLOCK_GROUP_TREE = 8n;
/** Written, relocated; others are errors, images of metadata alone, seeds, and conversions that were broken off. */
const KNOWN_FLAGS = 3n;
/** Data, system, metadata; RAID 0, RAID 1 of two to four, DUP. */
const KNOWN_TYPES = 0x63f;
const RAID0 = 8;

interface Stripe {
  readonly at: Bytes;
  /** Of the chunk, and where it begins among logical addresses. */
  readonly length: Bytes;
  readonly logical: Bytes;
  readonly type: number;
  /** Where an address of the chunk lies is known; otherwise all of it is in use. */
  readonly plain: boolean;
  /** The first of those that the chunk has here. */
  readonly counts: boolean;
}

/** What this device has of each chunk, by place. */
async function stripesOf(btrfs: Btrfs, plain: boolean): Promise<readonly Stripe[]> {
  const { source, superblock } = btrfs;
  const found: Stripe[] = [];
  for await (const { key, data } of btrfs.chunkItems()) {
    const [length, type, stripes] = [u64(data, 0), u64(data, 24), data.readUInt16LE(44)];
    source.check(data.length >= 48 + stripes * 32, 'a chunk is damaged');
    const known = type <= KNOWN_TYPES && (type & ~KNOWN_TYPES) === 0 && ((type & RAID0) === 0 || stripes === 1);
    for (let i = 0, counts = true; i < stripes; i++) {
      if (u64(data, 48 + i * 32) !== superblock.device) continue;
      const at = u64(data, 56 + i * 32);
      // Stripes of several devices are shorter than the chunk; as long as it is safe.
      source.check(Number.isSafeInteger(at + length) && type !== 0, 'a chunk has no sound place');
      found.push({ at, length, logical: key.offset, type, plain: plain && known, counts });
      counts = false;
    }
  }
  found.sort((a, b) => a.at - b.at);
  const apart = found.every(({ at, length, plain: its }, i) => !its || at + length <= (found[i + 1]?.at ?? Infinity));
  source.check(apart, 'two chunks lie over each other');
  return found;
}

interface Usage {
  readonly btrfs: Btrfs;
  readonly extents: TreeRoot;
  /** null: block groups are in the tree of extents. */
  readonly blockGroups: TreeRoot | null;
}

async function usageOf(btrfs: Btrfs): Promise<Usage> {
  const apart = (btrfs.superblock.readOnlyCompatible & BLOCK_GROUP_TREE) !== 0n;
  const blockGroups = apart ? await btrfs.tree(TREE.blockGroups) : null;
  return { btrfs, extents: await btrfs.tree(TREE.extents), blockGroups };
}

/** Calls `gap` with what no extent of a chunk has, in logical addresses and in order; how much is in use. */
async function gapsOf(
  { btrfs, extents, blockGroups }: Usage,
  { logical, length, type }: Stripe,
  gap: (from: Bytes, to: Bytes) => void,
): Promise<Bytes> {
  const { source, superblock, chunkTree } = btrfs;
  const { nodeSize, sectorSize } = superblock;
  const what = `the extents of the chunk at ${logical} are damaged`;
  const roots = [superblock.rootTree, chunkTree.at, extents.at, blockGroups?.at ?? superblock.rootTree];
  let [end, used, counted] = [logical, 0, Number.NaN];
  const upTo = (at: Bytes): void => {
    for (const root of roots) source.check(root < end || root >= at, `${what}: the root of a tree is in none`);
    if (at > end) gap(end, at);
  };
  const count = (leaf: Buffer, item: number): void => {
    const [key, data] = [keyOf(item), dataOf(source, leaf, item)];
    const sound = u64(leaf, key) === logical && u64(leaf, key + 9) === length && u64(data, 16) === type;
    source.check(sound && Number.isNaN(counted), `${what}: their group is another one`);
    counted = u64(data, 0);
  };
  const first = { object: logical, type: 0, offset: 0 };
  const last = { object: logical + length - 1, type: 255, offset: Number.POSITIVE_INFINITY };
  for await (const { bytes, first: from, end: to } of btrfs.leaves(extents, first, last)) {
    for (let i = from; i < to; i++) {
      const key = keyOf(i);
      const kind = bytes[key + 8]!;
      if (kind === ITEM.extent || kind === ITEM.metadata) {
        const at = u64(bytes, key);
        const size = kind === ITEM.metadata ? nodeSize : u64(bytes, key + 9);
        const whole = size > 0 && size % sectorSize === 0 && at % sectorSize === 0;
        source.check(whole && at >= end && at + size <= logical + length, what);
        upTo(at);
        end = at + size;
        used += size;
      } else if (kind === ITEM.blockGroup) count(bytes, i);
      else if (!REFERENCES.includes(kind)) throw source.unsupported(`items of type ${kind} in the tree of extents`);
    }
  }
  upTo(logical + length);
  if (blockGroups !== null) {
    const keys = { object: logical, type: ITEM.blockGroup };
    const all = { ...keys, offset: Number.POSITIVE_INFINITY };
    for await (const { bytes, first: from, end: to } of btrfs.leaves(blockGroups, { ...keys, offset: 0 }, all))
      for (let i = from; i < to; i++) count(bytes, i);
  }
  source.check(used === counted, `${what}: ${used} bytes are in use, and their group counts ${counted}`);
  return used;
}

async function deviceSize({ source, superblock, chunkTree, items }: Btrfs): Promise<Bytes> {
  let size = 0;
  const item = { object: DEVICE_ITEMS, type: ITEM.device, offset: superblock.device };
  for await (const { data } of items(chunkTree, item, item)) size = u64(data, 8);
  source.check(size > RESERVED[0]![1] && size <= source.size, `a device of ${size} bytes`);
  return size;
}

export async function free(btrfs: Btrfs, found: FoundFree): Promise<void> {
  const { source, superblock, checked } = btrfs;
  const { flags, readOnlyCompatible, incompatible, logTree } = superblock;
  source.check((flags & ~KNOWN_FLAGS) === 0n, `it has errors, or work on it was broken off (flags ${flags})`);
  if ((readOnlyCompatible & ~KNOWN_READ_ONLY) !== 0n || (incompatible & ZONED) !== 0) {
    throw source.unsupported('how its features use space is not known');
  }
  const size = await deviceSize(btrfs);
  const runs = freeRuns(found);
  const give = (from: Bytes, to: Bytes): void => {
    const last = Math.min(to, size);
    let at = from;
    for (const [first, end] of RESERVED) {
      if (end <= at || first >= last) continue;
      runs.add(at, first - at);
      at = end;
    }
    runs.add(at, last - at);
  };
  // The log tree and what it refers to are in no tree of extents. They never lie outside the chunks of the last commit.
  const stripes = await stripesOf(btrfs, checked && logTree === 0);
  const usage = stripes.some(({ plain }) => plain) ? await usageOf(btrfs) : null;
  let [end, used] = [0, 0];
  for (const stripe of stripes) {
    if (stripe.at > end) give(end, stripe.at);
    const above = stripe.at - stripe.logical;
    if (usage !== null && stripe.plain) {
      const its = await gapsOf(usage, stripe, (from, to) => give(Math.max(end, from + above), to + above));
      if (stripe.counts) used += its;
    }
    end = Math.max(end, stripe.at + stripe.length);
  }
  if (size > end) give(end, size);
  runs.end();
  const whole = superblock.devices === 1 && stripes.every(({ plain: its }) => its);
  source.check(!whole || used === superblock.bytesUsed, `its chunks have ${used} bytes in use, and it counts others`);
}
