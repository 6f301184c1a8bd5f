/** Checks of one snapshot: its files against the manifest, then the chunks of its disks. */
import { createHash } from 'node:crypto';
import type { Bytes, Store, Verified, VerifyRun } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { crcHolds, kindOf, readBlob } from './blob.ts';
import { type ChunkShelf, readChunk } from './chunk.ts';
import { DigestSet } from './digest-set.ts';
import type { SnapshotDisk } from './disks.ts';
import type { ChunkPlace, IndexLayer } from './layer.ts';
import type { Manifest, ManifestFile } from './manifest.ts';
import { chunkFile } from './place.ts';
import { ROOMS } from './rooms.ts';
import { DIGEST, hex, INDEX_HEADER, PlainBlob, SealedBlob } from './structs.ts';

const BLOB_MOST = 128 * 2 ** 20;
const PART = 2 ** 20;
const LANES = 4;

export interface VerifyParts {
  readonly folder: string;
  readonly store: Store;
  readonly root: string;
  readonly manifest: Manifest;
  readonly disks: readonly SnapshotDisk[];
}

interface Walk extends VerifyParts {
  readonly run: VerifyRun;
  readonly met: DigestSet;
  checked: number;
  bytes: Bytes;
  done: Bytes;
  readonly total: Bytes;
}

/** Chunks are shared by snapshots: in one run each is looked at once. The run is known by its signal. */
const metInRun = new WeakMap<AbortSignal, Map<string, DigestSet>>();

function metBy(run: VerifyRun, root: string): DigestSet {
  const sets = metInRun.get(run.signal) ?? new Map<string, DigestSet>();
  metInRun.set(run.signal, sets);
  const name = `${run.level} ${root}`;
  const set = sets.get(name) ?? new DigestSet();
  sets.set(name, set);
  return set;
}

function report(walk: Walk, error: unknown, file: string, where: { disk?: string; block?: number } = {}): void {
  if (!(error instanceof ImageError)) throw error;
  const missing = error.fault === 'not-found';
  walk.run.found({
    fault: missing ? 'corrupt' : error.fault,
    message: missing ? 'the file is missing' : error.message,
    file: error.where.file ?? file,
    offset: error.where.at ?? 0,
    ...where,
  });
}

async function checkBlobFile(walk: Walk, entry: ManifestFile, name: string): Promise<void> {
  const blob = await readBlob(walk.store, name, BLOB_MOST);
  const { raw, length } = blob;
  walk.bytes += length;
  if (kindOf(blob) === null) throw new ImageError('corrupt', 'the file is not a blob', { file: name, at: 0 });
  if (!crcHolds(blob)) {
    throw new ImageError('corrupt', 'the checksum of the blob does not hold', { file: name, at: 8, field: 'crc' });
  }
  const digest = createHash('sha256').update(raw.subarray(0, length)).digest('hex');
  if (digest !== entry.csum || length !== entry.size) {
    throw new ImageError('corrupt', 'the file is not the one that the manifest lists', { file: name, at: 0 });
  }
}

/** The checksum of an index covers its digests; in a dynamic one the ends of the chunks too. */
async function checkIndexFile(walk: Walk, entry: ManifestFile, name: string): Promise<void> {
  await using source = await walk.store.open(name);
  const disk = walk.disks.find(({ file }) => file === entry);
  const isFixed = name.endsWith('.fidx');
  const listed = disk?.index === undefined || disk.index === null ? null : disk.index.chunks * DIGEST;
  const end = isFixed && listed !== null ? INDEX_HEADER + listed : source.size;
  const hash = createHash('sha256');
  const part = new Uint8Array(PART);
  for (let at = INDEX_HEADER; at < end; ) {
    walk.run.signal.throwIfAborted();
    const some = part.subarray(0, Math.min(PART, end - at));
    await source.read(some, at);
    hash.update(some);
    walk.bytes += some.length;
    at += some.length;
  }
  if (hash.digest('hex') !== entry.csum) {
    const message = 'the checksum of the index does not hold: it was changed after the backup';
    throw new ImageError('corrupt', message, { file: name, at: INDEX_HEADER, field: 'digests' });
  }
}

/** The file of the chunk is there, is a blob, and is not longer than its content can make it. */
async function checkPresence(shelf: ChunkShelf, { digest, length }: ChunkPlace): Promise<void> {
  const file = chunkFile(shelf.root, hex(digest));
  try {
    await using source = await shelf.store.open(file);
    if (source.size < PlainBlob.size || source.size > length + SealedBlob.size) {
      throw new ImageError('corrupt', `chunk ${hex(digest)} cannot have ${source.size} bytes`, { file });
    }
  } catch (cause) {
    if (!(cause instanceof ImageError) || cause.fault !== 'not-found') throw cause;
    throw new ImageError('corrupt', `chunk ${hex(digest)} is missing`, { file }, { cause });
  }
}

async function checkChunk(walk: Walk, { name, shelf }: SnapshotDisk, place: ChunkPlace, number: number): Promise<void> {
  try {
    if (walk.run.level < 3) await checkPresence(shelf, place);
    else {
      await ROOMS.lend(place.length, into => readChunk(shelf, place.digest, into, true));
      walk.bytes += place.length;
    }
  } catch (error) {
    report(walk, error, chunkFile(shelf.root, hex(place.digest)), { disk: name, block: number });
  }
  walk.checked++;
}

async function checkChunks(walk: Walk, disk: SnapshotDisk, index: IndexLayer): Promise<void> {
  const underway: Promise<void>[] = [];
  for (let number = 0; number < index.chunks; number++) {
    walk.run.signal.throwIfAborted();
    let place: ChunkPlace;
    try {
      place = await index.chunk(number);
    } catch (error) {
      report(walk, error, `${walk.folder}${disk.file.filename}`, { disk: disk.name });
      break;
    }
    walk.done += place.length;
    walk.run.progress(Math.min(walk.done, walk.total), walk.total);
    // A chunk of zeros is read without its file.
    if (index.layer.locate(place.at, 1)?.kind === 'zero' || !walk.met.add(place.digest)) continue;
    underway.push(checkChunk(walk, disk, place, number));
    if (underway.length >= LANES) await Promise.all(underway.splice(0));
  }
  await Promise.all(underway);
}

/**
 * Level 1: checksums of the files that the manifest lists. Level 2: the chunks of every disk are there; that needs no
 * key. Level 3: every chunk is decrypted, unpacked and compared with its digest.
 */
export async function verifySnapshot(parts: VerifyParts, run: VerifyRun): Promise<Verified> {
  const total = parts.disks.reduce((sum, { size }) => sum + size, 0);
  const walk: Walk = { ...parts, run, met: metBy(run, parts.root), checked: 0, bytes: 0, done: 0, total };
  for (const entry of parts.manifest.files) {
    run.signal.throwIfAborted();
    const name = `${parts.folder}${entry.filename}`;
    try {
      if (entry.filename.endsWith('.blob')) await checkBlobFile(walk, entry, name);
      else await checkIndexFile(walk, entry, name);
      walk.checked++;
    } catch (error) {
      report(walk, error, name);
    }
  }
  for (const disk of parts.disks) {
    if (disk.problem !== null) report(walk, disk.problem, `${parts.folder}${disk.file.filename}`, { disk: disk.name });
    else if (run.level >= 2 && disk.index !== null) await checkChunks(walk, disk, disk.index);
  }
  run.progress(total, total);
  return { checked: walk.checked, bytes: walk.bytes, whole: run.level === 3 };
}
