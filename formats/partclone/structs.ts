/** Headers of partclone images, versions 0001 and 0002 (partclone's IMAGE_FORMATS.md and src/partclone.h). */
import { crc32 } from 'node:zlib';
import type { Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { roundUp } from '../../src/base/range.ts';
import { bytes, magic, struct, u8, u16le, u32le, u64le } from '../../src/base/struct.ts';

export const MAGIC = 'partclone-image';
export const HEADER_1 = 4160;
export const HEADER_2 = 110;
/** Marks the end of the bitmap of version 0001. */
export const BITMAP_END = 'BiTmAgIc';

/** Both versions have their number at the same place. */
const Version = struct('partclone header', 34, { magic: [0, magic(MAGIC)], version: [30, bytes(4)] });

const Header1 = struct('partclone header 0001', HEADER_1, {
  magic: [0, magic(MAGIC)],
  fileSystem: [15, bytes(15)],
  version: [30, magic('0001')],
  blockSize: [36, u32le],
  deviceSize: [40, u64le],
  blocks: [48, u64le],
  usedBlocks: [56, u64le],
});

export const Header2 = struct('partclone header 0002', HEADER_2, {
  magic: [0, magic(`${MAGIC}\0`)],
  writer: [16, bytes(14)],
  version: [30, magic('0002')],
  endianness: [34, u16le],
  fileSystem: [36, bytes(16)],
  deviceSize: [52, u64le],
  blocks: [60, u64le],
  superblockUsed: [68, u64le],
  usedBlocks: [76, u64le],
  blockSize: [84, u32le],
  featureSize: [88, u32le],
  imageVersion: [92, u16le],
  cpuBits: [94, u16le],
  checksumMode: [96, u16le],
  checksumSize: [98, u16le],
  blocksPerChecksum: [100, u32le],
  reseed: [104, u8],
  bitmapMode: [105, u8],
  crc: [106, u32le],
});

/** CRC-32 as partclone has it: without the inversion at the end. `state` is what the bytes before left. */
export const rawCrc = (data: Uint8Array, state = 0xffff_ffff): number => ~crc32(data, ~state >>> 0) >>> 0;

export type SumKind = 'none' | 'crc32' | 'first-byte-crc32' | 'xxh64' | 'xxh128';
const SUMS: Readonly<Record<number, { readonly kind: SumKind; readonly size: number }>> = {
  0: { kind: 'none', size: 0 },
  32: { kind: 'crc32', size: 4 },
  48: { kind: 'xxh64', size: 8 },
  49: { kind: 'xxh128', size: 16 },
  255: { kind: 'first-byte-crc32', size: 4 },
};
export type BitmapKind = 'bits' | 'bytes' | 'all';
const BITMAPS: Readonly<Record<number, BitmapKind>> = { 0: 'all', 1: 'bits', 8: 'bytes' };

/** What an image says about its volume, whichever its version. */
export interface ImageHeader {
  readonly version: '0001' | '0002';
  readonly fileSystem: string;
  /** The volume's: the device's size, or that of the blocks where it is more. */
  readonly size: Bytes;
  readonly blockSize: Bytes;
  readonly blocks: number;
  /** By the header; the bitmap decides. */
  readonly usedBlocks: number;
  readonly sum: SumKind;
  readonly sumSize: number;
  /** 0 where there are no checksums. */
  readonly blocksPerSum: number;
  /** Each checksum starts anew; otherwise it goes on from the one before. */
  readonly reseeded: boolean;
  readonly bitmap: BitmapKind;
  readonly bitmapAt: Bytes;
  /** Of the bitmap, without what ends it. */
  readonly bitmapLength: Bytes;
  /** The first stored block. */
  readonly dataAt: Bytes;
}

/** More than any file system has, and small enough for every product here to stay exact. */
const MOST_BLOCK: Bytes = 64 * 2 ** 20;
const MOST_SIZE: Bytes = 2 ** 52;

const textOf = (field: Uint8Array): string => Buffer.from(field).toString('latin1').replace(/\0.*$/s, '');

interface Shape {
  readonly blockSize: number;
  readonly blocks: number;
  readonly deviceSize: number;
}

/** Size of the volume; refuses shapes that no file system has. */
function sizeOf({ blockSize, blocks, deviceSize }: Shape, file: string, at: Bytes): Bytes {
  const refuse = (message: string, field: string): never => {
    throw new ImageError('corrupt', message, { file, at, field });
  };
  if (blockSize < 512 || blockSize > MOST_BLOCK || blockSize % 512 !== 0) {
    refuse(`blocks of ${blockSize} bytes are not possible`, 'blockSize');
  }
  if (blocks < 1 || blocks > MOST_SIZE / blockSize) refuse(`${blocks} blocks are not possible`, 'blocks');
  if (deviceSize > MOST_SIZE) refuse(`a device of ${deviceSize} bytes is not possible`, 'deviceSize');
  return roundUp(Math.max(deviceSize, blocks * blockSize), 512);
}

function parse1(head: Uint8Array, file: string): ImageHeader {
  const fields = Header1.parse(head, 0, file);
  const { blockSize, blocks } = fields;
  return {
    version: '0001',
    fileSystem: textOf(fields.fileSystem),
    size: sizeOf(fields, file, 36),
    blockSize,
    blocks,
    usedBlocks: fields.usedBlocks,
    sum: 'first-byte-crc32',
    sumSize: 4,
    blocksPerSum: 1,
    reseeded: false,
    bitmap: 'bytes',
    bitmapAt: HEADER_1,
    bitmapLength: blocks,
    dataAt: HEADER_1 + blocks + BITMAP_END.length,
  };
}

/** Length of a bitmap, and of what ends it. */
function bitmapLengths(kind: BitmapKind, blocks: number): readonly [number, number] {
  if (kind === 'all') return [0, 0];
  return kind === 'bits' ? [Math.ceil(blocks / 8), 4] : [blocks, BITMAP_END.length];
}

function parse2(head: Uint8Array, file: string): ImageHeader {
  const fields = Header2.parse(head, 0, file);
  const where = (field: keyof typeof fields & string) => ({ file, at: Header2.offsetOf(field), field });
  if (fields.endianness === 0xdec0) {
    throw new ImageError('unsupported', 'written on a big-endian machine', where('endianness'));
  }
  if (rawCrc(head.subarray(0, 106)) !== fields.crc) {
    throw new ImageError('corrupt', 'the checksum of the header does not hold', where('crc'));
  }
  if (fields.endianness !== 0xc0de) throw new ImageError('corrupt', 'unknown byte order', where('endianness'));
  if (fields.featureSize !== 18 || fields.imageVersion !== 2) {
    const text = `options of version ${fields.imageVersion} (${fields.featureSize} bytes) are not known`;
    throw new ImageError('unsupported', text, where('imageVersion'));
  }
  const sum = SUMS[fields.checksumMode];
  if (sum === undefined) {
    throw new ImageError('unsupported', `checksum mode ${fields.checksumMode} is not known`, where('checksumMode'));
  }
  if (sum.size !== fields.checksumSize || (sum.size > 0 && fields.blocksPerChecksum === 0)) {
    throw new ImageError('corrupt', 'the checksums cannot have such a length', where('checksumSize'));
  }
  const bitmap = BITMAPS[fields.bitmapMode];
  if (bitmap === undefined) {
    throw new ImageError('unsupported', `bitmap mode ${fields.bitmapMode} is not known`, where('bitmapMode'));
  }
  const [bitmapLength, endLength] = bitmapLengths(bitmap, fields.blocks);
  return {
    version: '0002',
    fileSystem: textOf(fields.fileSystem),
    size: sizeOf(fields, file, 52),
    blockSize: fields.blockSize,
    blocks: fields.blocks,
    usedBlocks: fields.usedBlocks,
    sum: sum.kind,
    sumSize: sum.size,
    blocksPerSum: sum.size === 0 ? 0 : fields.blocksPerChecksum,
    reseeded: fields.reseed !== 0,
    bitmap,
    bitmapAt: HEADER_2,
    bitmapLength,
    dataAt: HEADER_2 + bitmapLength + endLength,
  };
}

export const hasMagic = (head: Uint8Array): boolean =>
  head.length >= Version.size && Buffer.from(head.subarray(0, MAGIC.length)).toString('latin1') === MAGIC;

/** `head`: the first HEADER_1 bytes, or all of a shorter file. Throws 'corrupt' or 'unsupported', naming the field. */
export function parseHeader(head: Uint8Array, file: string): ImageHeader {
  const version = textOf(Version.parse(head, 0, file).version);
  if (version === '0001') return parse1(head, file);
  if (version === '0002') return parse2(head, file);
  const shown = JSON.stringify(version);
  throw new ImageError('unsupported', `version ${shown} is not known`, { file, at: 30, field: 'version' });
}
