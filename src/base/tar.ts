/** Headers of tar members: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU long names and sizes. */
import type { Bytes } from './contracts.ts';
import { ImageError } from './errors.ts';
import { bytes, struct, u8 } from './struct.ts';

export const SECTOR: Bytes = 512;

const TarHeader = struct('tar header', SECTOR, {
  name: [0, bytes(100)],
  size: [124, bytes(12)],
  mtime: [136, bytes(12)],
  chksum: [148, bytes(8)],
  typeflag: [156, u8],
  magic: [257, bytes(6)],
  prefix: [345, bytes(155)],
});

export interface Header {
  readonly name: string;
  readonly size: Bytes;
  /** Seconds since 1970; 0 when the header does not say. */
  readonly modified: number;
  /** '0' file, 'L' and 'x' say something about the next member. */
  readonly type: string;
}

const text = (field: Uint8Array): string => {
  const end = field.indexOf(0);
  return Buffer.from(end < 0 ? field : field.subarray(0, end)).toString('utf8');
};

/** Octal digits, or GNU's binary number whose first bit is set; NaN for neither. */
function number(field: Uint8Array): number {
  if (field[0] === 0x80) return field.subarray(1).reduce((sum, byte) => sum * 256 + byte, 0);
  const digits = text(field).trim();
  return digits === '' ? 0 : /^[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : Number.NaN;
}

/** The sum of the header's bytes, its own field counted as spaces. */
export function isTarHeader(block: Uint8Array): boolean {
  if (block.length < SECTOR) return false;
  let sum = 8 * 0x20;
  for (let i = 0; i < SECTOR; i++) if (i < 148 || i >= 156) sum += block[i]!;
  return number(block.subarray(148, 156)) === sum;
}

/** 'corrupt' when the checksum does not hold or the size is none. `at`: where the header lies. */
export function parseHeader(block: Uint8Array, at: Bytes, file: string): Header {
  if (!isTarHeader(block)) {
    throw new ImageError('corrupt', 'the checksum of a tar header does not hold', { file, at, field: 'chksum' });
  }
  const fields = TarHeader.parse(block, 0, file);
  const size = number(fields.size);
  if (!Number.isSafeInteger(size)) {
    throw new ImageError('corrupt', 'a member has no size', { file, at: at + 124, field: 'size' });
  }
  const prefix = text(fields.magic).startsWith('ustar') && fields.magic[5] === 0 ? text(fields.prefix) : '';
  const modified = number(fields.mtime);
  return {
    name: prefix === '' ? text(fields.name) : `${prefix}/${text(fields.name)}`,
    size,
    modified: Number.isSafeInteger(modified) ? modified : 0,
    type: fields.typeflag === 0 ? '0' : String.fromCharCode(fields.typeflag),
  };
}

/** What an extra header ('L' or 'x') says about the member behind it. */
export interface Extra {
  readonly name?: string;
  readonly size?: Bytes;
}

/** pax records are `"%d %s=%s\n", <length>, <keyword>, <value>`. */
export function extraOf(type: string, data: Uint8Array): Extra {
  if (type === 'L') return { name: text(data) };
  let extra: Extra = {};
  for (let at = 0; at < data.length; ) {
    const head = /^(\d{1,9}) ([^=]+)=/.exec(Buffer.from(data.subarray(at, at + SECTOR)).toString('latin1'));
    const length = Number(head?.[1]);
    if (head === null || length <= head[0].length || at + length > data.length) break;
    const value = Buffer.from(data.subarray(at + head[0].length, at + length - 1)).toString('utf8');
    if (head[2] === 'path') extra = { ...extra, name: value };
    if (head[2] === 'size' && Number.isSafeInteger(Number(value))) extra = { ...extra, size: Number(value) };
    at += length;
  }
  return extra;
}
