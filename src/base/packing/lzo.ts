/** LZO: the LZO1X bit stream (described in the Linux kernel's Documentation/staging/lzo.rst) and lzop's container. */
import { crc32 } from 'node:zlib';
import { adler32 } from '../checksum.ts';
import type { ByteSource, Bytes } from '../contracts.ts';
import { ImageError } from '../errors.ts';
import { viewOf } from '../struct.ts';

const bad = (why: string): never => {
  throw new RangeError(why);
};

/** Copies `count` bytes to `to` from `distance` before it; what is copied may be what was just written. */
function repeat(out: Uint8Array, to: number, distance: number, count: number): void {
  if (distance > to || to + count > out.length) bad('a match leaves the block');
  if (distance >= count) out.copyWithin(to, to - distance, to - distance + count);
  else for (let i = 0; i < count; i++) out[to + i] = out[to + i - distance]!;
}

/** Decompresses one LZO1X block; the result has exactly the length of `out`. Throws RangeError otherwise. */
export function lzo1x(packed: Uint8Array, out: Uint8Array): void {
  let at = 0;
  let to = 0;
  const next = (): number => (at < packed.length ? packed[at++]! : bad('the block ends early'));
  const literals = (count: number): void => {
    if (at + count > packed.length || to + count > out.length) bad('a literal run leaves the block');
    out.set(packed.subarray(at, at + count), to);
    at += count;
    to += count;
  };
  const match = (distance: number, count: number): void => {
    repeat(out, to, distance, count);
    to += count;
  };
  /** A length that goes on in further bytes when its field is 0. */
  const long = (field: number, most: number): number => {
    if (field > 0) return field;
    let length = most;
    let byte = next();
    for (; byte === 0; byte = next()) length += length <= out.length ? 255 : bad('a length leaves the block');
    return length + byte;
  };
  /** Literals of the last instruction: 0 to 3, and 4 for a run. */
  let state = 0;
  const trail = (count: number): void => {
    literals(count);
    state = Math.min(4, count);
  };
  if ((packed[0] ?? 0) > 17) trail(next() - 17);
  for (;;) {
    const op = next();
    if (op < 16) {
      if (state === 0) {
        literals(3 + long(op, 15));
        state = 4;
        continue;
      }
      const distance = next() * 4 + (op >> 2) + 1;
      if (state === 4) match(distance + 2048, 3);
      else match(distance, 2);
      trail(op & 3);
    } else if (op < 64) {
      const isFar = op < 32;
      const length = 2 + (isFar ? long(op & 7, 7) : long(op & 31, 31));
      const low = next();
      const offset = next() * 64 + (low >> 2);
      if (isFar) {
        const distance = 16_384 + ((op & 8) === 0 ? 0 : 16_384) + offset;
        if (distance === 16_384) break;
        match(distance, length);
      } else match(offset + 1, length);
      trail(low & 3);
    } else {
      const length = op < 128 ? 3 + ((op >> 5) & 1) : 5 + ((op >> 5) & 3);
      match(next() * 8 + ((op >> 2) & 7) + 1, length);
      trail(op & 3);
    }
  }
  if (to !== out.length) bad(`${to} of ${out.length} bytes come out`);
}

export const LZOP_MAGIC = [0x89, 0x4c, 0x5a, 0x4f, 0x00, 0x0d, 0x0a, 0x1a, 0x0a] as const;
/** Flags of lzop's header: which checksums its blocks carry. */
const ADLER_PLAIN = 0x1;
const ADLER_PACKED = 0x2;
const EXTRA = 0x40;
const CRC_PLAIN = 0x100;
const CRC_PACKED = 0x200;
const FILTER = 0x800;
/** lzop's own limit for a block. */
const MOST_BLOCK: Bytes = 64 * 2 ** 20;
/** A byte of LZO1X stands for at most so many, in a length that goes on; what an instruction begins with comes on top, once. */
const MOST_OF_A_BYTE = 255;
const MOST_ON_TOP = 64;

interface Header {
  readonly flags: number;
  readonly end: Bytes;
}

/** The header as lzop 1.x writes it, versions 0x0940 and later. */
async function readHeader(source: ByteSource): Promise<Header> {
  const head = new Uint8Array(Math.min(source.size, 512));
  await source.read(head, 0);
  const refuse = (message: string): never => {
    throw new ImageError('unsupported', message, { file: source.name, at: LZOP_MAGIC.length });
  };
  const view = viewOf(head);
  if (head.length < 40) refuse('the lzop header is cut off');
  if (view.getUint16(9) < 0x0940) refuse('lzop files older than version 0x0940 are not known');
  if (![1, 2, 3].includes(head[15]!)) refuse(`the lzop method ${head[15]} is not known`);
  const flags = view.getUint32(17);
  if ((flags & (FILTER | EXTRA)) !== 0) refuse('lzop filters and extra fields are not known');
  // Mode and time take 12 bytes, then the name, and the checksum of the header.
  return { flags, end: 33 + 1 + head[33]! + 4 };
}

/** What an lzop file holds, block by block from the start or a block on, each checked against its checksums. */
export async function* lzopContent(
  source: ByteSource,
  from: Bytes = 0,
  restart: (packed: Bytes) => void = () => {},
): AsyncGenerator<Uint8Array> {
  const { flags, end } = await readHeader(source);
  const field = new Uint8Array(4);
  let at = Math.max(from, end);
  const number = async (): Promise<number> => {
    await source.read(field, at);
    at += 4;
    return viewOf(field).getUint32(0);
  };
  const damaged = (why: string, cause?: unknown): never => {
    throw new ImageError('corrupt', `the lzop file is damaged: ${why}`, { file: source.name, at }, { cause });
  };
  for (;;) {
    restart(at);
    const length = await number();
    if (length === 0) return;
    const packedLength = await number();
    if (length > MOST_BLOCK || packedLength > length || at + packedLength > source.size) damaged('a block is too long');
    if (length > packedLength * MOST_OF_A_BYTE + MOST_ON_TOP)
      damaged('a block is said to hold more than its bytes can');
    const adler = (flags & ADLER_PLAIN) !== 0 ? await number() : null;
    const crc = (flags & CRC_PLAIN) !== 0 ? await number() : null;
    if (packedLength < length) {
      if ((flags & ADLER_PACKED) !== 0) at += 4;
      if ((flags & CRC_PACKED) !== 0) at += 4;
    }
    const packed = new Uint8Array(packedLength);
    await source.read(packed, at);
    const out = packedLength < length ? new Uint8Array(length) : packed;
    try {
      if (packedLength < length) lzo1x(packed, out);
    } catch (cause) {
      damaged('a block cannot be decompressed', cause);
    }
    if (adler !== null && adler32(out) !== adler) damaged('the Adler-32 of a block does not hold');
    if (crc !== null && crc32(out) !== crc) damaged('the CRC-32 of a block does not hold');
    at += packedLength;
    yield out;
  }
}
