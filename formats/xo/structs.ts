/**
 * Footer and header of a VHD directory: Virtual Hard Disk Image Format Specification 1.0 (Microsoft, 2006), as
 * xen-orchestra, packages/vhd-lib, VhdDirectory, keeps them. Big-endian.
 */
import { ImageError } from '../../src/base/errors.ts';
import { isPowerOfTwo } from '../../src/base/range.ts';
import { arrayOf, bytes, magic, struct, u32be, u64be, viewOf } from '../../src/base/struct.ts';

export const SECTOR = 512;
const VERSION = 0x0001_0000;
const LARGEST_BLOCK = 2 ** 28;

export const DYNAMIC = 3;
export const DIFFERENCING = 4;

/** Section "Hard Disk Footer Format". */
export const Footer = struct('VHD footer', 512, {
  cookie: [0, magic('conectix')],
  features: [8, u32be],
  fileFormatVersion: [12, u32be],
  timeStamp: [24, u32be],
  currentSize: [48, u64be],
  diskType: [60, u32be],
  checksum: [64, u32be],
  uniqueId: [68, bytes(16)],
});
export type FooterFields = ReturnType<typeof Footer.parse>;

/** Section "Dynamic Disk Header Format", "Parent Locator Entries". The content of each lies in a file of its own. */
const Locator = struct('VHD parent locator', 24, { platformCode: [0, bytes(4)], platformDataLength: [8, u32be] });

/** Section "Dynamic Disk Header Format". */
export const Header = struct('VHD dynamic header', 1024, {
  cookie: [0, magic('cxsparse')],
  headerVersion: [24, u32be],
  maxTableEntries: [28, u32be],
  blockSize: [32, u32be],
  checksum: [36, u32be],
  parentUniqueId: [40, bytes(16)],
  parentUnicodeName: [64, bytes(512)],
  parentLocators: [576, arrayOf(Locator, 8)],
});
export type HeaderFields = ReturnType<typeof Header.parse>;

/** One's complement of the byte sum, the checksum itself counted as zero. */
export function sumHolds(raw: Uint8Array, at: number): boolean {
  let sum = 0;
  for (let i = 0; i < raw.length; i++) if (i < at || i >= at + 4) sum += raw[i]!;
  return 0xffff_ffff - sum === viewOf(raw).getUint32(at);
}

/** 16 bytes in the usual 8-4-4-4-12 form, in the order in which they stand in the file. */
export function uuidText(raw: Uint8Array): string {
  const hex = Buffer.from(raw).toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

/** Refuses by name what this reader does not know. */
export function parseFooter(raw: Uint8Array, file: string): FooterFields {
  const fields = Footer.parse(raw, 0, file);
  const refuse = (fault: 'unsupported' | 'corrupt', message: string, field: keyof FooterFields): never => {
    throw new ImageError(fault, message, { file, at: Footer.offsetOf(field), field });
  };
  if (!sumHolds(raw, Footer.offsetOf('checksum'))) {
    refuse('corrupt', 'the checksum of the VHD footer does not hold', 'checksum');
  }
  if (Math.floor(fields.fileFormatVersion / 65_536) !== VERSION / 65_536) {
    refuse('unsupported', `VHD version 0x${fields.fileFormatVersion.toString(16)} is not known`, 'fileFormatVersion');
  }
  if (fields.features > 3) {
    refuse('unsupported', `VHD feature bits 0x${fields.features.toString(16)} are not known`, 'features');
  }
  if (fields.diskType !== DYNAMIC && fields.diskType !== DIFFERENCING) {
    refuse('unsupported', `VHD disk type ${fields.diskType} is not known in a directory`, 'diskType');
  }
  if (fields.currentSize === 0 || fields.currentSize % SECTOR !== 0) {
    refuse('corrupt', `the disk's size ${fields.currentSize} is not a number of sectors`, 'currentSize');
  }
  return fields;
}

export function parseHeader(raw: Uint8Array, size: number, file: string): HeaderFields {
  const fields = Header.parse(raw, 0, file);
  const refuse = (fault: 'unsupported' | 'corrupt', message: string, field: keyof HeaderFields): never => {
    throw new ImageError(fault, message, { file, at: Header.offsetOf(field), field });
  };
  if (!sumHolds(raw, Header.offsetOf('checksum'))) {
    refuse('corrupt', 'the checksum of the dynamic header does not hold', 'checksum');
  }
  if (fields.headerVersion !== VERSION) {
    refuse(
      'unsupported',
      `dynamic header version 0x${fields.headerVersion.toString(16)} is not known`,
      'headerVersion',
    );
  }
  const { blockSize, maxTableEntries } = fields;
  if (!isPowerOfTwo(blockSize) || blockSize < SECTOR || blockSize > LARGEST_BLOCK) {
    refuse('unsupported', `a block size of ${blockSize} bytes is not known`, 'blockSize');
  }
  if (maxTableEntries * blockSize < size) {
    refuse(
      'corrupt',
      `${maxTableEntries} blocks of ${blockSize} bytes are too few for ${size} bytes`,
      'maxTableEntries',
    );
  }
  return fields;
}
