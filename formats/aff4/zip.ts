/** The archive around an AFF4 volume: its end, its directory, its members. */
import { crc32, inflateRawSync } from 'node:zlib';
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { safeU64, viewOf } from '../../src/base/struct.ts';
import { DEFLATED, EndRecord, EndRecord64, Entry, LocalHeader, Locator64, STORED, ZIP64 } from './structs.ts';

const LONGEST_COMMENT: Bytes = 65_535;
const WINDOW: Bytes = 2 ** 18;
const UNKNOWN_32 = 0xffff_ffff;

export const corrupt = (message: string, file: string, at: Bytes, field?: string): ImageError =>
  new ImageError('corrupt', message, field === undefined ? { file, at } : { file, at, field });

export interface Archive {
  readonly source: ByteSource;
  readonly directoryAt: Bytes;
  readonly directorySize: Bytes;
  readonly entries: number;
  /** The archive's comment, where a volume has its name. */
  readonly comment: string;
}

export interface Member {
  /** As it stands in the directory, one character per byte. */
  readonly name: string;
  readonly method: number;
  readonly crc: number;
  /** In the archive, and unpacked. */
  readonly packed: Bytes;
  readonly size: Bytes;
  /** Of its local header. */
  readonly headerAt: Bytes;
}

const refuse = (message: string, file: string, at: Bytes): ImageError =>
  new ImageError('unsupported', message, { file, at });

/** Where the record that ends the archive begins in `tail`; -1 when it is not there. */
export function endIn(tail: Uint8Array): number {
  for (let at = tail.length - EndRecord.size; at >= 0; at--) {
    if (tail[at] !== 0x50 || tail[at + 1] !== 0x4b || tail[at + 2] !== 5 || tail[at + 3] !== 6) continue;
    if (at + EndRecord.size + viewOf(tail).getUint16(at + 20, true) <= tail.length) return at;
  }
  return -1;
}

/** The comment behind the record at `at`, up to its first zero byte. */
export const commentAt = (tail: Uint8Array, at: number): string =>
  Buffer.from(tail.subarray(at + EndRecord.size, at + EndRecord.size + viewOf(tail).getUint16(at + 20, true)))
    .toString('utf8')
    .replace(/\0.*$/s, '');

async function readEnd64(source: ByteSource, endAt: Bytes): Promise<ReturnType<typeof EndRecord64.parse> | null> {
  const { name: file } = source;
  if (endAt < Locator64.size) return null;
  const raw = new Uint8Array(Locator64.size);
  await source.read(raw, endAt - raw.length);
  if (viewOf(raw).getUint32(0, true) !== 0x0706_4b50) return null;
  const locator = Locator64.parse(raw, 0, file);
  if (locator.disks > 1) throw refuse('an archive in several parts is not known', file, endAt - raw.length);
  const record = new Uint8Array(EndRecord64.size);
  if (locator.endAt + record.length > endAt)
    throw corrupt('the end record is behind the end', file, endAt - raw.length);
  await source.read(record, locator.endAt);
  return EndRecord64.parse(record, 0, file);
}

/** 'not-this-format' where no archive ends. */
export async function readArchive(source: ByteSource): Promise<Archive> {
  const { name: file } = source;
  const tail = new Uint8Array(Math.min(source.size, EndRecord.size + LONGEST_COMMENT));
  await source.read(tail, source.size - tail.length);
  const at = endIn(tail);
  if (at < 0) throw new ImageError('not-this-format', 'no ZIP archive ends here', { file, at: source.size });
  const endAt = source.size - tail.length + at;
  const end = EndRecord.parse(tail, at, file);
  const large = await readEnd64(source, endAt);
  if (large === null && end.disk !== 0) throw refuse('an archive in several parts is not known', file, endAt + 4);
  const { directoryAt, directorySize, entries } = large ?? end;
  if (directoryAt + directorySize > endAt)
    throw corrupt('the directory leaves the archive', file, endAt, 'directoryAt');
  return { source, directoryAt, directorySize, entries, comment: commentAt(tail, at) };
}

/** Sizes and place that do not fit into 32 bits stand in an extra field, in this order. */
function wideFields(extra: Uint8Array, narrow: readonly [size: Bytes, packed: Bytes, headerAt: Bytes]) {
  const view = viewOf(extra);
  for (let at = 0; at + 4 <= extra.length; ) {
    const length = view.getUint16(at + 2, true);
    if (at + 4 + length > extra.length) return null;
    if (view.getUint16(at, true) === ZIP64) {
      let next = at + 4;
      const wide = narrow.map(value => {
        if (value !== UNKNOWN_32) return value;
        next += 8;
        if (next > at + 4 + length || view.getUint32(next - 4, true) > 0x1f_ffff) return null;
        return safeU64(view.getUint32(next - 4, true), view.getUint32(next - 8, true));
      });
      return wide.includes(null) ? null : (wide as [Bytes, Bytes, Bytes]);
    }
    at += 4 + length;
  }
  return narrow.includes(UNKNOWN_32) ? null : narrow;
}

/** Every member, in the order of the directory. 'corrupt' where the directory makes no sense. */
export async function* membersOf({ source, directoryAt, directorySize, entries }: Archive): AsyncGenerator<Member> {
  const { name: file } = source;
  const end = directoryAt + directorySize;
  let window = new Uint8Array(0);
  let from = directoryAt;
  const part = async (at: Bytes, length: Bytes): Promise<Uint8Array> => {
    if (at + length > end) throw corrupt('the directory is cut off', file, at);
    if (at + length > from + window.length) {
      window = new Uint8Array(Math.min(WINDOW, end - at));
      from = at;
      await source.read(window, at);
    }
    return window.subarray(at - from, at - from + length);
  };
  for (let at = directoryAt, n = 0; n < entries; n++) {
    const entry = Entry.parse(await part(at, Entry.size), 0, file);
    const { nameLength, extraLength, commentLength, method } = entry;
    const text = await part(at + Entry.size, nameLength + extraLength);
    const name = Buffer.from(text.subarray(0, nameLength)).toString('latin1');
    const wide = wideFields(text.subarray(nameLength), [entry.size, entry.packed, entry.headerAt]);
    if (wide === null) throw corrupt(`the sizes of "${name.slice(0, 100)}" make no sense`, file, at);
    const [size, packed, headerAt] = wide;
    if (headerAt + LocalHeader.size + packed > directoryAt || (method === STORED && packed !== size)) {
      throw corrupt(`"${name.slice(0, 100)}" leaves the archive`, file, at);
    }
    if ((entry.flags & 1) !== 0) throw refuse('encrypted archives are not known', file, at);
    yield { name, method, crc: entry.crc32, packed, size, headerAt };
    at += Entry.size + nameLength + extraLength + commentLength;
  }
}

/** Where the content of a member begins. Its own header names it again: one of another name is 'corrupt'. */
export async function contentAt(
  archive: Archive,
  member: Pick<Member, 'name' | 'packed' | 'headerAt'>,
): Promise<Bytes> {
  const { source, directoryAt } = archive;
  const { name, packed, headerAt } = member;
  const named = Buffer.from(name, 'latin1');
  const raw = new Uint8Array(Math.min(LocalHeader.size + named.length, directoryAt - headerAt));
  await source.read(raw, headerAt);
  const { nameLength, extraLength } = LocalHeader.parse(raw, 0, source.name);
  const at = headerAt + LocalHeader.size + nameLength + extraLength;
  if (nameLength !== named.length || Buffer.compare(raw.subarray(LocalHeader.size), named) !== 0) {
    throw corrupt(`the header of "${name.slice(0, 100)}" names another member`, source.name, headerAt);
  }
  if (at + packed > directoryAt) throw corrupt(`"${name.slice(0, 100)}" leaves the archive`, source.name, headerAt);
  return at;
}

/** A whole member, with its checksum looked at; longer ones than `most` are 'unsupported'. */
export async function readMember(archive: Archive, member: Member, most: Bytes): Promise<Uint8Array> {
  const { source } = archive;
  const { name, method, crc, packed, size } = member;
  const where = { file: source.name, at: member.headerAt };
  const shown = name.slice(0, 100);
  if (size > most || packed > most) {
    throw new ImageError('unsupported', `"${shown}" has ${size} bytes, more than ${most}`, where);
  }
  if (method !== STORED && method !== DEFLATED) {
    throw new ImageError('unsupported', `compression ${method} of "${shown}" is not known`, where);
  }
  const raw = new Uint8Array(packed);
  await source.read(raw, await contentAt(archive, member));
  let content: Uint8Array = raw;
  try {
    if (method === DEFLATED) content = inflateRawSync(raw, { maxOutputLength: Math.max(1, size) });
  } catch (cause) {
    throw new ImageError('corrupt', `"${shown}" cannot be unpacked`, where, { cause });
  }
  if (content.length !== size || crc32(content) !== crc) {
    throw new ImageError('corrupt', `the checksum of "${shown}" does not hold`, where);
  }
  return content;
}
