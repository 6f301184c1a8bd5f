/**
 * What a killed run left of a layer: records that say themselves what they are. The next run goes on in the same file, with
 * a session of its own, and stores nothing again that is there and still the same (section 12).
 */
import { hash } from 'node:crypto';
import type { ByteFile, ByteSource, Bytes, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { roundUp } from '../../src/base/range.ts';
import { associatedData, type Place, type SetKeys } from './crypto.ts';
import { DATA, type Entry, TAG } from './node.ts';
import { openers } from './openers.ts';
import { bodyFits, dataFlags, headerFits, storedTag, wholeLength } from './record.ts';
import { RecordSum } from './record-sum.ts';
import {
  ALIGN,
  FIRST_RECORD,
  KEY_AREA_SIZE,
  KEY_AREAS,
  RECORD_HEADER,
  recordHeader,
  SHORT,
  sameBytes,
  sessionRecord,
} from './structs.ts';
import { type Head, readHead } from './superblock.ts';

/** A session number has 16 bits. */
const MOST_SESSIONS = 65_535;
const PER_PAGE = 1024;

/** Offsets by block: pages of numbers, made where there are any. */
class Offsets {
  readonly #pages = new Map<number, Float64Array>();

  put(disk: number, block: number, at: Bytes): void {
    const key = disk * 2 ** 43 + Math.floor(block / PER_PAGE);
    let page = this.#pages.get(key);
    if (page === undefined) {
      page = new Float64Array(PER_PAGE);
      this.#pages.set(key, page);
    }
    page[block % PER_PAGE] = at;
  }

  /** null: none, or it was taken before. */
  take(disk: number, block: number): Bytes | null {
    const page = this.#pages.get(disk * 2 ** 43 + Math.floor(block / PER_PAGE));
    const at = page?.[block % PER_PAGE] ?? 0;
    if (at === 0) return null;
    page![block % PER_PAGE] = 0;
    return at;
  }
}

export interface Unfinished {
  readonly head: Head;
  /** The copies of the key slots as they are. */
  readonly keyAreas: readonly Uint8Array[];
  readonly layer: Uint8Array;
  /** Salts of the sessions so far, by number. */
  readonly salts: readonly Uint8Array[];
  /** Newest record of each block. */
  readonly blocks: Offsets;
  readonly records: number;
  readonly sum: RecordSum;
  /** Where the sound records end. */
  readonly end: Bytes;
}

type Header = ReturnType<typeof recordHeader.parse>;

const indexOf = (header: Header): number => header.indexHigh * 0x1_0000_0000 + header.indexLow;

/** The record at `at`, header and body; null where none is whole and sound. */
async function recordAt(source: ByteSource, at: Bytes): Promise<{ header: Header; record: Uint8Array } | null> {
  if (at + RECORD_HEADER > source.size) return null;
  const start = new Uint8Array(RECORD_HEADER);
  await source.read(start, at);
  if (start[0] !== 0x42 || start[1] !== 0x52 || !headerFits(start)) return null;
  const header = recordHeader.parse(start, 0, source.name);
  const length = wholeLength(start);
  if (at + length > source.size) return null;
  const record = new Uint8Array(length);
  await source.read(record, at);
  return bodyFits(record) ? { header, record } : null;
}

/** null: nothing in it is of use. Faults: those of its superblock. */
export async function readUnfinished(store: Store, name: string): Promise<Unfinished | null> {
  await using source = await store.open(name);
  const head = await readHead(source);
  const keyAreas: Uint8Array[] = [];
  for (const at of KEY_AREAS) {
    const area = new Uint8Array(KEY_AREA_SIZE);
    await source.read(area, at);
    keyAreas.push(area);
  }
  for (let limit = source.size; ; ) {
    const scanned = await scan(source, head, limit);
    if (typeof scanned !== 'number') return scanned === null ? null : { head, keyAreas, ...scanned };
    limit = scanned;
  }
}

/**
 * The records before `limit`; null: none of use. A number: from there on they are of a session that is not known. (Places of
 * replaced records are used again, so a record may lie in front of that of its session.)
 */
async function scan(source: ByteSource, head: Head, limit: Bytes) {
  const blocks = new Offsets();
  const salts: Uint8Array[] = [];
  const firstOf: Bytes[] = [];
  let layer: Uint8Array | null = null;
  const sum = new RecordSum();
  let records = 0;
  let at = FIRST_RECORD;
  while (at < limit) {
    const found = await recordAt(source, at);
    if (found === null) break;
    const { header, record } = found;
    if (header.kind === 'session') {
      const session = sessionRecord.parse(record.subarray(RECORD_HEADER), 0, source.name);
      layer ??= session.layer;
      // A number twice, or one left out, is not ours: what is behind it is left alone.
      if (!sameBytes(session.layer, layer) || !sameBytes(session.setId, head.setId)) break;
      if (session.session !== salts.length) break;
      salts.push(session.salt);
    }
    if (layer === null || !sameBytes(header.layer, layer.subarray(0, 8))) break;
    firstOf[header.session] ??= at;
    if (header.kind === 'data') blocks.put(header.disk, indexOf(header), at);
    records++;
    sum.add(at, header.headerCrc);
    at += roundUp(record.length, ALIGN);
  }
  const unknown = firstOf.slice(salts.length).filter(first => first !== undefined);
  if (unknown.length > 0) return Math.min(...unknown);
  return layer === null || salts.length > MOST_SESSIONS ? null : { layer, salts, blocks, records, sum, end: at };
}

export interface Kept {
  readonly unfinished: Unfinished;
  readonly file: ByteFile;
  readonly blockSize: Bytes;
  readonly keys: SetKeys | null;
  /** Line of the first session. */
  readonly line: number;
}

/** What an earlier run stored of a block; it is asked once for each. `same`: it opens to `data`, so that its entry serves. */
export async function takeKept(
  kept: Kept,
  disk: number,
  block: number,
  data: Uint8Array,
): Promise<{ readonly entry: Entry; readonly same: boolean } | null> {
  const { unfinished, file, keys, blockSize } = kept;
  const at = unfinished.blocks.take(disk, block);
  const found = at === null ? null : await recordAt(file, at);
  if (at === null || found === null) return null;
  const { header, record } = found;
  const { session, codec, flags, stored, plain: length } = header;
  const short = (flags & SHORT) !== 0;
  const body = record.subarray(RECORD_HEADER);
  const { cipher } = unfinished.head;
  const tag = storedTag(record, cipher)?.slice() ?? hash('sha256', data, 'buffer').subarray(0, TAG);
  const number = codec === 'zstd' ? 1 : 0;
  const entry: Entry = { kind: DATA, codec: number, short, session, line: kept.line + session, stored, hint: at, tag };
  const fits = length === data.length && flags === dataFlags(cipher, length < blockSize);
  if (!fits) return { entry, same: false };
  const { layer, head, salts } = unfinished;
  const place: Place = { setId: head.setId, layer, kind: 'data', disk, index: block, level: 0 };
  const isXts = cipher === 'aes-256-xts';
  const key = (isXts ? keys?.volume() : keys?.session(layer, salts[session]!)) ?? null;
  const sectors = isXts ? { sectorsAt: block * blockSize } : {};
  const aad = associatedData(place, number, length, flags);
  const its = new Uint8Array(length);
  const fault = await openers.open(body, { key, aad, digest: tag, codec: number, length, ...sectors }, its);
  return { entry, same: fault === null && sameBytes(its, data) };
}

/** Whether a file of the folder is of that set: then the records of a full that was never finished are none of it. */
export async function setIsKnown(store: Store, folder: string, setId: Uint8Array): Promise<boolean> {
  for await (const { name } of store.list(folder.slice(0, -1))) {
    if (!name.endsWith('.bml') || name.slice(0, name.lastIndexOf('/') + 1) !== folder) continue;
    try {
      await using source = await store.open(name);
      if (sameBytes((await readHead(source)).setId, setId)) return true;
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
    }
  }
  return false;
}
