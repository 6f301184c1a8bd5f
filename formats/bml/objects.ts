/** The objects that one commit can reach, wherever in its set they lie. */
import type { KeyObject } from 'node:crypto';
import type { Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { decompressNow } from './codec.ts';
import { associatedData, COUNTER, GCM_TAG, type Place, type SetKeys } from './crypto.ts';
import { lookUp } from './held.ts';
import { ENTRY, type Entry, entryFault, FANOUT, type NodePage, nodeHash, nodePage, TAG } from './node.ts';
import { openers } from './openers.ts';
import type { Opening } from './opening.ts';
import {
  bodyFits,
  codecOf,
  dataFlags,
  hasTag,
  headerFault,
  plainLength,
  recordLength,
  storedLength,
  type Wanted,
} from './record.ts';
import type { SetFile } from './shelf.ts';
import { type Cipher, corrupt, PAGE, RECORD_HEADER, sameBytes } from './structs.ts';
import type { Line } from './table.ts';

export interface Node extends NodePage {
  /** Where it was read from: its entries' hints mean this file first. */
  readonly file: SetFile | null;
  /** Line of its own layer: its entries refer to no newer one. */
  readonly line: number;
}

/** What a commit's trees are read with. */
export interface Objects {
  readonly setId: Uint8Array;
  readonly cipher: Cipher;
  /** null: not encrypted, or locked; nodes can be read without. */
  readonly keys: SetKeys | null;
  readonly lines: readonly Line[];
  /** Files that hold each line's layer; empty: missing. */
  readonly holders: readonly (readonly SetFile[])[];
  /** Looks again for the files of a line whose record was not found; true: `holders` has others now. */
  relocate?(line: number): Promise<boolean>;
}

/** A node's place in the tree of a disk. */
export interface NodePlace {
  readonly disk: number;
  readonly level: number;
  readonly position: number;
}

const nameOf = (place: Place): string =>
  place.kind === 'node'
    ? `disk ${place.disk}, node ${place.index} of level ${place.level}`
    : `disk ${place.disk}, block ${place.index}`;

export const missing = (line: Line): string => {
  const day = Number.isFinite(line.time) && line.time <= 8.64e15 ? new Date(line.time).toISOString() : 'unknown time';
  return `needs layer ${line.id} of ${day}${line.file === '' ? '' : `, which was in ${line.file}`}, and no file here holds it`;
};

function candidates(objects: Objects, line: number, first: SetFile | null): readonly SetFile[] {
  const all = objects.holders[line] ?? [];
  if (first === null || all.length === 1 || !all.includes(first)) return all;
  return [first, ...all.filter(file => file !== first)];
}

export interface Found {
  readonly file: SetFile;
  readonly at: Bytes;
  /** Header and body, a tag included, without the padding. */
  readonly record: Uint8Array;
}

/** Reads at one place, into `room` when there is one; a string says why what is there is not the wanted record. */
async function readAt(
  file: SetFile,
  at: Bytes,
  wanted: Wanted,
  length: number,
  room?: Uint8Array,
): Promise<Found | string> {
  if (at + length > file.size) return 'there is no record';
  const record = room?.subarray(0, length) ?? new Uint8Array(Buffer.allocUnsafeSlow(length).buffer);
  await file.read(record, at);
  const fault = headerFault(record, wanted);
  if (fault !== null) return fault;
  const real = recordLength(storedLength(record), false);
  if (wanted.kind !== 'node' || real === length) return { file, at, record };
  return real > RECORD_HEADER + PAGE ? 'the node has a wrong length' : readAt(file, at, wanted, real);
}

/**
 * The record of an entry: each file that holds the layer is tried, at the hint and then through its index. `accept` opens
 * what was found; damage in one file is made good by a sound copy in another. `room` is memory for the record, as long as it.
 */
export async function fetchRecord<T>(
  objects: Objects,
  entry: Entry,
  place: Place,
  first: SetFile | null,
  accept: (found: Found) => T | Promise<T>,
  room?: Uint8Array,
): Promise<T> {
  const cipher = place.kind === 'data' ? objects.cipher : 'none';
  const flags = dataFlags(cipher, entry.short);
  const wanted: Wanted = { ...place, codec: entry.codec, session: entry.session, stored: entry.stored, flags };
  const length = recordLength(entry.stored, hasTag(cipher));
  const line = objects.lines[entry.line]!;
  const attempt = async (files: readonly SetFile[]): Promise<{ readonly value: T } | { readonly failure: unknown }> => {
    let failure: unknown = files.length === 0 ? new ImageError('broken-chain', missing(line)) : null;
    for (const file of files) {
      try {
        let found = await readAt(file, entry.hint, wanted, length, room);
        let at: Bytes | null = entry.hint;
        if (typeof found === 'string' && file.index.entries > 0) {
          at = await lookUp(file, place);
          if (at !== null) found = await readAt(file, at, wanted, length, room);
        }
        if (typeof found !== 'string') return { value: await accept(found) };
        throw corrupt(`${nameOf(place)}: ${found}`, file.name, at ?? entry.hint);
      } catch (error) {
        failure ??= error;
      }
    }
    return { failure };
  };
  let tried = await attempt(candidates(objects, entry.line, first));
  if ('failure' in tried && (await objects.relocate?.(entry.line)) === true) {
    tried = await attempt(candidates(objects, entry.line, null));
  }
  if ('value' in tried) return tried.value;
  throw gone(tried.failure, line);
}

/** A file that was there when the image was opened and is no longer. */
const gone = (error: unknown, line: Line): unknown =>
  error instanceof ImageError && error.fault === 'not-found'
    ? new ImageError('broken-chain', missing(line), error.where, { cause: error })
    : error;

/** Reads one node and checks it: record, hash, entries. */
export function fetchNode(objects: Objects, entry: Entry, at: NodePlace, first: SetFile | null, blockSize: number) {
  const line = objects.lines[entry.line]!;
  const place: Place = {
    setId: objects.setId,
    layer: line.layer,
    kind: 'node',
    disk: at.disk,
    index: at.position,
    level: at.level,
  };
  return fetchRecord(objects, entry, place, first, (found): Node => {
    const bad = (why: string, cause?: unknown): never => {
      throw corrupt(`${nameOf(place)}: ${why}`, found.file.name, found.at, cause);
    };
    if (!bodyFits(found.record)) bad('the record fails its checksum');
    if (plainLength(found.record) !== PAGE) bad('the node has a wrong length');
    const body = found.record.subarray(RECORD_HEADER);
    let bytes: Uint8Array = body;
    if (codecOf(found.record) === 1) {
      try {
        bytes = decompressNow(body, PAGE);
      } catch (cause) {
        bad('the node cannot be decompressed', cause);
      }
    }
    if (bytes.length !== PAGE) bad('the node has a wrong length');
    if (!sameBytes(nodeHash(bytes), entry.tag)) bad('the node fails its hash');
    const page = nodePage(bytes);
    for (let slot = 0; slot < FANOUT; slot++) {
      const fault = entryFault(page.view, slot * ENTRY, at.level, { lines: entry.line + 1, blockSize });
      if (fault !== null) bad(`entry ${slot}: ${fault}`);
    }
    return { ...page, file: found.file, line: entry.line };
  });
}

/** Fills `into` (one block) from the record of a data entry; past the record's plain length with zeros. */
export async function fetchBlock(
  objects: Objects,
  entry: Entry,
  at: { readonly disk: number; readonly block: number },
  first: SetFile | null,
  into: Uint8Array,
): Promise<void> {
  const line = objects.lines[entry.line]!;
  const place: Place = {
    setId: objects.setId,
    layer: line.layer,
    kind: 'data',
    disk: at.disk,
    index: at.block,
    level: 0,
  };
  const most = recordLength(into.length + COUNTER, true);
  const room = await openers.room(most + into.length);
  try {
    const record = new Uint8Array(room, 0, recordLength(entry.stored, hasTag(objects.cipher)));
    const spare = new Uint8Array(room, most, into.length);
    const accept = (found: Found): Promise<number> => openBlock(objects, entry, place, found, into, spare);
    into.fill(0, await fetchRecord(objects, entry, place, first, accept, record));
  } finally {
    openers.giveBack(room);
  }
}

const NO_DATA = new Uint8Array(0);

/** Fills the start of `into`; its length there. Tag or digest decide: where it throws, what is in `into` is not to be used. */
async function openBlock(
  objects: Objects,
  entry: Entry,
  place: Place,
  found: Found,
  into: Uint8Array,
  spare: Uint8Array,
): Promise<number> {
  const { record, file, at } = found;
  const { cipher, keys } = objects;
  const bad = (why: string): never => {
    const damage = bodyFits(record) ? why : `${why} (the record fails its checksum: it is damaged)`;
    throw corrupt(`${nameOf(place)}: ${damage}`, file.name, at);
  };
  const length = plainLength(record);
  if (entry.short ? length === 0 || length >= into.length : length !== into.length) bad(`a plain length of ${length}`);
  const body = record.subarray(RECORD_HEADER);
  if (cipher !== 'none' && keys === null) {
    throw new ImageError('locked', 'the block is encrypted', { file: file.name, at });
  }
  let key: KeyObject | null = null;
  let aad = NO_DATA;
  if (keys !== null && cipher === 'aes-256-xts') {
    if (entry.codec !== 0) bad('enciphered sectors are never compressed');
    key = keys.volume();
  } else if (keys !== null && cipher === 'aes-256-gcm') {
    if (entry.stored <= COUNTER) bad('the record is too short');
    const tag = body.subarray(body.length - GCM_TAG);
    if (!sameBytes(tag.subarray(0, TAG), entry.tag)) bad('the record is another version of the block');
    key = keys.session(place.layer, objects.lines[entry.line]!.salt);
    aad = associatedData(place, entry.codec, length, dataFlags(cipher, entry.short));
  }
  const sectors = cipher === 'aes-256-xts' ? { sectorsAt: place.index * into.length } : {};
  const opening: Opening = { key, aad, digest: entry.tag, codec: entry.codec, length, ...sectors };
  const fault = await openers.open(body, opening, into, spare);
  if (fault !== null) bad(fault);
  return length;
}
