/** The log of a file that was not closed: [MS-VHDX] section 2.3. It is read here, never applied to the file. */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { bits64le, magic, struct, u32le, viewOf } from '../../src/base/struct.ts';
import type { FoundHeader } from './header.ts';
import { guid, Header, hasText, MIB, NULL_GUID, PAGE, sumHolds } from './structs.ts';

/** Section 2.3.1.1. */
export const LogEntry = struct('VHDX log entry', 64, {
  signature: [0, magic('loge')],
  checksum: [4, u32le],
  entryLength: [8, u32le],
  tail: [12, u32le],
  sequenceNumber: [16, bits64le],
  descriptorCount: [24, u32le],
  logGuid: [32, guid],
  flushedFileOffset: [48, bits64le],
  lastFileOffset: [56, bits64le],
});

/**
 * Sections 2.3.1.2 and 2.3.1.3, offsets in a descriptor of 32 bytes. "zero": `length` bytes of zeros. "desc": a page whose
 * first 8 and last 4 bytes are `leading` and `trailing`, and the rest is in a data sector.
 */
export const DESCRIPTOR = { size: 32, trailing: 4, length: 8, leading: 8, fileOffset: 16, sequence: 24 } as const;

/** Section 2.3.1.4; 4084 bytes of content lie between. */
export const DATA_SECTOR = { sequenceHigh: 4, content: 8, sequenceLow: 4092 } as const;

/** A larger log that has to be replayed is refused: Windows and QEMU write 1 MiB, and all of it is looked at at once. */
const LARGEST_LOG = 32 * MIB;
/** No offset lies beyond it. */
const FARTHEST = BigInt(Number.MAX_SAFE_INTEGER);
/** Entries of a sound log lie apart from each other, so that their checksums cover it once, or twice after a wrap. */
const MOST_CHECKED = 8;

/** One change: `length` bytes at `at` of the file become `page`, or zeros. */
export interface Change {
  readonly at: Bytes;
  readonly length: Bytes;
  readonly page: Uint8Array | null;
}

export interface Entry {
  readonly sequence: bigint;
  /** Position in the log, its length, and where the sequence that it ends began. */
  readonly at: number;
  readonly length: number;
  readonly tail: number;
  readonly flushed: Bytes;
  readonly last: Bytes;
  readonly changes: readonly Change[];
}

interface Ring {
  readonly raw: Uint8Array;
  readonly logGuid: string;
  /** Bytes that checksums may still be computed over. */
  budget: number;
  readonly overlap: () => ImageError;
}

/** `length` bytes from `at` on; what leaves the end goes on at the start. */
function unwrapped(raw: Uint8Array, at: number, length: number): Uint8Array {
  if (at + length <= raw.length) return raw.subarray(at, at + length);
  const whole = new Uint8Array(length);
  whole.set(raw.subarray(at));
  whole.set(raw.subarray(0, at + length - raw.length), raw.length - at);
  return whole;
}

/** Bytes before the data sectors: the head and its descriptors, padded. */
const descriptorArea = (count: number): number => Math.ceil((LogEntry.size + count * DESCRIPTOR.size) / PAGE) * PAGE;

/** The page that a data descriptor at `at` and its data sector make together. */
function pageOf(raw: Uint8Array, at: number, sector: number): Uint8Array {
  const page = raw.slice(sector, sector + PAGE);
  page.set(raw.subarray(at + DESCRIPTOR.leading, at + DESCRIPTOR.leading + DATA_SECTOR.content), 0);
  page.set(raw.subarray(at + DESCRIPTOR.trailing, at + DESCRIPTOR.leading), DATA_SECTOR.sequenceLow);
  return page;
}

function isDataSector(raw: Uint8Array, sector: number, sequence: bigint): boolean {
  if (sector + PAGE > raw.length || !hasText(raw, 'data', sector)) return false;
  const view = viewOf(raw);
  const high = view.getUint32(sector + DATA_SECTOR.sequenceHigh, true);
  return (BigInt(high) << 32n) + BigInt(view.getUint32(sector + DATA_SECTOR.sequenceLow, true)) === sequence;
}

/** The changes that an entry makes, in order; null when one of them makes no sense. */
function changesOf(raw: Uint8Array): readonly Change[] | null {
  const view = viewOf(raw);
  const sequence = view.getBigUint64(LogEntry.offsetOf('sequenceNumber'), true);
  const count = view.getUint32(LogEntry.offsetOf('descriptorCount'), true);
  const changes: Change[] = [];
  let sector = descriptorArea(count);
  for (let i = 0; i < count; i++) {
    const at = LogEntry.size + i * DESCRIPTOR.size;
    const zero = hasText(raw, 'zero', at);
    const fileAt = view.getBigUint64(at + DESCRIPTOR.fileOffset, true);
    const length = zero ? view.getBigUint64(at + DESCRIPTOR.length, true) : BigInt(PAGE);
    if (view.getBigUint64(at + DESCRIPTOR.sequence, true) !== sequence) return null;
    if (fileAt % BigInt(PAGE) !== 0n || length % BigInt(PAGE) !== 0n || fileAt + length > FARTHEST) return null;
    if (zero) changes.push({ at: Number(fileAt), length: Number(length), page: null });
    else {
      if (!hasText(raw, 'desc', at) || !isDataSector(raw, sector, sequence)) return null;
      changes.push({ at: Number(fileAt), length: PAGE, page: pageOf(raw, at, sector) });
      sector += PAGE;
    }
  }
  return changes;
}

/** The entry at a position of the log when it belongs to the log of this header and all of it is in order, else null. */
function entryAt(ring: Ring, at: number): Entry | null {
  const { raw: log } = ring;
  if (!hasText(log, 'loge', at) || guid.read(viewOf(log), at + LogEntry.offsetOf('logGuid')) !== ring.logGuid)
    return null;
  const { entryLength: length, tail, sequenceNumber, descriptorCount, ...file } = LogEntry.parse(log, at);
  if (length === 0 || length % PAGE !== 0 || length > log.length || descriptorArea(descriptorCount) > length)
    return null;
  if (tail % PAGE !== 0 || tail >= log.length || sequenceNumber === 0n) return null;
  if (file.flushedFileOffset > FARTHEST || file.lastFileOffset > FARTHEST) return null;
  const raw = unwrapped(log, at, length);
  ring.budget -= length;
  if (ring.budget < 0) throw ring.overlap();
  const changes = sumHolds(raw) ? changesOf(raw) : null;
  if (changes === null) return null;
  const [flushed, last] = [Number(file.flushedFileOffset), Number(file.lastFileOffset)];
  return { sequence: sequenceNumber, at, length, tail, flushed, last, changes };
}

/** Section 2.3.3: the entries of the sequence that ends highest, oldest first; empty when there is none. */
function activeSequence(ring: Ring): readonly Entry[] {
  const entries = new Map<number, Entry>();
  for (let at = 0; at < ring.raw.length; at += PAGE) {
    const entry = entryAt(ring, at);
    if (entry !== null) entries.set(at, entry);
  }
  const after = (entry: Entry): Entry | undefined => {
    const next = entries.get((entry.at + entry.length) % ring.raw.length);
    return next?.sequence === entry.sequence + 1n ? next : undefined;
  };
  const newestFirst = [...entries.values()].sort(
    (a, b) => Number(b.sequence > a.sequence) - Number(a.sequence > b.sequence),
  );
  const endOf = new Map<Entry, Entry>();
  for (const entry of newestFirst) endOf.set(entry, endOf.get(after(entry) ?? entry) ?? entry);
  for (const end of newestFirst) {
    const first = entries.get(end.tail);
    if (first === undefined || endOf.get(end) !== end || endOf.get(first) !== end) continue;
    const sequence = [first];
    for (let next = after(first); next !== undefined; next = after(next)) sequence.push(next);
    return sequence;
  }
  return [];
}

/**
 * The entries that have to be replayed, oldest first. Empty for a file that was closed, and, with a warning, for one
 * whose log has no complete sequence.
 */
export async function pendingEntries(
  source: ByteSource,
  header: FoundHeader,
  warnings: string[],
): Promise<readonly Entry[]> {
  const { logGuid, logOffset, logLength } = header.fields;
  if (logGuid === NULL_GUID) return [];
  const where = { file: source.name, at: header.at + Header.offsetOf('logLength'), field: 'logLength' };
  if (logOffset + logLength > source.size) {
    throw new ImageError('corrupt', `the log (${logLength} bytes at ${logOffset}) leaves the file`, where);
  }
  if (logLength > LARGEST_LOG) {
    throw new ImageError('unsupported', `a log of ${logLength} bytes is too large to be replayed here`, where);
  }
  const raw = new Uint8Array(logLength);
  await source.read(raw, logOffset);
  const overlap = (): ImageError =>
    new ImageError('corrupt', 'the entries of the log overlap', { file: source.name, at: logOffset });
  const active = activeSequence({ raw, logGuid, budget: MOST_CHECKED * logLength, overlap });
  if (active.length === 0) {
    warnings.push('the file was not closed, and its log holds no complete entry: its last changes may be missing');
    return [];
  }
  const { flushed, at } = active.at(-1)!;
  if (flushed > source.size) {
    const message = `the file was cut off: it had ${flushed} bytes when its log was written, and has ${source.size}`;
    throw new ImageError('corrupt', message, {
      file: source.name,
      at: logOffset + at + LogEntry.offsetOf('flushedFileOffset'),
      field: 'flushedFileOffset',
    });
  }
  return active;
}
