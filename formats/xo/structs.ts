/** Footer and header of a VHD directory, as xen-orchestra, packages/vhd-lib, VhdDirectory, keeps them. */
import { ImageError } from '../../src/base/errors.ts';
import { isPowerOfTwo } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import type { FooterFields, HeaderFields } from '../../src/base/vhd.ts';
import { checksumOf, DISK_TYPE, DynamicHeader, FORMAT_VERSION, Footer, SECTOR } from '../../src/base/vhd.ts';

const LARGEST_BLOCK = 2 ** 28;

const sumHolds = (raw: Uint8Array, at: number): boolean => checksumOf(raw, at) === viewOf(raw).getUint32(at);

/** Refuses by name what this reader does not know. */
export function parseFooter(raw: Uint8Array, file: string): FooterFields {
  const fields = Footer.parse(raw, 0, file);
  const refuse = (fault: 'unsupported' | 'corrupt', message: string, field: keyof FooterFields): never => {
    throw new ImageError(fault, message, { file, at: Footer.offsetOf(field), field });
  };
  if (!sumHolds(raw, Footer.offsetOf('checksum'))) {
    refuse('corrupt', 'the checksum of the VHD footer does not hold', 'checksum');
  }
  if (Math.floor(fields.fileFormatVersion / 65_536) !== FORMAT_VERSION / 65_536) {
    refuse('unsupported', `VHD version 0x${fields.fileFormatVersion.toString(16)} is not known`, 'fileFormatVersion');
  }
  if (fields.features > 3) {
    refuse('unsupported', `VHD feature bits 0x${fields.features.toString(16)} are not known`, 'features');
  }
  if (fields.diskType !== DISK_TYPE.dynamic && fields.diskType !== DISK_TYPE.differencing) {
    refuse('unsupported', `VHD disk type ${fields.diskType} is not known in a directory`, 'diskType');
  }
  if (fields.currentSize === 0 || fields.currentSize % SECTOR !== 0) {
    refuse('corrupt', `the disk's size ${fields.currentSize} is not a number of sectors`, 'currentSize');
  }
  return fields;
}

export function parseHeader(raw: Uint8Array, size: number, file: string): HeaderFields {
  const fields = DynamicHeader.parse(raw, 0, file);
  const refuse = (fault: 'unsupported' | 'corrupt', message: string, field: keyof HeaderFields): never => {
    throw new ImageError(fault, message, { file, at: DynamicHeader.offsetOf(field), field });
  };
  if (!sumHolds(raw, DynamicHeader.offsetOf('checksum'))) {
    refuse('corrupt', 'the checksum of the dynamic header does not hold', 'checksum');
  }
  if (fields.headerVersion !== FORMAT_VERSION) {
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
