/**
 * Structures of VMDK files: VMware, "Virtual Disk Format 5.0", sections "Hosted Sparse Extents" and "ESXi Server Sparse
 * Extents"; for seSparse, which that text leaves out, QEMU block/vmdk.c (names and places of the fields).
 */
import { ImageError } from '../../src/base/errors.ts';
import { arrayOf, bits64le, bytes, magic, struct, u8, u16le, u32le, u64le } from '../../src/base/struct.ts';

export const SECTOR = 512;

/** Offsets and lengths are in sectors. */
export const SparseHeader = struct('SparseExtentHeader', 512, {
  magicNumber: [0, magic('KDMV')],
  version: [4, u32le],
  flags: [8, u32le],
  capacity: [12, u64le],
  grainSize: [20, u64le],
  descriptorOffset: [28, u64le],
  descriptorSize: [36, u64le],
  numGTEsPerGT: [44, u32le],
  rgdOffset: [48, bits64le],
  gdOffset: [56, bits64le],
  overHead: [64, u64le],
  uncleanShutdown: [72, u8],
  newLines: [73, bytes(4)],
  compressAlgorithm: [77, u16le],
});
export type SparseFields = ReturnType<typeof SparseHeader.parse>;

export const FLAG = {
  newLineTest: 1,
  redundantTable: 2,
  zeroedGrain: 4,
  compressed: 0x1_0000,
  markers: 0x2_0000,
} as const;
/** The grain directory's place is told by a second header at the end of the file. */
export const AT_END = 0xffff_ffff_ffff_ffffn;
export const NEW_LINES = Uint8Array.of(0x0a, 0x20, 0x0d, 0x0a);
export const DEFLATE = 1;

export const CowdHeader = struct('COWDisk_Header', 512, {
  magicNumber: [0, magic('COWD')],
  version: [4, u32le],
  flags: [8, u32le],
  numSectors: [12, u32le],
  grainSize: [16, u32le],
  gdOffset: [20, u32le],
  numGDEntries: [24, u32le],
  freeSector: [28, u32le],
});

export const SESPARSE_MAGIC = 0xcafe_baben;
export const SESPARSE_VERSION = 0x2_0000_0001n;
export const SeSparseHeader = struct('seSparse constant header', 512, {
  magicNumber: [0, bits64le],
  version: [8, bits64le],
  capacity: [16, u64le],
  grainSize: [24, u64le],
  grainTableSize: [32, u64le],
  flags: [40, bits64le],
  reserved: [48, arrayOf(bits64le, 4)],
  volatileHeaderOffset: [80, u64le],
  volatileHeaderSize: [88, u64le],
  journalHeaderOffset: [96, u64le],
  journalHeaderSize: [104, u64le],
  journalOffset: [112, u64le],
  journalSize: [120, u64le],
  grainDirOffset: [128, u64le],
  grainDirSize: [136, u64le],
  grainTablesOffset: [144, u64le],
  grainTablesSize: [152, u64le],
  freeBitmapOffset: [160, u64le],
  freeBitmapSize: [168, u64le],
  backmapOffset: [176, u64le],
  backmapSize: [184, u64le],
  grainsOffset: [192, u64le],
  grainsSize: [200, u64le],
});

export const VOLATILE_MAGIC = 0xcafe_cafen;
export const SeSparseVolatile = struct('seSparse volatile header', 512, {
  magicNumber: [0, bits64le],
  freeGtNumber: [8, bits64le],
  nextTxnSeqNumber: [16, bits64le],
  replayJournal: [24, bits64le],
});

/** Before a compressed grain: its first sector on the disk and its length; the data follows (section "Markers"). */
export const GrainMarker = struct('GrainMarker', 12, { lba: [0, u64le], size: [8, u32le] });

/** What the first bytes of a file say it is; null: none of these. */
export function magicOf(head: Uint8Array): 'hosted' | 'cowd' | 'sesparse' | null {
  if (head.length < 16) return null;
  const text = String.fromCharCode(...head.subarray(0, 4));
  if (text === 'KDMV') return 'hosted';
  if (text === 'COWD') return 'cowd';
  const view = new DataView(head.buffer, head.byteOffset, 16);
  return view.getBigUint64(0, true) === SESPARSE_MAGIC ? 'sesparse' : null;
}

/** Throws with the file, the offset and the name of a field of the structure at `at`. */
export function refusal(
  structure: { readonly offsetOf: (field: never) => number },
  file: string,
  at: number,
): (fault: 'unsupported' | 'corrupt' | 'broken-chain', field: string, message: string) => never {
  return (fault, field, message) => {
    throw new ImageError(fault, message, { file, at: at + structure.offsetOf(field as never), field });
  };
}
