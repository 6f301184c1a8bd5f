/** One ext file system: its blocks (as the journal leaves them) and its inodes. */

import { crc32c } from '../../base/checksum.ts';
import type { Bytes } from '../../base/contracts.ts';
import { TYPE_BITS, TYPE_MASK } from '../../base/file-types.ts';
import { type Run, type Runs, runsBuilder } from '../runs.ts';
import type { VolumeSource } from '../source.ts';
import type { Replay } from './journal.ts';
import {
  COMPAT_JOURNAL,
  INCOMPAT,
  Inode,
  type InodeFields,
  KNOWN_INCOMPAT,
  MAGIC,
  RO_METADATA_CSUM,
  RO_SPARSE_SUPER,
  SUPERBLOCK_AT,
  Superblock,
  type SuperblockFields,
} from './structs.ts';

export interface ExtInode {
  readonly number: number;
  readonly fields: InodeFields;
  /** All of its bytes. */
  readonly raw: Buffer;
  readonly size: Bytes;
  readonly type: number;
}

export interface Ext {
  readonly source: VolumeSource;
  readonly superblock: SuperblockFields;
  readonly blockSize: number;
  readonly type: 'ext2' | 'ext3' | 'ext4';
  readonly inodeSize: number;
  readonly descriptorSize: number;
  /** Whether a group begins with a copy of the superblock. */
  hasSuperblock(group: number): boolean;
  /** A group's descriptor, `descriptorSize` bytes. */
  descriptor(group: number): Promise<Buffer>;
  /** A block of metadata, as the journal leaves it. Shared: not to be changed. */
  block(number: number): Promise<Buffer>;
  inode(number: number): Promise<ExtInode>;
  /** The same runs where the journal holds newer copies of some blocks. */
  replayed(runs: Runs): Runs;
  has(feature: keyof typeof INCOMPAT): boolean;
  /** CRC-32C as ext4 uses it, over parts that start with the file system's seed; null where it keeps no checksums. */
  checksum(parts: readonly Uint8Array[]): number | null;
}

/** null: no ext file system. */
export async function readSuperblock(source: VolumeSource): Promise<SuperblockFields | null> {
  if (source.size < SUPERBLOCK_AT + Superblock.size) return null;
  const bytes = await source.bytes(SUPERBLOCK_AT, Superblock.size);
  if (bytes.readUInt16LE(0x38) !== MAGIC) return null;
  const superblock = Superblock.parse(bytes, 0, source.name);
  const { logBlockSize, revision, inodesPerGroup, blocksPerGroup, incompatible } = superblock;
  if (logBlockSize > 6 || inodesPerGroup === 0 || blocksPerGroup === 0) return null;
  const unknown = revision === 0 ? 0 : (incompatible & ~KNOWN_INCOMPAT) >>> 0;
  if (unknown !== 0) throw source.unsupported(`ext4 features 0x${unknown.toString(16)} are not known`, 0x460);
  return superblock;
}

const u32 = (value: number): Uint8Array => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};

/** The CRC without its last inversion, which is what ext4 keeps. */
const rawCrc = (data: Uint8Array, before: number): number => ~crc32c(data, ~before >>> 0) >>> 0;

/** Groups 0, 1 and powers of 3, 5 and 7 hold a superblock where they are sparse; otherwise all do. */
function hasSuperblock({ readOnlyCompatible }: SuperblockFields, group: number): boolean {
  if ((readOnlyCompatible & RO_SPARSE_SUPER) === 0 || group <= 1) return true;
  return [3, 5, 7].some(base => {
    let power = base;
    while (power < group) power *= base;
    return power === group;
  });
}

interface Geometry {
  readonly blockSize: number;
  readonly inodeSize: number;
  readonly descriptorSize: number;
  readonly has: Ext['has'];
}

function geometryOf(source: VolumeSource, superblock: SuperblockFields): Geometry {
  const { revision, logBlockSize } = superblock;
  const blockSize = 1024 * 2 ** logBlockSize;
  const incompatible = revision === 0 ? 0 : superblock.incompatible;
  const has: Ext['has'] = feature => (incompatible & INCOMPAT[feature]) !== 0;
  const inodeSize = revision === 0 ? 128 : superblock.inodeSize;
  const descriptorSize = has('64bit') ? Math.max(32, superblock.descriptorSize) : 32;
  const powerOfTwo = (inodeSize & (inodeSize - 1)) === 0;
  source.check(inodeSize >= 128 && inodeSize <= blockSize && powerOfTwo, `inodes of ${inodeSize} bytes`, 0x458);
  source.check(descriptorSize <= 1024, `group descriptors of ${descriptorSize} bytes`, 0x4fe);
  return { blockSize, inodeSize, descriptorSize, has };
}

function typeOf({ compatible, readOnlyCompatible }: SuperblockFields, has: Ext['has']): Ext['type'] {
  const modern = has('extent') || has('64bit') || has('flex_bg') || (readOnlyCompatible & RO_METADATA_CSUM) !== 0;
  return modern ? 'ext4' : (compatible & COMPAT_JOURNAL) !== 0 ? 'ext3' : 'ext2';
}

export function extFileSystem(source: VolumeSource, superblock: SuperblockFields, replay: Replay | null): Ext {
  const { blockSize, inodeSize, descriptorSize, has } = geometryOf(source, superblock);
  const { inodes, inodesPerGroup, blocksPerGroup, firstDataBlock, firstMetaGroup, revision } = superblock;
  const checked = revision > 0 && (superblock.readOnlyCompatible & RO_METADATA_CSUM) !== 0;
  const seed = has('metadata_csum_seed') ? superblock.checksumSeed : rawCrc(superblock.uuid, 0xffff_ffff);

  const block: Ext['block'] = async number => {
    const newer = replay?.find(number) ?? null;
    if (newer === null) return source.bytes(number * blockSize, blockSize);
    return replay!.read(newer);
  };
  const checksum: Ext['checksum'] = parts => (checked ? parts.reduce((crc, part) => rawCrc(part, crc), seed) : null);

  /** Block of the descriptor table that holds a group's descriptor. */
  const descriptorBlock = (group: number): number => {
    const perBlock = Math.floor(blockSize / descriptorSize);
    const index = Math.floor(group / perBlock);
    // The superblock is at byte 1024 whatever the block size; with blocks of 1 KiB and bigalloc, groups still count from 0.
    if (!has('meta_bg') || index < firstMetaGroup) return Math.floor(SUPERBLOCK_AT / blockSize) + 1 + index;
    const first = index * perBlock;
    const before = hasSuperblock(superblock, first) ? 1 : 0;
    const boot = first === 0 && blockSize === SUPERBLOCK_AT && firstDataBlock === 0 ? 1 : 0;
    return firstDataBlock + first * blocksPerGroup + before + boot;
  };

  const descriptor: Ext['descriptor'] = async group => {
    const perBlock = Math.floor(blockSize / descriptorSize);
    const within = (group % perBlock) * descriptorSize;
    return (await block(descriptorBlock(group))).subarray(within, within + descriptorSize);
  };

  const checkInode = (number: number, raw: Buffer, fields: InodeFields): void => {
    const copy = Buffer.from(raw);
    copy.writeUInt16LE(0, 0x7c);
    const wide = inodeSize > 128 && copy.readUInt16LE(0x80) >= 4;
    const high = wide ? raw.readUInt16LE(0x82) : 0;
    if (wide) copy.writeUInt16LE(0, 0x82);
    const crc = checksum([u32(number), u32(fields.generation), copy]);
    if (crc === null) return;
    const kept = fields.checksumLow + high * 0x1_0000;
    source.check(kept === (wide ? crc : crc % 0x1_0000), `the checksum of inode ${number} does not match`);
  };

  const inode: Ext['inode'] = async number => {
    source.check(number >= 1 && number <= inodes, `there is no inode ${number}`);
    const group = Math.floor((number - 1) / inodesPerGroup);
    const its = await descriptor(group);
    const tableHigh = descriptorSize >= 64 ? its.readUInt32LE(0x28) : 0;
    const table = its.readUInt32LE(8) + tableHigh * 0x1_0000_0000;
    const at = ((number - 1) % inodesPerGroup) * inodeSize;
    const within = at % blockSize;
    const raw = (await block(table + Math.floor(at / blockSize))).subarray(within, within + inodeSize);
    const fields = Inode.parse(raw, 0, source.name);
    checkInode(number, raw, fields);
    const type = fields.mode & TYPE_MASK;
    const wide = type === TYPE_BITS.file || has('large_dir');
    const size = fields.sizeLow + (wide ? fields.sizeHigh * 0x1_0000_0000 : 0);
    source.check(Number.isSafeInteger(size), `inode ${number} says ${size} bytes`);
    return { number, fields, raw, size, type };
  };

  return {
    source,
    superblock,
    blockSize,
    type: typeOf(superblock, has),
    inodeSize,
    descriptorSize,
    hasSuperblock: group => hasSuperblock(superblock, group),
    descriptor,
    block,
    inode,
    replayed: runs => (replay === null || replay.count === 0 ? runs : patched(source, runs, replay, blockSize)),
    has,
    checksum,
  };
}

/** Runs led to the journal's copies. An escaped copy lacks its first word, so it cannot be file data read in place. */
function patched(source: VolumeSource, runs: Runs, replay: Replay, blockSize: number): Runs {
  const builder = runsBuilder(source);
  const put = (run: Run, from: Bytes, to: Bytes, at: Bytes): void => {
    if (to > from) builder.add(run.fileAt + from, to - from, at);
  };
  for (let i = 0; i < runs.count; i++) {
    const run = runs.run(i);
    if (run.at < 0) {
      builder.hole(run.fileAt, run.length);
      continue;
    }
    let from = 0;
    const last = (run.at + run.length) / blockSize;
    for (let n = replay.from(run.at / blockSize); n < replay.count && replay.blockOf(n) < last; n++) {
      const copy = replay.copyOf(n);
      if (copy.escaped) throw source.unsupported('file data in the journal that begins with its magic number', copy.at);
      const within = replay.blockOf(n) * blockSize - run.at;
      put(run, from, within, run.at + from);
      put(run, within, within + blockSize, copy.at);
      from = within + blockSize;
    }
    put(run, from, run.length, run.at + from);
  }
  return builder.done();
}
