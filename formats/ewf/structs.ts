/**
 * Structures of the Expert Witness Compression Format, version 1: libewf, "Expert Witness Compression Format (EWF)".
 * Little-endian.
 */
import type { Bytes } from '../../src/base/contracts.ts';
import { bytes, magic, struct, u16le, u32le, u64le } from '../../src/base/struct.ts';

export const FILE_HEADER: Bytes = 13;
export const SIGNATURE = 'EVF\x09\x0d\x0a\xff\0';

/** Relatives of the format, by their first bytes, that are recognised and refused. */
export const RELATIVES: readonly (readonly [signature: string, title: string])[] = [
  ['EVF2\x0d\x0a\x81\0', 'EWF version 2 (Ex01) cannot be read'],
  ['LVF\x09\x0d\x0a\xff\0', 'logical evidence (L01) holds files and no disk'],
  ['LEF2\x0d\x0a\x81\0', 'logical evidence (Lx01) holds files and no disk'],
  ['ADSEGMENTEDFILE\0', 'AccessData logical images (AD1) hold files and no disk'],
];

/** Section 3.1, "File header". */
export const FileHeader = struct('file header', FILE_HEADER, {
  signature: [0, magic(SIGNATURE)],
  fieldsStart: [8, bytes(1)],
  segment: [9, u16le],
});

/** Section 3.2, "Section descriptor". The checksum is the Adler-32 of what stands before it. */
export const Descriptor = struct('section descriptor', 76, {
  type: [0, bytes(16)],
  next: [16, u64le],
  size: [24, u64le],
  checksum: [72, u32le],
});

/** Section 3.5, "Volume section", the form of EnCase. */
export const Volume = struct('volume section', 1052, {
  chunks: [4, u32le],
  sectorsPerChunk: [8, u32le],
  bytesPerSector: [12, u32le],
  sectors: [16, u64le],
  setId: [64, bytes(16)],
  checksum: [1048, u32le],
});

/** The form of SMART and of the original format. */
export const ShortVolume = struct('volume section', 94, {
  chunks: [4, u32le],
  sectorsPerChunk: [8, u32le],
  bytesPerSector: [12, u32le],
  sectors: [16, u32le],
  checksum: [90, u32le],
});

/** Section 3.9, "Table section". The checksum covers the 20 bytes before it. */
export const TableHeader = struct('table header', 24, {
  entries: [0, u32le],
  base: [8, u64le],
  checksum: [20, u32le],
});

/** Sections 3.16 and 3.17. The SHA-1 is in the second one only. */
export const Hash = struct('hash section', 36, { md5: [0, bytes(16)], checksum: [32, u32le] });
export const Digest = struct('digest section', 80, {
  md5: [0, bytes(16)],
  sha1: [16, bytes(20)],
  checksum: [76, u32le],
});

/** Section 3.13, "Error2 section": sectors that the acquisition could not read. */
export const ErrorHeader = struct('error2 section', 520, { entries: [0, u32le], checksum: [516, u32le] });
