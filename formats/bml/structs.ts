/** On-disk structures of `.bml` files. Section numbers refer to docs/format-bml.md. Integers are little-endian. */
import { crc32c } from '../../src/base/checksum.ts';
import { ImageError } from '../../src/base/errors.ts';
import { bits64le, bytes, magic, oneOf, struct, u8, u16le, u32le, u64le, viewOf } from '../../src/base/struct.ts';

export const PAGE = 4096;
export const MAJOR = 1;
/** Where records begin; everything before has a fixed place. */
export const FIRST_RECORD = 65536;
export const SUPERBLOCKS = [0, 61440] as const;
export const SLOTS = [4096, 8192] as const;
export const KEY_AREAS = [12288, 36864] as const;
export const KEY_AREA_SIZE = 24576;
export const ALIGN = 64;

/** Section 3: features that this reader knows, one mask for each meaning of an unknown bit. */
export const COMPATIBLE = { recordSum: 1n } as const;
export const INCOMPATIBLE = { encrypted: 1n, sectors: 128n } as const;
export const KNOWN_INCOMPATIBLE = INCOMPATIBLE.encrypted | INCOMPATIBLE.sectors;
export const INCOMPATIBLE_NAMES = [
  'encrypted data',
  'encrypted metadata',
  'patched nodes',
  'clones',
  'records aligned to 4 KiB',
  'ChaCha20-Poly1305',
  'BLAKE3',
  'AES-256-XTS',
] as const;

/** What data records are encrypted with. */
export const CIPHERS = { none: 0, 'aes-256-gcm': 1, 'aes-256-xts': 2 } as const;
export type Cipher = keyof typeof CIPHERS;

export const SUPERBLOCK_USED = 88;
export const superblock = struct('superblock', SUPERBLOCK_USED, {
  magic: [0, magic('\x89BML\r\n\x1a\n')],
  major: [8, u16le],
  minor: [10, u16le],
  used: [12, u32le],
  compatible: [16, bits64le],
  readOnly: [24, bits64le],
  incompatible: [32, bits64le],
  setId: [40, bytes(16)],
  fileId: [56, bytes(16)],
  blockLog2: [72, u8],
  alignLog2: [73, u8],
  cipher: [74, oneOf(u8, CIPHERS)],
  hash: [75, oneOf(u8, { 'sha-256': 1 })],
  reserved: [76, u32le],
  created: [80, u64le],
});

/** Section 5: where the newest commit lies, for files whose end is damaged or still growing. */
export const commitSlot = struct('commit slot', 88, {
  magic: [0, magic('BMLSLOT\0')],
  sequence: [8, u64le],
  commitAt: [16, u64le],
  commitLength: [24, u32le],
  reserved: [28, u32le],
  layer: [32, bytes(16)],
  end: [48, u64le],
  heldAt: [56, u64le],
  held: [64, u32le],
  reserved2: [68, u32le],
  indexAt: [72, u64le],
  indexEntries: [80, u64le],
});

export const trailer = struct('trailer', 104, {
  magic: [0, magic('BMLTRAIL')],
  sequence: [8, u64le],
  listed: [16, u32le],
  commits: [20, u32le],
  fileSize: [24, u64le],
  heldAt: [32, u64le],
  held: [40, u32le],
  reserved: [44, u32le],
  indexAt: [48, u64le],
  indexEntries: [56, u64le],
  fileId: [64, bytes(16)],
  setId: [80, bytes(16)],
  sumLow: [96, u32le],
  sumHigh: [100, u32le],
});
export const TRAILER_COMMITS = 128;
export const trailerCommit = struct('trailer commit', 32, {
  at: [0, u64le],
  layer: [8, bytes(16)],
  length: [24, u32le],
  reserved: [28, u32le],
});
export const MAX_LISTED = Math.floor((PAGE - 4 - TRAILER_COMMITS) / trailerCommit.size);

export const KINDS = { data: 1, node: 2, session: 3, metadata: 4, 'change set': 5 } as const;
export type Kind = keyof typeof KINDS;
/** Record flags, which are part of the associated data. ENCRYPTED: with a counter and a tag. */
export const ENCRYPTED = 1;
export const SHORT = 2;
/** Enciphered sector by sector, as long as the plain bytes. */
export const SECTORS = 4;

export const RECORD_HEADER = 48;
export const recordHeader = struct('record', RECORD_HEADER, {
  magic: [0, magic('BREC')],
  kind: [4, oneOf(u8, KINDS)],
  codec: [5, oneOf(u8, { stored: 0, zstd: 1 })],
  session: [6, u16le],
  disk: [8, u32le],
  flags: [12, u32le],
  indexLow: [16, u32le],
  indexHigh: [20, u16le],
  reserved: [22, u8],
  level: [23, u8],
  layer: [24, bytes(8)],
  stored: [32, u32le],
  plain: [36, u32le],
  bodyCrc: [40, u32le],
  headerCrc: [44, u32le],
});

export const sessionRecord = struct('session record', 64, {
  layer: [0, bytes(16)],
  setId: [16, bytes(16)],
  salt: [32, bytes(16)],
  session: [48, u16le],
  cipher: [50, u8],
  reserved: [51, u8],
  generation: [52, u32le],
  created: [56, u64le],
});

export const COMMIT_HEADER = 256;
/** Fields from here to the end of the header say where things lie: no digest covers them. */
export const COMMIT_PLACES = 208;
export const COMMIT_HASH = 36;
export const commitHeader = struct('commit', COMMIT_HEADER, {
  magic: [0, magic('BMLCOMIT')],
  sequence: [8, u64le],
  layer: [16, bytes(16)],
  parent: [32, bytes(16)],
  parentHash: [48, bytes(32)],
  length: [80, u32le],
  disks: [84, u16le],
  type: [86, oneOf(u8, { full: 1, incremental: 2, differential: 3, snapshot: 4 })],
  consistency: [87, oneOf(u8, { unknown: 0, crash: 1, frozen: 2, application: 3, offline: 4 })],
  time: [88, u64le],
  started: [96, u64le],
  finished: [104, u64le],
  lines: [112, u32le],
  names: [116, u32le],
  ownLine: [120, u32le],
  nextDisk: [124, u32le],
  tableHash: [128, bytes(32)],
  merkle: [160, bytes(32)],
  records: [192, u64le],
  tlvBytes: [200, u32le],
  reserved: [204, u32le],
  tableAt: [208, u64le],
  tableStored: [216, u32le],
  reserved2: [220, u32le],
  previousAt: [224, u64le],
  firstAt: [232, u64le],
});

export const diskEntry = struct('disk', 128, {
  id: [0, bytes(16)],
  size: [16, u64le],
  number: [24, u32le],
  sectorSize: [28, u32le],
  blockLog2: [32, u8],
  height: [33, u8],
  flags: [34, u16le],
  reserved: [36, u32le],
  stored: [40, u64le],
  root: [48, bytes(32)],
  name: [80, bytes(48)],
});

export const tableLine = struct('layer table line', 64, {
  layer: [0, bytes(16)],
  salt: [16, bytes(16)],
  time: [32, u64le],
  live: [40, u64le],
  session: [48, u16le],
  nameLength: [50, u16le],
  nameAt: [52, u32le],
  reserved: [56, bytes(8)],
});

/** Writes the CRC-32C of everything before it into the last four bytes. */
export function sealCrc(page: Uint8Array): void {
  viewOf(page).setUint32(page.length - 4, crc32c(page.subarray(0, page.length - 4)), true);
}

export const crcFits = (page: Uint8Array): boolean =>
  viewOf(page).getUint32(page.length - 4, true) === crc32c(page.subarray(0, page.length - 4));

export const corrupt = (message: string, file: string, at: number, cause?: unknown): ImageError =>
  new ImageError('corrupt', message, { file, at }, cause === undefined ? {} : { cause });

export const hex = (data: Uint8Array): string =>
  Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('hex');
export const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;
