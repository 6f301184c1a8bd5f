/**
 * Structures of Macrium Reflect X image files: `docs/FILE_LAYOUT.md` of github.com/macrium/mrimgx_file_layout, sections
 * "ROOT - FOOTER", "METADATA BLOCK" and "PARTITION - METADATA BLOCKS". Little-endian, packed.
 */
import { ImageError } from '../../src/base/errors.ts';
import { bytes, magic, safeU64, struct, u8, u32le, u64le } from '../../src/base/struct.ts';

export const MAGIC = 'MACRIUM_FILE';

/** The last bytes of every file. */
export const Footer = struct('Macrium footer', 20, {
  rootAt: [0, u64le],
  magic: [8, magic(MAGIC)],
});

export const LAST_BLOCK = 1;
export const COMPRESSED = 2;
export const ENCRYPTED = 4;
export const KNOWN_FLAGS = LAST_BLOCK | COMPRESSED | ENCRYPTED;

/** Stands before the payload of every metadata block. */
export const BlockHeader = struct('Macrium metadata block', 32, {
  name: [0, bytes(8)],
  length: [8, u32le],
  md5: [12, bytes(16)],
  flags: [28, u8],
});

/** One block of a partition: where it is stored. 34 bytes in a delta index, where its number follows. */
export const ELEMENT = 30;
export const DELTA_ELEMENT = 34;
export const BLOCK_NUMBER = 30;
const LENGTH = 24;

export interface Element {
  /** Offset in the file with `fileNumber`. */
  readonly fileAt: number;
  /** Of the block's own content, unpacked. */
  readonly md5: Uint8Array;
  /** Bytes as stored; 0: the block is zeros. */
  readonly length: number;
  readonly fileNumber: number;
}

export const lengthAt = (view: DataView, at: number): number => view.getUint32(at + LENGTH, true);

/** `file` and `fileAt` say where the element itself stands. */
export function elementAt(view: DataView, at: number, file: string, fileAt: number): Element {
  const high = view.getUint32(at + 4, true);
  if (high > 0x1f_ffff) {
    const where = { file, at: fileAt, field: 'file_position' };
    throw new ImageError('corrupt', 'the index gives a block a position that no file has', where);
  }
  return {
    fileAt: safeU64(high, view.getUint32(at, true)),
    md5: new Uint8Array(view.buffer, view.byteOffset + at + 8, 16).slice(),
    length: lengthAt(view, at),
    fileNumber: view.getUint16(at + 28, true),
  };
}

export const corrupt = (message: string, file: string, at: number, field?: string): ImageError =>
  new ImageError('corrupt', message, field === undefined ? { file, at } : { file, at, field });
