/** On-disk structures of ext2, ext3 and ext4: kernel documentation, "ext4 Data Structures and Algorithms". */
import { arrayOf, bytes, struct, u8, u16le, u32le } from '../../base/struct.ts';

export const SUPERBLOCK_AT = 1024;
export const MAGIC = 0xef53;

export const Superblock = struct('ext superblock', 1024, {
  inodes: [0x00, u32le],
  blocksLow: [0x04, u32le],
  freeLow: [0x0c, u32le],
  firstDataBlock: [0x14, u32le],
  logBlockSize: [0x18, u32le],
  logClusterSize: [0x1c, u32le],
  blocksPerGroup: [0x20, u32le],
  inodesPerGroup: [0x28, u32le],
  magic: [0x38, u16le],
  state: [0x3a, u16le],
  revision: [0x4c, u32le],
  inodeSize: [0x58, u16le],
  compatible: [0x5c, u32le],
  incompatible: [0x60, u32le],
  readOnlyCompatible: [0x64, u32le],
  uuid: [0x68, bytes(16)],
  label: [0x78, bytes(16)],
  reservedDescriptors: [0xce, u16le],
  journalInode: [0xe0, u32le],
  hashSeed: [0xec, arrayOf(u32le, 4)],
  descriptorSize: [0xfe, u16le],
  firstMetaGroup: [0x104, u32le],
  blocksHigh: [0x150, u32le],
  freeHigh: [0x158, u32le],
  flags: [0x160, u32le],
  checksumType: [0x175, u8],
  checksumSeed: [0x270, u32le],
});
export type SuperblockFields = ReturnType<typeof Superblock.parse>;

/** It was shut down; kept for those without a journal. */
export const STATE_VALID = 1;
/** Errors were found while it was in use. */
export const STATE_ERROR = 2;
export const COMPAT_JOURNAL = 0x4;
export const COMPAT_SPARSE_SUPER2 = 0x200;
export const RO_SPARSE_SUPER = 0x1;
export const RO_GDT_CSUM = 0x10;
export const RO_BIGALLOC = 0x200;
export const RO_METADATA_CSUM = 0x400;

/** Features whose presence changes how everything else is read, by the names that e2fsprogs uses. */
export const INCOMPAT = {
  filetype: 0x2,
  needs_recovery: 0x4,
  journal_dev: 0x8,
  meta_bg: 0x10,
  extent: 0x40,
  '64bit': 0x80,
  mmp: 0x100,
  flex_bg: 0x200,
  ea_inode: 0x400,
  dirdata: 0x1000,
  metadata_csum_seed: 0x2000,
  large_dir: 0x4000,
  inline_data: 0x8000,
  encrypt: 0x1_0000,
  casefold: 0x2_0000,
} as const;

const REFUSED = INCOMPAT.journal_dev | INCOMPAT.dirdata;
export const KNOWN_INCOMPAT = Object.values(INCOMPAT).reduce((all, bit) => all | bit, 0) & ~REFUSED;

/** The first 128 bytes, which every inode has. */
export const Inode = struct('ext inode', 128, {
  mode: [0x00, u16le],
  uidLow: [0x02, u16le],
  sizeLow: [0x04, u32le],
  mtime: [0x10, u32le],
  gidLow: [0x18, u16le],
  links: [0x1a, u16le],
  blocks: [0x1c, u32le],
  flags: [0x20, u32le],
  generation: [0x64, u32le],
  attributesLow: [0x68, u32le],
  sizeHigh: [0x6c, u32le],
  attributesHigh: [0x76, u16le],
  uidHigh: [0x78, u16le],
  gidHigh: [0x7a, u16le],
  checksumLow: [0x7c, u16le],
});
export type InodeFields = ReturnType<typeof Inode.parse>;

/** The 60 bytes that hold the block map, the root of the extent tree, a short link or inline data. */
export const MAP_AT = 0x28;
export const MAP_SIZE = 60;

export const FLAG_ENCRYPTED = 0x800;
export const FLAG_INDEX = 0x1000;
export const FLAG_CASEFOLD = 0x4000_0000;
export const FLAG_HUGE_FILE = 0x4_0000;
export const FLAG_EXTENTS = 0x8_0000;
export const FLAG_INLINE = 0x1000_0000;
