/** On-disk structures of XFS: "XFS Algorithms & Data Structures", kernel.org. */
import { bytes, magic, struct, u8, u16be, u32be, u64be } from '../../base/struct.ts';

export const Superblock = struct('XFS superblock', 512, {
  magic: [0, magic('XFSB')],
  blockSize: [4, u32be],
  logStart: [48, u64be],
  rootInode: [56, u64be],
  groupBlocks: [84, u32be],
  groups: [88, u32be],
  logBlocks: [96, u32be],
  version: [100, u16be],
  sectorSize: [102, u16be],
  inodeSize: [104, u16be],
  label: [108, bytes(12)],
  inodesPerBlockLog: [123, u8],
  groupBlocksLog: [124, u8],
  folderBlockLog: [192, u8],
  features2: [200, u32be],
  incompatible: [216, u32be],
});
export type SuperblockFields = ReturnType<typeof Superblock.parse>;

/** In the version: names are compared without case (ASCII only). */
export const VERSION_ANY_CASE = 0x4000;
/** Version 4: the file type is kept in a folder's entries. */
export const FEATURE2_FTYPE = 0x200;
/** ftype, sparse inodes, meta uuid, big time, needs repair, 64-bit extent counts, exchange range, parent pointers. */
export const KNOWN_INCOMPATIBLE = 0xff;
export const INCOMPATIBLE_FTYPE = 0x1;
export const INCOMPATIBLE_NEEDS_REPAIR = 0x10;

export const FORMAT = { local: 1, extents: 2, btree: 3 } as const;

/** Flags of an inode's second flag word (version 3 inodes). */
export const FLAG2_BIGTIME = 0x8;
export const FLAG2_LARGE_COUNT = 0x10;
export const FLAG_REALTIME = 0x1;

/** Folder blocks lie below this offset of the folder; indexes above. */
export const FOLDER_END = 32 * 2 ** 30;
