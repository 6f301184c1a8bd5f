/**
 * Structures of ZIP archives (PKWARE APPNOTE 6.3.10, section 4.3) and of AFF4 (AFF4 Standard v1.0a, sections 3 and 4).
 * Little-endian.
 */
import type { Bytes } from '../../src/base/contracts.ts';
import { magic, struct, u16le, u32le, u64le } from '../../src/base/struct.ts';

/** Section 4.3.16, "End of central directory record". */
export const EndRecord = struct('end of the central directory', 22, {
  signature: [0, magic('PK\x05\x06')],
  disk: [4, u16le],
  entries: [10, u16le],
  directorySize: [12, u32le],
  directoryAt: [16, u32le],
  commentLength: [20, u16le],
});

/** Section 4.3.15, "Zip64 end of central directory locator". */
export const Locator64 = struct('zip64 locator', 20, {
  signature: [0, magic('PK\x06\x07')],
  endAt: [8, u64le],
  disks: [16, u32le],
});

/** Section 4.3.14, "Zip64 end of central directory record". */
export const EndRecord64 = struct('zip64 end of the central directory', 56, {
  signature: [0, magic('PK\x06\x06')],
  entries: [32, u64le],
  directorySize: [40, u64le],
  directoryAt: [48, u64le],
});

/** Section 4.3.12, "Central directory structure". */
export const Entry = struct('central directory entry', 46, {
  signature: [0, magic('PK\x01\x02')],
  flags: [8, u16le],
  method: [10, u16le],
  crc32: [16, u32le],
  packed: [20, u32le],
  size: [24, u32le],
  nameLength: [28, u16le],
  extraLength: [30, u16le],
  commentLength: [32, u16le],
  headerAt: [42, u32le],
});

/** Section 4.3.7, "Local file header". */
export const LocalHeader = struct('local file header', 30, {
  signature: [0, magic('PK\x03\x04')],
  nameLength: [26, u16le],
  extraLength: [28, u16le],
});

/** Section 4.5.3: the extra field that has what does not fit into 32 bits. */
export const ZIP64 = 1;
export const STORED = 0;
export const DEFLATED = 8;

/** An entry of a map: start and length in the disk, offset in the target, number of the target. */
export const MAP_ENTRY: Bytes = 28;
/** An entry of a bevy's index: offset in the bevy, length. */
export const INDEX_ENTRY: Bytes = 12;
