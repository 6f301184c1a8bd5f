/** One btrfs file system: chunks, and the trees that everything is kept in. Source: btrfs documentation, "On-disk Format". */

import { crc32c } from '../../base/checksum.ts';
import type { Bytes } from '../../base/contracts.ts';
import { isPowerOfTwo, lastAtOrBefore } from '../../base/range.ts';
import { bits64le, bytes, magic, struct, u16le, u32le, u64le } from '../../base/struct.ts';
import { u64, type VolumeSource } from '../source.ts';

const SUPERBLOCK_AT = 65_536;
export const Superblock = struct('btrfs superblock', 4096, {
  checksum: [0, u32le],
  flags: [0x38, bits64le],
  magic: [0x40, magic('_BHRfS_M')],
  generation: [0x48, u64le],
  rootTree: [0x50, u64le],
  chunkTree: [0x58, u64le],
  logTree: [0x60, u64le],
  bytesUsed: [0x78, u64le],
  devices: [0x88, u64le],
  sectorSize: [0x90, u32le],
  nodeSize: [0x94, u32le],
  systemChunks: [0xa0, u32le],
  chunkGeneration: [0xa4, u64le],
  readOnlyCompatible: [0xb4, bits64le],
  incompatible: [0xbc, u64le],
  checksumType: [0xc4, u16le],
  device: [0xc9, u64le],
  label: [0x12b, bytes(256)],
});
export type SuperblockFields = ReturnType<typeof Superblock.parse>;
const SYSTEM_CHUNKS_AT = 0x32b;
const MOST_SYSTEM_CHUNKS = 2048;

/** Up to block-group tree and simple quotas; raid-stripe-tree, extent-tree-v2 and others change where data lies. */
const KNOWN_INCOMPATIBLE = 0x1_1fff;
const CRC32C = 0;
/** RAID 0, 10, 5 and 6: a stripe of data is on another device. */
const STRIPED = 0x8 | 0x40 | 0x80 | 0x100;

export const ITEM = { inode: 1, xattr: 24, dirItem: 84, dirIndex: 96, extent: 108, root: 132, chunk: 228 } as const;
const CHUNK_TREE_OBJECT = 256;

export interface Key {
  readonly object: number;
  readonly type: number;
  readonly offset: number;
}

export interface Item {
  readonly key: Key;
  readonly data: Buffer;
}

/** Numbers near 2^64 lose their low bits: they are only compared, and none of those is looked for. */
const wide = (from: Buffer, at: number): number => from.readUInt32LE(at) + from.readUInt32LE(at + 4) * 0x1_0000_0000;
export const keyAt = (from: Buffer, at: number): Key => ({
  object: wide(from, at),
  type: from.readUInt8(at + 8),
  offset: wide(from, at + 9),
});
const compare = (a: Key, b: Key): number => a.object - b.object || a.type - b.type || a.offset - b.offset;

/** Where a tree block lies, and when what refers to it says that it was written: an older one was not overwritten. */
export interface TreeRoot {
  readonly at: Bytes;
  readonly generation: number;
}

/** A leaf of a tree, and which of its items were asked for: from `first` on, up to `end`. */
export interface Leaf {
  readonly bytes: Buffer;
  readonly first: number;
  readonly end: number;
}

export interface Btrfs {
  readonly source: VolumeSource;
  readonly superblock: SuperblockFields;
  readonly chunkTree: TreeRoot;
  /** Whether trees have checksums that are looked at. */
  readonly checked: boolean;
  /** Offset in the volume of a logical address; the range lies in one chunk. */
  place(logical: Bytes, length: Bytes): Bytes;
  /** Leaves with items from one key to another, both included, in order. */
  leaves(root: TreeRoot, from: Key, to: Key): AsyncGenerator<Leaf>;
  /** The items themselves. */
  items(root: TreeRoot, from: Key, to: Key): AsyncGenerator<Item>;
  /** All of the chunk tree's chunks. */
  chunkItems(): AsyncGenerator<Item>;
  /** The root of a subvolume's tree. */
  tree(id: number): Promise<TreeRoot>;
}

const HEADER = 101;
const POINTER = 33;
const LEAF_ITEM = 25;
const DEEPEST = 8;

/** Where the key of a leaf's item begins. */
export const keyOf = (item: number): number => HEADER + item * LEAF_ITEM;

/** What a leaf has for one of its items. */
export function dataOf(source: VolumeSource, leaf: Buffer, item: number): Buffer {
  const start = HEADER + leaf.readUInt32LE(keyOf(item) + 17);
  const end = start + leaf.readUInt32LE(keyOf(item) + 21);
  source.check(end <= leaf.length, 'an item leads outside its tree block');
  return leaf.subarray(start, end);
}

/** null: no btrfs. */
async function readSuperblock(source: VolumeSource): Promise<{ fields: SuperblockFields; raw: Buffer } | null> {
  if (source.size < SUPERBLOCK_AT + Superblock.size) return null;
  const raw = await source.bytes(SUPERBLOCK_AT, Superblock.size);
  if (raw.toString('latin1', 0x40, 0x48) !== '_BHRfS_M') return null;
  const fields = Superblock.parse(raw, 0, source.name);
  const { nodeSize, sectorSize, incompatible, systemChunks, checksumType, checksum } = fields;
  const powers = [nodeSize, sectorSize].every(size => size >= 512 && size <= 65_536 && isPowerOfTwo(size));
  source.check(powers && nodeSize >= 4096, 'the superblock has no sound sizes', SUPERBLOCK_AT + 0x90);
  if (incompatible > KNOWN_INCOMPATIBLE || (incompatible & ~KNOWN_INCOMPATIBLE) !== 0) {
    throw source.unsupported(`btrfs features 0x${incompatible.toString(16)} are not known`, SUPERBLOCK_AT + 0xbc);
  }
  source.check(systemChunks <= MOST_SYSTEM_CHUNKS, 'the superblock has too many chunks', SUPERBLOCK_AT + 0xa0);
  const sound = checksumType !== CRC32C || crc32c(raw.subarray(32)) === checksum;
  source.check(sound, 'the checksum of the superblock does not match', SUPERBLOCK_AT);
  return { fields, raw };
}

interface Chunk {
  readonly at: Bytes;
  readonly length: Bytes;
  /** Offset in the volume; -1: spread over several devices. */
  readonly place: Bytes;
}

/** One chunk item, and how long it is. The stripe on this device is used; mirrors hold the same. */
function parseChunk(
  source: VolumeSource,
  at: Bytes,
  data: Buffer,
  device: number,
): { chunk: Chunk | null; length: number } {
  const stripes = data.readUInt16LE(44);
  const length = 48 + stripes * 32;
  source.check(stripes > 0 && length <= data.length, 'a chunk is damaged');
  const size = u64(data, 0);
  source.check(Number.isSafeInteger(at + size) && size > 0, 'a chunk has no sound size');
  if ((data.readUInt32LE(24) & STRIPED) !== 0 && stripes > 1) return { chunk: { at, length: size, place: -1 }, length };
  for (let i = 0; i < stripes; i++) {
    if (u64(data, 48 + i * 32) === device)
      return { chunk: { at, length: size, place: u64(data, 56 + i * 32) }, length };
  }
  return { chunk: null, length };
}

class Chunks {
  readonly #source: VolumeSource;
  #chunks: Chunk[] = [];
  #starts: number[] = [];

  constructor(source: VolumeSource) {
    this.#source = source;
  }

  add(chunk: Chunk): void {
    if (this.#chunks.some(({ at }) => at === chunk.at)) return;
    this.#chunks = [...this.#chunks, chunk].sort((a, b) => a.at - b.at);
    this.#starts = this.#chunks.map(({ at }) => at);
  }

  place(logical: Bytes, length: Bytes): Bytes {
    const chunk = this.#chunks[lastAtOrBefore(this.#starts, logical)];
    const inside = chunk !== undefined && length > 0 && logical + length <= chunk.at + chunk.length;
    if (!inside)
      throw this.#source.unsupported(`address ${logical} is on another device of the file system, or nowhere`);
    if (chunk.place < 0)
      throw this.#source.unsupported('the file system is striped over several devices (RAID 0, 10, 5 or 6)');
    return chunk.place + logical - chunk.at;
  }
}

/** First index from which on `less` does not hold. */
function firstNot(count: number, less: (index: number) => boolean): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = low + Math.floor((high - low) / 2);
    if (less(middle)) low = middle + 1;
    else high = middle;
  }
  return low;
}

export async function openFileSystem(source: VolumeSource): Promise<Btrfs | null> {
  const found = await readSuperblock(source);
  if (found === null) return null;
  const { fields: superblock, raw } = found;
  const { nodeSize, checksumType, device } = superblock;
  const chunks = new Chunks(source);

  const checked = checksumType === CRC32C;
  const node = async ({ at: logical, generation }: TreeRoot, below: number): Promise<Buffer> => {
    const at = chunks.place(logical, nodeSize);
    const bytes = await source.bytes(at, nodeSize);
    source.check(u64(bytes, 0x30) === logical && bytes[0x64]! < below, 'a tree block is damaged', at);
    const sound = !checked || crc32c(bytes.subarray(32)) === bytes.readUInt32LE(0);
    source.check(sound, 'the checksum of a tree block does not match', at);
    source.check(u64(bytes, 0x50) === generation, 'a tree block is of another time than what leads to it', at);
    return bytes;
  };
  async function* below(root: TreeRoot, from: Key, to: Key, height: number, least: Key | null): AsyncGenerator<Leaf> {
    const bytes = await node(root, height);
    const count = bytes.readUInt32LE(0x60);
    const level = bytes[0x64]!;
    const width = level > 0 ? POINTER : LEAF_ITEM;
    const key = (index: number): Key => keyAt(bytes, HEADER + index * width);
    const sound = HEADER + count * width <= nodeSize && (least === null || (count > 0 && compare(key(0), least) === 0));
    source.check(sound, 'a tree block is damaged');
    if (level > 0) {
      const first = Math.max(0, firstNot(count, index => compare(key(index), from) <= 0) - 1);
      for (let i = first; i < count && compare(key(i), to) <= 0; i++) {
        const pointer = HEADER + i * POINTER + 17;
        const child = { at: u64(bytes, pointer), generation: u64(bytes, pointer + 8) };
        yield* below(child, from, to, level, key(i));
      }
      return;
    }
    const first = firstNot(count, index => compare(key(index), from) < 0);
    yield { bytes, first, end: firstNot(count, index => compare(key(index), to) <= 0) };
  }
  async function* leaves(root: TreeRoot, from: Key, to: Key): AsyncGenerator<Leaf> {
    let before: Key | null = null;
    for await (const leaf of below(root, from, to, DEEPEST + 1, null)) {
      if (leaf.bytes.readUInt32LE(0x60) === 0) continue;
      const first = keyAt(leaf.bytes, HEADER);
      // A tree in which blocks are shared would take for ever.
      source.check(before === null || compare(before, first) < 0, 'the blocks of a tree are out of order');
      before = first;
      if (leaf.end > leaf.first) yield leaf;
    }
  }
  async function* items(root: TreeRoot, from: Key, to: Key): AsyncGenerator<Item> {
    for await (const { bytes, first, end } of leaves(root, from, to)) {
      for (let i = first; i < end; i++) yield { key: keyAt(bytes, keyOf(i)), data: dataOf(source, bytes, i) };
    }
  }

  for (let at = SYSTEM_CHUNKS_AT; at + 17 + 80 <= SYSTEM_CHUNKS_AT + superblock.systemChunks; ) {
    const { chunk, length } = parseChunk(source, keyAt(raw, at).offset, raw.subarray(at + 17), device);
    if (chunk !== null) chunks.add(chunk);
    at += 17 + length;
  }
  const chunkTree = { at: superblock.chunkTree, generation: superblock.chunkGeneration };
  const rootTree = { at: superblock.rootTree, generation: superblock.generation };
  const chunkItems = (): AsyncGenerator<Item> => {
    const keys = { object: CHUNK_TREE_OBJECT, type: ITEM.chunk };
    return items(chunkTree, { ...keys, offset: 0 }, { ...keys, offset: Number.POSITIVE_INFINITY });
  };
  for await (const { key, data } of chunkItems()) {
    const { chunk } = parseChunk(source, key.offset, data, device);
    if (chunk !== null) chunks.add(chunk);
  }
  return {
    source,
    superblock,
    chunkTree,
    checked,
    place: (logical, length) => chunks.place(logical, length),
    leaves: (root, from, to) => leaves(root, from, to),
    items,
    chunkItems,
    async tree(id) {
      let root: TreeRoot | null = null;
      const keys = { object: id, type: ITEM.root };
      const last = { ...keys, offset: Number.POSITIVE_INFINITY };
      for await (const { data } of items(rootTree, { ...keys, offset: 0 }, last)) {
        source.check(data.length >= 184, 'the root of a subvolume is damaged');
        root = { at: u64(data, 176), generation: u64(data, 160) };
      }
      return source.need(root, `there is no subvolume ${id}`);
    },
  };
}
