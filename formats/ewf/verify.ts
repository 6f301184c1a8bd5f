/** Every checksum of an image, and the digests of the whole disk that its writer stored. */
import { createHash } from 'node:crypto';
import { adler32 } from '../../src/base/checksum.ts';
import type { Bytes, Problem, Verified, VerifyRun } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { viewOf } from '../../src/base/struct.ts';
import type { Directory, Table } from './directory.ts';
import type { ChunkLayer } from './layer.ts';
import { bodyOf, type Section, sumAt } from './sections.ts';
import type { Segments } from './segments.ts';
import { Digest, ErrorHeader, Hash } from './structs.ts';
import type { Geometry } from './volume.ts';

/** Bytes that are unpacked at the same time. */
const WINDOW: Bytes = 2 ** 20;
const PART: Bytes = 2 ** 20;
const ERROR_ENTRY = 8;
const MOST_ERRORS = 1000;

interface Walk {
  readonly segments: Segments;
  readonly geometry: Geometry;
  readonly run: VerifyRun;
  checked: number;
  bytes: Bytes;
}

function report(walk: Walk, message: string, section: Section, at: Bytes, fault = 'corrupt'): void {
  walk.run.found({ fault, message, file: walk.segments.name(section.segment), offset: at });
}

function reportError(walk: Walk, error: unknown, more: Partial<Problem> = {}): void {
  if (!(error instanceof ImageError)) throw error;
  const { file, at } = error.where;
  const where = { file: file ?? walk.segments.name(0), offset: at ?? 0 };
  walk.run.found({ fault: error.fault, message: error.message, ...where, ...more });
}

/** The checksum behind the entries; the layouts with data there have none. */
async function checkEntries(walk: Walk, table: Table, entriesAt: Bytes, what: string): Promise<Uint8Array | null> {
  const { section, count } = table;
  const length = count * 4;
  let sum = 1;
  let first: Uint8Array | null = null;
  for (let done = 0; done < length; done += PART) {
    walk.run.signal.throwIfAborted();
    const part = new Uint8Array(Math.min(PART, length - done));
    await walk.segments.read(section.segment, part, entriesAt + done);
    sum = adler32(part, sum);
    first ??= part;
  }
  walk.bytes += length;
  if (table.dataAt === table.entriesAt + length) return first;
  const stored = new Uint8Array(4);
  await walk.segments.read(section.segment, stored, entriesAt + length);
  walk.checked++;
  if (viewOf(stored).getUint32(0, true) !== sum) {
    report(walk, `the checksum of the ${what} for chunks from ${table.first} on does not hold`, section, entriesAt);
  }
  return first;
}

async function checkTables(walk: Walk, { tables }: Directory): Promise<void> {
  for (const table of tables) {
    await checkEntries(walk, table, table.entriesAt, 'table');
    if (table.copyAt !== null) await checkEntries(walk, table, table.copyAt, 'copy of the table');
    if (table.section.type === 'table2') {
      report(walk, 'a table is damaged; its copy is used', table.section, table.section.at);
    }
  }
}

/** Sectors that could not be read when the image was made hold zeros that the disk may not have had. */
async function checkErrors(walk: Walk, section: Section): Promise<void> {
  const raw = await bodyOf(walk.segments, section, ErrorHeader.size + MOST_ERRORS * ERROR_ENTRY);
  const file = walk.segments.name(section.segment);
  const { entries } = ErrorHeader.parse(raw, 0, file);
  if (sumAt(raw, ErrorHeader.size - 4) === 'wrong') {
    return report(walk, 'the checksum of the list of unreadable sectors does not hold', section, section.bodyAt);
  }
  const view = viewOf(raw);
  for (let at = ErrorHeader.size, i = 0; i < entries && at + ERROR_ENTRY <= raw.length; i++, at += ERROR_ENTRY) {
    const first = view.getUint32(at, true);
    const count = view.getUint32(at + 4, true);
    const message = `${count} sectors from ${first} on could not be read when the image was made: they hold zeros`;
    report(walk, message, section, section.bodyAt + at, 'io');
  }
}

interface Stored {
  readonly algorithm: 'md5' | 'sha1';
  readonly hex: string;
  readonly section: Section;
}

const isSet = (digest: Uint8Array): boolean => digest.some(byte => byte !== 0);

/** What a `hash` or `digest` section stores, when its own checksum holds. */
async function storedDigests(walk: Walk, section: Section): Promise<readonly Stored[]> {
  const form = section.type === 'hash' ? Hash : Digest;
  const raw = await bodyOf(walk.segments, section, form.size);
  const file = walk.segments.name(section.segment);
  const { md5 } = form.parse(raw, 0, file);
  walk.checked++;
  if (sumAt(raw, form.size - 4) === 'wrong') {
    report(walk, `the checksum of section "${section.type}" does not hold`, section, section.bodyAt);
    return [];
  }
  const found: Stored[] = [];
  const add = (algorithm: Stored['algorithm'], digest: Uint8Array): void => {
    if (isSet(digest)) found.push({ algorithm, hex: Buffer.from(digest).toString('hex'), section });
  };
  add('md5', md5);
  if (section.type === 'digest') add('sha1', Digest.parse(raw, 0, file).sha1);
  return found;
}

/** Sections that are neither tables nor data; what they store about the whole disk. */
async function checkOthers(walk: Walk, { others }: Directory): Promise<readonly Stored[]> {
  const stored: Stored[] = [];
  for (const section of others) {
    try {
      if (section.type === 'error2') await checkErrors(walk, section);
      if (section.type === 'hash' || section.type === 'digest') stored.push(...(await storedDigests(walk, section)));
    } catch (error) {
      reportError(walk, error);
    }
    walk.checked++;
  }
  return stored;
}

/** Where every chunk should lie, without looking at it. */
async function checkPlaces(walk: Walk, directory: Directory): Promise<void> {
  const { size, chunkSize } = walk.geometry;
  const chunks = Math.ceil(size / chunkSize);
  for (let chunk = 0; chunk < chunks; chunk++) {
    walk.run.signal.throwIfAborted();
    try {
      await directory.place(chunk, 'table');
      walk.checked++;
    } catch (error) {
      reportError(walk, error, { disk: 'disk0', block: chunk });
      // The rest is missing as well, and says nothing new.
      if (chunk >= directory.chunks) return;
    }
  }
}

/** Unpacks every chunk and compares the disk with the stored digests. */
async function checkChunks(walk: Walk, { layer }: ChunkLayer, stored: readonly Stored[]): Promise<void> {
  const { size, chunkSize } = walk.geometry;
  const chunks = Math.ceil(size / chunkSize);
  const lanes = Math.max(1, Math.floor(WINDOW / chunkSize));
  const buffers = Array.from({ length: Math.min(lanes, chunks) }, () => new Uint8Array(chunkSize));
  const algorithms = [...new Set(stored.map(({ algorithm }) => algorithm))];
  const hashes = algorithms.map(algorithm => ({ algorithm, hash: createHash(algorithm) }));
  let whole = true;
  for (let first = 0; first < chunks; first += lanes) {
    walk.run.signal.throwIfAborted();
    const window = buffers.slice(0, chunks - first);
    const ends = await Promise.allSettled(window.map((buffer, i) => layer.unpack(first + i, buffer)));
    for (const [i, end] of ends.entries()) {
      const length = Math.min(chunkSize, size - (first + i) * chunkSize);
      if (end.status === 'rejected') {
        whole = false;
        reportError(walk, end.reason, { disk: 'disk0', block: first + i });
        continue;
      }
      for (const { hash } of hashes) hash.update(window[i]!.subarray(0, length));
      walk.checked++;
      walk.bytes += length;
    }
    walk.run.progress(Math.min(size, (first + lanes) * chunkSize), size);
  }
  // With a chunk missing there is nothing to compare.
  const digests = whole ? hashes.map(({ algorithm, hash }) => ({ algorithm, hex: hash.digest('hex') })) : [];
  for (const { algorithm, hex } of digests) {
    for (const each of stored) {
      walk.checked++;
      if (each.algorithm !== algorithm || each.hex === hex) continue;
      const message = `the ${algorithm === 'md5' ? 'MD5' : 'SHA-1'} of the disk is ${hex}, the image says ${each.hex}`;
      report(walk, message, each.section, each.section.bodyAt);
    }
  }
}

/**
 * Level 1: checksums of sections, tables and their copies. Level 2: every chunk lies where one can lie. Level 3: every
 * chunk's own checksum, and the MD5 and SHA-1 of the disk.
 */
export async function verifyImage(
  segments: Segments,
  geometry: Geometry,
  chunks: ChunkLayer,
  problem: ImageError | null,
  run: VerifyRun,
): Promise<Verified> {
  const walk: Walk = { segments, geometry, run, checked: 0, bytes: 0 };
  let directory: Directory;
  try {
    if (problem !== null) throw problem;
    directory = await chunks.directory();
  } catch (error) {
    reportError(walk, error);
    return { checked: 0, bytes: 0 };
  }
  const stored = await checkOthers(walk, directory);
  await checkTables(walk, directory);
  if (run.level === 2) await checkPlaces(walk, directory);
  if (run.level === 3) await checkChunks(walk, chunks, stored);
  run.progress(geometry.size, geometry.size);
  return { checked: walk.checked, bytes: walk.bytes, whole: run.level === 3 };
}
