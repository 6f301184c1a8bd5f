/** Members of a tar archive: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU long names and sizes. */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { roundUp } from '../../src/base/range.ts';
import { bytes, struct, u8 } from '../../src/base/struct.ts';

const BLOCK = 512;
const MOST_MEMBERS = 4096;
const LONGEST_EXTRA = 1_048_576;

const TarHeader = struct('tar header', BLOCK, {
  name: [0, bytes(100)],
  mode: [100, bytes(8)],
  size: [124, bytes(12)],
  mtime: [136, bytes(12)],
  chksum: [148, bytes(8)],
  typeflag: [156, u8],
  magic: [257, bytes(6)],
  prefix: [345, bytes(155)],
});

export interface Member {
  readonly name: string;
  readonly at: Bytes;
  readonly size: Bytes;
  /** Seconds since 1970; 0 when the archive does not say. */
  readonly modified: number;
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
  if (block.length < BLOCK) return false;
  let sum = 8 * 0x20;
  for (let i = 0; i < BLOCK; i++) if (i < 148 || i >= 156) sum += block[i]!;
  return number(block.subarray(148, 156)) === sum;
}

interface Header {
  readonly name: string;
  readonly size: Bytes;
  readonly modified: number;
  readonly type: string;
}

function parseHeader(block: Uint8Array, at: Bytes, file: string): Header {
  if (!isTarHeader(block)) {
    throw new ImageError('corrupt', 'the checksum of a tar header does not hold', { file, at, field: 'chksum' });
  }
  const fields = TarHeader.parse(block, 0, file);
  const size = number(fields.size);
  if (!Number.isSafeInteger(size))
    throw new ImageError('corrupt', 'a member has no size', { file, at: at + 124, field: 'size' });
  const isUstar = text(fields.magic).startsWith('ustar');
  const prefix = isUstar && fields.magic[5] === 0 ? text(fields.prefix) : '';
  const modified = number(fields.mtime);
  return {
    name: prefix === '' ? text(fields.name) : `${prefix}/${text(fields.name)}`,
    size,
    modified: Number.isSafeInteger(modified) ? modified : 0,
    type: fields.typeflag === 0 ? '0' : String.fromCharCode(fields.typeflag),
  };
}

/** `"%d %s=%s\n", <length>, <keyword>, <value>` */
function paxRecords(data: Uint8Array): ReadonlyMap<string, string> {
  const records = new Map<string, string>();
  for (let at = 0; at < data.length; ) {
    const head = /^(\d{1,9}) ([^=]+)=/.exec(Buffer.from(data.subarray(at, at + 512)).toString('latin1'));
    const length = Number(head?.[1]);
    if (head === null || length <= head[0].length || at + length > data.length) break;
    records.set(head[2]!, Buffer.from(data.subarray(at + head[0].length, at + length - 1)).toString('utf8'));
    at += length;
  }
  return records;
}

/** What an extra header says about the member behind it. */
interface Extra {
  readonly name?: string;
  readonly size?: number;
}

function extraOf(type: string, data: Uint8Array): Extra {
  if (type === 'L') return { name: text(data) };
  const records = paxRecords(data);
  const name = records.get('path');
  const size = Number(records.get('size'));
  return { ...(name === undefined ? {} : { name }), ...(Number.isSafeInteger(size) ? { size } : {}) };
}

/**
 * Regular files in the order of the archive: one read of 512 bytes each. Ends at the first block of zeros. 'corrupt'
 * where a header does not hold or a member leaves the file.
 */
export async function tarMembers(source: ByteSource): Promise<readonly Member[]> {
  const members: Member[] = [];
  const block = new Uint8Array(BLOCK);
  let extra: Extra = {};
  for (let at = 0, headers = 0; at + BLOCK <= source.size; headers++) {
    await source.read(block, at);
    if (block.every(byte => byte === 0)) return members;
    if (headers === 4 * MOST_MEMBERS || members.length === MOST_MEMBERS) {
      throw new ImageError('unsupported', `more than ${MOST_MEMBERS} members`, { file: source.name, at });
    }
    const header = parseHeader(block, at, source.name);
    const size = extra.size ?? header.size;
    const dataAt = at + BLOCK;
    if (dataAt + size > source.size) {
      const message = `${JSON.stringify(extra.name ?? header.name)} needs ${size} bytes, ${source.size - dataAt} are there: the archive was cut off`;
      throw new ImageError('corrupt', message, { file: source.name, at });
    }
    at = dataAt + roundUp(size, BLOCK);
    if (header.type === 'x' || header.type === 'L') {
      if (size > LONGEST_EXTRA)
        throw new ImageError('corrupt', `an extra header of ${size} bytes`, { file: source.name, at: dataAt });
      const data = new Uint8Array(size);
      await source.read(data, dataAt);
      extra = { ...extra, ...extraOf(header.type, data) };
      continue;
    }
    if (header.type === '0' || header.type === '7') {
      members.push({ name: extra.name ?? header.name, at: dataAt, size, modified: header.modified });
    } else if (header.type === 'S') {
      throw new ImageError('unsupported', 'sparse members of a tar archive are not known', {
        file: source.name,
        at: dataAt - BLOCK,
      });
    }
    if (header.type !== 'g') extra = {};
  }
  return members;
}
