/**
 * Structures of the Virtual Hard Disk Image Format Specification 1.0 (Microsoft, 2006). Big-endian; times are seconds
 * since 2000-01-01 UTC; a sector is 512 bytes.
 */
import type { Bytes } from './contracts.ts';
import { ImageError } from './errors.ts';
import { arrayOf, bits64be, bytes, magic, type Struct, struct, u8, u16be, u32be, u64be, viewOf } from './struct.ts';

export const SECTOR = 512;
export const FOOTER_SIZE = 512;
export const HEADER_SIZE = 1024;
/** A block without space in the file. */
export const UNUSED = 0xffff_ffff;
/** "No next structure": the data offset of a fixed disk and of the dynamic header. */
export const NOWHERE = 0xffff_ffff_ffff_ffffn;
export const FORMAT_VERSION = 0x0001_0000;

/** Section "Hard Disk Footer Format", "Disk Type". */
export const DISK_TYPE = { fixed: 2, dynamic: 3, differencing: 4 } as const;

/** Section "Hard Disk Footer Format", "Disk Geometry". */
export const Geometry = struct('VHD geometry', 4, {
  cylinders: [0, u16be],
  heads: [2, u8],
  sectorsPerTrack: [3, u8],
});

/** Section "Hard Disk Footer Format". */
export const Footer = struct('VHD footer', FOOTER_SIZE, {
  cookie: [0, magic('conectix')],
  features: [8, u32be],
  fileFormatVersion: [12, u32be],
  dataOffset: [16, bits64be],
  timeStamp: [24, u32be],
  creatorApplication: [28, bytes(4)],
  creatorVersion: [32, u32be],
  creatorHostOs: [36, u32be],
  originalSize: [40, u64be],
  currentSize: [48, u64be],
  diskGeometry: [56, Geometry],
  diskType: [60, u32be],
  checksum: [64, u32be],
  uniqueId: [68, bytes(16)],
  savedState: [84, u8],
});
export type FooterFields = ReturnType<typeof Footer.parse>;

/** Section "Dynamic Disk Header Format", "Parent Locator Entries". */
export const ParentLocator = struct('VHD parent locator', 24, {
  platformCode: [0, bytes(4)],
  platformDataSpace: [4, u32be],
  platformDataLength: [8, u32be],
  platformDataOffset: [16, u64be],
});
export type LocatorFields = ReturnType<typeof ParentLocator.parse>;

/** Section "Dynamic Disk Header Format". */
export const DynamicHeader = struct('VHD dynamic header', HEADER_SIZE, {
  cookie: [0, magic('cxsparse')],
  dataOffset: [8, bits64be],
  tableOffset: [16, u64be],
  headerVersion: [24, u32be],
  maxTableEntries: [28, u32be],
  blockSize: [32, u32be],
  checksum: [36, u32be],
  parentUniqueId: [40, bytes(16)],
  parentTimeStamp: [56, u32be],
  parentUnicodeName: [64, bytes(512)],
  parentLocators: [576, arrayOf(ParentLocator, 8)],
});
export type HeaderFields = ReturnType<typeof DynamicHeader.parse>;

/** One's complement of the byte sum, the four bytes at `skip` (the checksum itself) counted as zero. */
export function checksumOf(raw: Uint8Array, skip: number): number {
  let sum = 0;
  for (let i = 0; i < raw.length; i++) if (i < skip || i >= skip + 4) sum += raw[i]!;
  return 0xffff_ffff - sum;
}

export const footerSum = (raw: Uint8Array): number => checksumOf(raw, Footer.offsetOf('checksum'));
export const headerSum = (raw: Uint8Array): number => checksumOf(raw, DynamicHeader.offsetOf('checksum'));

/** Parses a structure that was read from `at` of the file: faults name the place in the file. */
export function parseAt<T>(what: Struct<T>, raw: Uint8Array, at: Bytes, file: string): T {
  try {
    return what.parse(raw, 0, file);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    const where = { ...error.where, at: at + (error.where.at ?? 0) };
    throw new ImageError(error.fault, error.message, where, { cause: error });
  }
}

const COOKIE = new TextEncoder().encode('conectix');

/** Whether the footer's cookie stands at `at`. */
export function hasCookie(raw: Uint8Array, at: number): boolean {
  return at >= 0 && at + COOKIE.length <= raw.length && COOKIE.every((byte, i) => raw[at + i] === byte);
}

/** A footer with its checksum. */
export function buildFooter(fields: Omit<FooterFields, 'cookie' | 'checksum'>): Uint8Array<ArrayBuffer> {
  const raw = Footer.build({ ...fields, cookie: 'conectix', checksum: 0 });
  viewOf(raw).setUint32(Footer.offsetOf('checksum'), footerSum(raw));
  return raw;
}

/** Header of a dynamic disk without a parent, with its checksum. */
export function buildHeader(tableOffset: number, maxTableEntries: number, blockSize: number): Uint8Array<ArrayBuffer> {
  const none = {
    platformCode: new Uint8Array(4),
    platformDataSpace: 0,
    platformDataLength: 0,
    platformDataOffset: 0,
  };
  const raw = DynamicHeader.build({
    cookie: 'cxsparse',
    dataOffset: NOWHERE,
    tableOffset,
    headerVersion: FORMAT_VERSION,
    maxTableEntries,
    blockSize,
    checksum: 0,
    parentUniqueId: new Uint8Array(16),
    parentTimeStamp: 0,
    parentUnicodeName: new Uint8Array(512),
    parentLocators: Array.from({ length: 8 }, () => none),
  });
  viewOf(raw).setUint32(DynamicHeader.offsetOf('checksum'), headerSum(raw));
  return raw;
}

/** 16 bytes in the usual 8-4-4-4-12 form, in the order in which they stand in the file. */
export function uuidText(raw: Uint8Array): string {
  const hex = Buffer.from(raw).toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

const EPOCH = Date.UTC(2000, 0, 1);
/** null for 0, which writers put where they know no time. */
export const timeOf = (seconds: number): Date | null => (seconds === 0 ? null : new Date(EPOCH + seconds * 1000));

/**
 * Cylinders, heads and sectors for a size: the algorithm of the specification's appendix "CHS Calculation".
 * C*H*S is at most `sectors`, and may be less.
 */
export function geometryFor(sectors: number): { cylinders: number; heads: number; sectorsPerTrack: number } {
  const total = Math.min(sectors, 65535 * 16 * 255);
  if (total >= 65535 * 16 * 63) {
    return { cylinders: Math.floor(total / 255 / 16), heads: 16, sectorsPerTrack: 255 };
  }
  let sectorsPerTrack = 17;
  let tracks = Math.floor(total / 17);
  let heads = Math.max(4, Math.floor((tracks + 1023) / 1024));
  if (tracks >= heads * 1024 || heads > 16) {
    sectorsPerTrack = 31;
    heads = 16;
    tracks = Math.floor(total / 31);
  }
  if (tracks >= heads * 1024) {
    sectorsPerTrack = 63;
    heads = 16;
    tracks = Math.floor(total / 63);
  }
  return { cylinders: Math.floor(tracks / heads), heads, sectorsPerTrack };
}
