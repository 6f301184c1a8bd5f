/**
 * Structures of [MS-VHDX], Virtual Hard Disk v2 File Format. Little-endian; checksums are CRC-32C over the whole
 * structure with the field itself zero, four bytes behind the signature.
 */
import { createHash } from 'node:crypto';
import { crc32c } from '../../src/base/checksum.ts';
import type { Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import {
  bits64le,
  type Field,
  magic,
  type Struct,
  struct,
  u16le,
  u32le,
  u64le,
  viewOf,
} from '../../src/base/struct.ts';

export const KIB = 1024;
export const MIB = 1_048_576;
/** Section 2.6.2.2: a virtual disk has at most 64 TiB. */
export const MAX_SIZE = 64 * 2 ** 40;
/** Unit of the log, and length of a header. */
export const PAGE = 4096;
export const NULL_GUID = '00000000-0000-0000-0000-000000000000';

/** A GUID as 8-4-4-4-12 hexadecimal digits in lower case; the first three groups are little-endian in the file. */
export const guid: Field<string> = {
  size: 16,
  read(view, at) {
    const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');
    const last = Array.from({ length: 8 }, (_, i) => hex(view.getUint8(at + 8 + i), 2)).join('');
    const first = hex(view.getUint32(at, true), 8);
    return `${first}-${hex(view.getUint16(at + 4, true), 4)}-${hex(view.getUint16(at + 6, true), 4)}-${last.slice(0, 4)}-${last.slice(4)}`;
  },
  write(view, at, text) {
    const raw = Buffer.from(text.replaceAll('-', ''), 'hex');
    view.setUint32(at, raw.readUInt32BE(0), true);
    view.setUint16(at + 4, raw.readUInt16BE(4), true);
    view.setUint16(at + 6, raw.readUInt16BE(6), true);
    for (let i = 8; i < 16; i++) view.setUint8(at + i, raw[i]!);
  },
};

/** A version 4 shaped GUID made from text: the same text gives the same one. */
export function guidFor(text: string): string {
  const raw = createHash('sha256').update(text).digest().subarray(0, 16);
  raw[6] = (raw[6]! % 16) + 0x40;
  raw[8] = (raw[8]! % 64) + 0x80;
  const hex = raw.toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

/** Section 2.2.1: at 0; the creator's name follows, and the whole takes 64 KiB. */
export const SIGNATURE = 'vhdxfile';

export const HEADERS_AT: readonly Bytes[] = [64 * KIB, 128 * KIB];

/** Section 2.2.2. */
export const Header = struct('VHDX header', PAGE, {
  signature: [0, magic('head')],
  checksum: [4, u32le],
  sequenceNumber: [8, bits64le],
  fileWriteGuid: [16, guid],
  dataWriteGuid: [32, guid],
  logGuid: [48, guid],
  logVersion: [64, u16le],
  version: [66, u16le],
  logLength: [68, u32le],
  logOffset: [72, u64le],
});
export type HeaderFields = ReturnType<typeof Header.parse>;

export const REGION_TABLES_AT: readonly Bytes[] = [192 * KIB, 256 * KIB];
export const REGION_TABLE_SIZE = 64 * KIB;

/** Section 2.2.3.1. */
export const RegionTable = struct('VHDX region table', 16, {
  signature: [0, magic('regi')],
  checksum: [4, u32le],
  entryCount: [8, u32le],
});

/** Section 2.2.3.2. */
export const RegionEntry = struct('VHDX region table entry', 32, {
  guid: [0, guid],
  fileOffset: [16, u64le],
  length: [24, u32le],
  required: [28, u32le],
});

export const REGION = {
  bat: '2dc27766-f623-4200-9d64-115e9bfd4a08',
  metadata: '8b7ca206-4790-4b9a-b8fe-575f050f886e',
} as const;

/** Region and metadata tables of 64 KiB have room for as many entries. */
export const MAX_ENTRIES = 2047;
export const METADATA_TABLE_SIZE = 64 * KIB;

/** Section 2.6.1.1. */
export const MetadataTable = struct('VHDX metadata table', 32, {
  signature: [0, magic('metadata')],
  entryCount: [10, u16le],
});

/** Section 2.6.1.2. Flags: 1 user, 2 virtual disk, 4 required. */
export const MetadataEntry = struct('VHDX metadata table entry', 32, {
  itemId: [0, guid],
  offset: [16, u32le],
  length: [20, u32le],
  flags: [24, u32le],
});
export const METADATA_FLAG = { user: 1, virtualDisk: 2, required: 4 } as const;

/** Section 2.6.2. */
export const ITEM = {
  fileParameters: 'caa16737-fa36-4d43-b3b6-33f0aa44e76b',
  virtualDiskSize: '2fa54224-cd1b-4876-b211-5dbed83bf4b8',
  virtualDiskId: 'beca12ab-b2e6-4523-93ef-c309e000c746',
  logicalSectorSize: '8141bf1d-a96f-4709-ba47-f233a8faab5f',
  physicalSectorSize: 'cda348c7-445d-4471-9cc9-e9885251c556',
  parentLocator: 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c',
} as const;

/** Section 2.6.2.1. Flags: 1 leave blocks allocated, 2 has a parent. */
export const FileParameters = struct('VHDX file parameters', 8, { blockSize: [0, u32le], flags: [4, u32le] });
export const FILE_FLAG = { leaveAllocated: 1, hasParent: 2 } as const;

/** Section 2.6.2.6.1: names of the parent as keys and values. */
export const LOCATOR_TYPE = 'b04aefb7-d19e-4a81-b789-25b8e9445913';
export const ParentLocator = struct('VHDX parent locator', 20, { type: [0, guid], keyValueCount: [18, u16le] });
export const LocatorEntry = struct('VHDX parent locator entry', 12, {
  keyOffset: [0, u32le],
  valueOffset: [4, u32le],
  keyLength: [8, u16le],
  valueLength: [10, u16le],
});

/** Section 2.5.1.1, the low three bits of a BAT entry; 5 is UNMAPPED in files of version 0.95. */
export const STATE = {
  notPresent: 0,
  undefined: 1,
  zero: 2,
  unmapped: 3,
  unmappedOld: 5,
  full: 6,
  partial: 7,
} as const;
export const ENTRY_SIZE = 8;
/** Section 2.4: a sector bitmap block has 2^23 bits, and a chunk is what it speaks of. */
export const BITMAP_BITS = 2 ** 23;
export const BITMAP_SIZE = MIB;

/** Payload blocks of one chunk: after as many entries stands the one of their sector bitmap. */
export const chunkRatio = (blockSize: Bytes, sectorSize: number): number => (BITMAP_BITS * sectorSize) / blockSize;

/** Index of a block's entry in the table. */
export const slotOf = (block: number, ratio: number): number => block + Math.floor(block / ratio);

/** Entries of the table: without a parent the last bitmap's is left out. */
export function entryCount(blocks: number, ratio: number, differencing: boolean): number {
  return differencing ? Math.ceil(blocks / ratio) * (ratio + 1) : blocks + Math.floor((blocks - 1) / ratio);
}

const NO_CHECKSUM = new Uint8Array(4);
const CHECKSUM_AT = 4;

/** CRC-32C of a structure, its own checksum counted as zero. */
export function sumOf(raw: Uint8Array): number {
  const before = crc32c(NO_CHECKSUM, crc32c(raw.subarray(0, CHECKSUM_AT)));
  return crc32c(raw.subarray(CHECKSUM_AT + 4), before);
}

export const sumHolds = (raw: Uint8Array): boolean => viewOf(raw).getUint32(CHECKSUM_AT, true) === sumOf(raw);

export function putSum(raw: Uint8Array): void {
  viewOf(raw).setUint32(CHECKSUM_AT, sumOf(raw), true);
}

/** Whether the ASCII text stands at `at`. */
export function hasText(raw: Uint8Array, text: string, at = 0): boolean {
  if (at + text.length > raw.length) return false;
  for (let i = 0; i < text.length; i++) if (raw[at + i] !== text.charCodeAt(i)) return false;
  return true;
}

/** Parses a structure at `within` of bytes that were read from `from` of the file: faults name the place in the file. */
export function parseAt<T>(what: Struct<T>, raw: Uint8Array, within: number, from: Bytes, file: string): T {
  try {
    return what.parse(raw, within, file);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    const where = { ...error.where, at: from + (error.where.at ?? 0) };
    throw new ImageError(error.fault, error.message, where, { cause: error });
  }
}
