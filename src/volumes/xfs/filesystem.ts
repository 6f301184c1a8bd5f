/** One XFS file system: inodes, and where their bytes lie. */
import type { Bytes } from '../../base/contracts.ts';
import { type Runs, type RunsBuilder, runsBuilder } from '../runs.ts';
import { u64be, type VolumeSource } from '../source.ts';
import {
  FEATURE2_FTYPE,
  FLAG2_LARGE_COUNT,
  FORMAT,
  INCOMPATIBLE_FTYPE,
  KNOWN_INCOMPATIBLE,
  Superblock,
  type SuperblockFields,
  VERSION_ANY_CASE,
} from './structs.ts';

export interface XfsInode {
  readonly number: number;
  readonly raw: Buffer;
  readonly mode: number;
  readonly version: number;
  readonly format: number;
  readonly size: Bytes;
  /** The part of the inode that says where its data is, or holds it. */
  readonly fork: Buffer;
  /** What follows it: extended attributes, or where they are; null: none. */
  readonly attributeFork: Buffer | null;
  readonly flags2: number;
}

export interface Xfs {
  readonly source: VolumeSource;
  readonly superblock: SuperblockFields;
  readonly blockSize: number;
  readonly folderBlock: number;
  /** Version 5: metadata blocks have longer headers. */
  readonly v5: boolean;
  /** Folder entries say what kind they are. */
  readonly ftype: boolean;
  /** Names are looked up whatever their case. */
  readonly anyCase: boolean;
  inode(number: number): Promise<XfsInode>;
  map(inode: XfsInode): Promise<Runs>;
  /** The same for the extended attributes that do not lie in the inode; null: they do, or there are none. */
  attributeMap(inode: XfsInode): Promise<Runs | null>;
}

/** null: no XFS. */
export async function readSuperblock(source: VolumeSource): Promise<SuperblockFields | null> {
  if (source.size < Superblock.size) return null;
  const sector = await source.bytes(0, Superblock.size);
  if (sector.toString('latin1', 0, 4) !== 'XFSB') return null;
  const superblock = Superblock.parse(sector, 0, source.name);
  const { blockSize, version, inodeSize, groups, groupBlocks } = superblock;
  const number = version & 15;
  if (number !== 4 && number !== 5) throw source.unsupported(`XFS version ${number} is not known`, 100);
  const unknown = number === 5 ? (superblock.incompatible & ~KNOWN_INCOMPATIBLE) >>> 0 : 0;
  if (unknown !== 0) throw source.unsupported(`XFS features 0x${unknown.toString(16)} are not known`, 216);
  const powers = [blockSize, inodeSize].every(size => size > 0 && 2 ** Math.round(Math.log2(size)) === size);
  const sizes = blockSize >= 512 && blockSize <= 65_536 && inodeSize >= 256 && inodeSize <= 2048;
  const logs = superblock.groupBlocksLog <= 31 && superblock.inodesPerBlockLog <= 8 && superblock.folderBlockLog <= 7;
  source.check(powers && sizes && logs && groupBlocks > 0 && groups > 0, 'the superblock has no sound sizes', 4);
  const folderBlock = blockSize * 2 ** superblock.folderBlockLog;
  source.check(folderBlock <= 65_536, `folder blocks of ${folderBlock} bytes`, 192);
  source.check(
    (groups - 1) * groupBlocks * blockSize < source.size,
    'the file system is larger than its partition',
    84,
  );
  return superblock;
}

/** A block's number holds the number of its group in its upper bits. */
function placer(source: VolumeSource, superblock: SuperblockFields): (block: number) => Bytes {
  const { groups, groupBlocks, groupBlocksLog, blockSize } = superblock;
  const span = 2 ** groupBlocksLog;
  return block => {
    const group = Math.floor(block / span);
    const within = block % span;
    source.check(group < groups && within < groupBlocks, `there is no block ${block}`);
    return (group * groupBlocks + within) * blockSize;
  };
}

/** Bits of two big-endian words: flag 1, file offset 54, start block 52, length 21. */
function addExtents(
  source: VolumeSource,
  place: (block: number) => Bytes,
  blockSize: number,
  records: Buffer,
  builder: RunsBuilder,
): void {
  for (let at = 0; at + 16 <= records.length; at += 16) {
    const [a, b, c, d] = [0, 4, 8, 12].map(word => records.readUInt32BE(at + word)) as [number, number, number, number];
    const fileBlock = (a % 0x8000_0000) * 2 ** 23 + Math.floor(b / 2 ** 9);
    const start = (b % 2 ** 9) * 2 ** 43 + c * 2 ** 11 + Math.floor(d / 2 ** 21);
    const length = (d % 2 ** 21) * blockSize;
    source.check(length > 0, 'an extent has no length');
    // The top bit: allocated, and never written.
    if (a >= 0x8000_0000) builder.hole(fileBlock * blockSize, length);
    else builder.add(fileBlock * blockSize, length, place(start));
  }
}

const MOST_NODES = 1_048_576;

export function xfsFileSystem(source: VolumeSource, superblock: SuperblockFields): Xfs {
  const { blockSize, inodeSize, inodesPerBlockLog } = superblock;
  const v5 = (superblock.version & 15) === 5;
  const place = placer(source, superblock);

  const inode: Xfs['inode'] = async number => {
    const perBlock = 2 ** inodesPerBlockLog;
    const at = place(Math.floor(number / perBlock)) + (number % perBlock) * inodeSize;
    const raw = await source.bytes(at, inodeSize);
    source.check(raw.toString('latin1', 0, 2) === 'IN', `there is no inode ${number}`, at);
    const version = raw[4]!;
    const core = version >= 3 ? 176 : 100;
    const attributesAt = raw[82]! * 8;
    source.check(core + attributesAt <= inodeSize, `inode ${number} is damaged`, at);
    const fork = raw.subarray(core, attributesAt > 0 ? core + attributesAt : inodeSize);
    const attributeFork = attributesAt > 0 ? raw.subarray(core + attributesAt) : null;
    const flags2 = version >= 3 ? raw.readUInt32BE(124) : 0;
    const size = u64be(raw, 56);
    source.check(Number.isSafeInteger(size), `inode ${number} has no sound size`, at);
    const [mode, format] = [raw.readUInt16BE(2), raw[5]!];
    return { number, raw, mode, version, format, size, fork, attributeFork, flags2 };
  };

  const btree = async (fork: Buffer, number: number, builder: RunsBuilder): Promise<void> => {
    const header = v5 ? 72 : 24;
    const most = Math.floor((blockSize - header) / 16);
    const seen = new Set<number>();
    const walk = async (block: number, level: number): Promise<void> => {
      const fresh = !seen.has(block) && seen.size < MOST_NODES && level >= 0;
      source.check(fresh, `the extent tree of inode ${number} has a loop`);
      seen.add(block);
      const at = place(block);
      const node = await source.bytes(at, blockSize);
      const count = node.readUInt16BE(6);
      const known = ['BMAP', 'BMA3'].includes(node.toString('latin1', 0, 4));
      const sound = known && node.readUInt16BE(4) === level && count <= most;
      source.check(sound, `an extent node of inode ${number} is damaged`, at);
      if (level === 0) return addExtents(source, place, blockSize, node.subarray(header, header + count * 16), builder);
      for (let i = 0; i < count; i++) await walk(u64be(node, header + most * 8 + i * 8), level - 1);
    };
    const count = fork.readUInt16BE(2);
    const room = Math.floor((fork.length - 4) / 16);
    source.check(count <= room, `the extent tree of inode ${number} is damaged`);
    for (let i = 0; i < count; i++) await walk(u64be(fork, 4 + room * 8 + i * 8), fork.readUInt16BE(0) - 1);
  };

  const runsOf = async (number: number, fork: Buffer, format: number, count: number): Promise<Runs> => {
    const builder = runsBuilder(source);
    if (format === FORMAT.extents) {
      source.check(count * 16 <= fork.length, `inode ${number} has ${count} extents`);
      addExtents(source, place, blockSize, fork.subarray(0, count * 16), builder);
    } else {
      source.check(format === FORMAT.btree, `inode ${number} keeps its data in no known way`);
      await btree(fork, number, builder);
    }
    return builder.done();
  };
  const large = ({ flags2 }: XfsInode): boolean => (flags2 & FLAG2_LARGE_COUNT) !== 0;
  const map: Xfs['map'] = its =>
    runsOf(its.number, its.fork, its.format, large(its) ? u64be(its.raw, 24) : its.raw.readUInt32BE(76));
  const attributeMap: Xfs['attributeMap'] = async its => {
    const { number, raw, attributeFork } = its;
    const format = raw[83]!;
    if (attributeFork === null || format === FORMAT.local) return null;
    return runsOf(number, attributeFork, format, large(its) ? raw.readUInt32BE(76) : raw.readUInt16BE(80));
  };

  return {
    source,
    superblock,
    blockSize,
    folderBlock: blockSize * 2 ** superblock.folderBlockLog,
    v5,
    ftype: v5 ? (superblock.incompatible & INCOMPATIBLE_FTYPE) !== 0 : (superblock.features2 & FEATURE2_FTYPE) !== 0,
    anyCase: (superblock.version & VERSION_ANY_CASE) !== 0,
    inode,
    map,
    attributeMap,
  };
}
