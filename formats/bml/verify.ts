/** Checking a file by itself (section 13): checksums, then structure, then every block. Finds all faults, not the first. */
import type { Bytes, VerifyRun } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { isZero, roundUp } from '../../src/base/range.ts';
import { hashOf, type PlacedCommit, readCommit } from './commit.ts';
import type { Place } from './crypto.ts';
import { checkDescent } from './descent.ts';
import { INDEX_PER_PAGE } from './held.ts';
import { DATA, ENTRY, type Entry, entryAt, FANOUT, kindAt, NODE, nodePage } from './node.ts';
import { fetchBlock, fetchNode, fetchRecord, type NodePlace, type Objects } from './objects.ts';
import type { Opened } from './read.ts';
import { bodyFits, headerFits, storedHeaderCrc, storedTag, wholeLength } from './record.ts';
import { RecordSum } from './record-sum.ts';
import {
  ALIGN,
  COMPATIBLE,
  corrupt,
  crcFits,
  FIRST_RECORD,
  KEY_AREA_SIZE,
  KEY_AREAS,
  KINDS,
  PAGE,
  RECORD_HEADER,
  SLOTS,
  SUPERBLOCKS,
  sameBytes,
  sessionRecord,
  trailer,
} from './structs.ts';
import type { Line } from './table.ts';
import { checkTable, readTable } from './table-read.ts';

const SUM = trailer.offsetOf('sumLow');

interface Check extends Opened {
  readonly run: VerifyRun;
  checked: number;
  /** Reported so far. */
  problems: number;
  bytes: Bytes;
  done: Bytes;
  readonly total: Bytes;
  /** Of the records that were looked at. */
  readonly sum: RecordSum;
}

function report(check: Check, error: unknown, where: { disk?: string; block?: number } = {}): void {
  if (!(error instanceof ImageError)) throw error;
  const { file = check.file.name, at = 0 } = error.where;
  check.problems++;
  check.run.found({ fault: error.fault, message: error.message, file, offset: at, ...where });
}

function damage(check: Check, message: string, offset: Bytes): void {
  check.problems++;
  check.run.found({ fault: 'corrupt', message, file: check.file.name, offset });
}

function advance(check: Check, by: Bytes): void {
  check.run.signal.throwIfAborted();
  check.done += by;
  check.run.progress(Math.min(check.done, check.total), check.total);
}

/** A page or area that carries its CRC at its end; an unused one is all zero. */
async function checkPage(check: Check, at: Bytes, length: number, name: string, mayBeEmpty: boolean): Promise<void> {
  const page = new Uint8Array(length);
  await check.file.read(page, at);
  check.checked++;
  if (!crcFits(page) && !(mayBeEmpty && isZero(page))) damage(check, `${name} fails its checksum`, at);
}

async function checkFixed(check: Check): Promise<void> {
  const { head, tail, file } = check;
  for (const at of SUPERBLOCKS) await checkPage(check, at, PAGE, 'a superblock', false);
  for (const at of SLOTS) await checkPage(check, at, PAGE, 'a commit slot', true);
  for (const at of KEY_AREAS)
    await checkPage(check, at, KEY_AREA_SIZE, 'a copy of the key slots', head.cipher === 'none');
  // Cut off right behind a commit, a file ends with a page that fits.
  if (tail.warning !== null) damage(check, tail.warning, file.size - PAGE);
  else await checkPage(check, file.size - PAGE, PAGE, 'the trailer', false);
  await checkHeldPadding(check);
  const pages = Math.ceil(tail.indexEntries / INDEX_PER_PAGE);
  for (let i = 0; i < pages; i++) await checkPage(check, tail.indexAt + i * PAGE, PAGE, 'an index page', false);
  advance(check, FIRST_RECORD);
}

/** The list of held layers itself was read when the file was opened. */
async function checkHeldPadding(check: Check): Promise<void> {
  const { heldAt, held } = check.tail;
  if (heldAt === 0) return;
  const at = heldAt + held * 16 + 4;
  const padding = new Uint8Array(roundUp(at, ALIGN) - at);
  await check.file.read(padding, at);
  if (!isZero(padding)) damage(check, 'the padding of the list of held layers is not zero', at);
}

/** Places that are no records, in file order. */
function otherPlaces({ points, tail, file }: Check): { at: Bytes; end: Bytes }[] {
  const places = [...points.values()].map(({ commit }) => ({ at: commit.at, end: commit.at + commit.length }));
  if (tail.heldAt > 0) places.push({ at: tail.heldAt, end: roundUp(tail.heldAt + tail.held * 16 + 4, ALIGN) });
  if (tail.indexEntries > 0) {
    places.push({ at: tail.indexAt, end: tail.indexAt + Math.ceil(tail.indexEntries / INDEX_PER_PAGE) * PAGE });
  }
  places.push({ at: file.size - PAGE, end: file.size });
  return places.sort((a, b) => a.at - b.at);
}

/** The record at `at`; its length with padding, or null when there is none that is sound. */
async function checkRecord(check: Check, at: Bytes, limit: Bytes): Promise<number | null> {
  const header = new Uint8Array(RECORD_HEADER);
  await check.file.read(header, at);
  if (header[0] !== 0x42 || header[1] !== 0x52 || !headerFits(header)) return null;
  check.sum.add(at, storedHeaderCrc(header));
  const length = wholeLength(header);
  const padded = roundUp(length, ALIGN);
  if (at + padded > limit) {
    damage(check, 'a record reaches past its place', at);
    return null;
  }
  const record = new Uint8Array(padded);
  await check.file.read(record, at);
  check.checked++;
  check.bytes += length;
  if (!bodyFits(record.subarray(0, length))) damage(check, 'a record fails its checksum', at);
  if (!isZero(record.subarray(length))) damage(check, 'the padding of a record is not zero', at + length);
  return padded;
}

/** Every record between `from` and `to`. After damage the next sound header is looked for. */
async function checkRecords(check: Check, from: Bytes, to: Bytes): Promise<void> {
  let lost: Bytes | null = null;
  for (let at = from; at < to; ) {
    const padded = at + RECORD_HEADER <= to ? await checkRecord(check, at, to) : null;
    if (padded !== null) {
      lost = null;
      at += padded;
      advance(check, padded);
      continue;
    }
    const gap = new Uint8Array(Math.min(ALIGN, to - at));
    await check.file.read(gap, at);
    // Zeros are the padding before a page; in front of it there are less than a page of them.
    const padding = isZero(gap) && to - at < PAGE;
    if (!padding && lost === null) {
      damage(check, 'a record header is damaged', at);
      lost = at;
    }
    at += gap.length;
    advance(check, gap.length);
  }
}

/** Also records that nothing refers to are where they were written. What is damaged by itself was said already. */
async function checkAllRecords(check: Check): Promise<void> {
  const before = check.problems;
  let from = FIRST_RECORD;
  for (const { at, end } of otherPlaces(check)) {
    await checkRecords(check, from, at);
    from = end;
  }
  const { head, tail, file } = check;
  if ((head.compatible & COMPATIBLE.recordSum) === 0n || tail.sum === null || check.problems > before) return;
  if (check.sum.equals(tail.sum)) return;
  damage(check, 'the records are not those, or not in the places, that were written', file.size - PAGE + SUM);
}

interface Walk {
  readonly check: Check;
  readonly objects: Objects;
  readonly blockSize: Bytes;
  readonly disk: number;
  readonly diskName: string;
  readonly live: number[];
  readonly blocks: boolean;
}

/** What can be said of a block without opening it: that its record is the one that the entry means, by header and tag. */
async function checkPlaced({ check, objects, disk }: Walk, entry: Entry, block: number): Promise<void> {
  const { layer } = objects.lines[entry.line]!;
  const place: Place = { setId: objects.setId, layer, kind: 'data', disk, index: block, level: 0 };
  await fetchRecord(objects, entry, place, check.file, ({ record, file, at }) => {
    const tag = storedTag(record, objects.cipher);
    if (tag === null || sameBytes(tag, entry.tag)) return;
    throw corrupt(`disk ${disk}, block ${block}: the record is another version of the block`, file.name, at);
  });
}

/** The layer's own records begin with that of the first run of its writer. Consolidation leaves it out. */
async function checkSession(check: Check, commit: PlacedCommit, own: Line): Promise<void> {
  if (check.tail.held > 0) return;
  const record = new Uint8Array(RECORD_HEADER + sessionRecord.size);
  await check.file.read(record, commit.firstAt);
  check.checked++;
  const fits = record[4] === KINDS.session && headerFits(record) && bodyFits(record);
  const session = sessionRecord.parse(record, RECORD_HEADER, check.file.name);
  if (fits && sameBytes(session.layer, own.layer) && sameBytes(session.salt, own.salt)) return;
  damage(check, 'the record of the writer is another one, or damaged', commit.firstAt);
}

/** Follows an entry of a node at `level` as far as this file goes. */
async function walk(on: Walk, entry: Entry, level: number, place: NodePlace): Promise<void> {
  on.live[entry.line] = (on.live[entry.line] ?? 0) + 1;
  if (on.objects.holders[entry.line]?.length === 0) return;
  const { check, objects, blockSize } = on;
  try {
    check.run.signal.throwIfAborted();
    if (entry.kind === DATA) {
      check.checked++;
      if (!on.blocks) return await checkPlaced(on, entry, place.position);
      const block = { disk: on.disk, block: place.position };
      await fetchBlock(objects, entry, block, check.file, new Uint8Array(blockSize));
      check.bytes += entry.stored;
      advance(check, entry.stored);
      return;
    }
    const node = await fetchNode(objects, entry, place, check.file, blockSize);
    check.checked++;
    for (let slot = 0; slot < FANOUT; slot++) {
      const kind = kindAt(node.view, slot * ENTRY);
      if (kind !== DATA && kind !== NODE) continue;
      const below = { disk: on.disk, level: level - 2, position: place.position * FANOUT + slot };
      await walk(on, entryAt(node.view, slot * ENTRY), level - 1, below);
    }
  } catch (error) {
    report(check, error, { disk: on.diskName, ...(entry.kind === DATA ? { block: place.position } : {}) });
  }
}

async function checkTrees(check: Check, commit: PlacedCommit, objects: Objects, blocks: boolean): Promise<void> {
  const live: number[] = [];
  for (const disk of commit.disks) {
    const { number, blockSize, height, name } = disk;
    const root = nodePage(disk.root).view;
    const kind = kindAt(root, 0);
    if (kind !== DATA && kind !== NODE) continue;
    const on: Walk = { check, objects, blockSize, disk: number, diskName: name, live, blocks };
    await walk(on, entryAt(root, 0), height + 1, { disk: number, level: height, position: 0 });
  }
  // Older layers are reached through nodes that may lie elsewhere; the layer's own objects are all counted.
  for (const [i, line] of objects.lines.entries()) {
    if (i < commit.ownLine || (live[i] ?? 0) === line.live) continue;
    damage(
      check,
      `layer table: line ${i} counts ${line.live} objects, the trees refer to ${live[i] ?? 0}`,
      commit.tableAt,
    );
  }
}

async function checkPoint(check: Check, commit: PlacedCommit): Promise<void> {
  const { head, file, keys, run } = check;
  const locked = head.cipher !== 'none' && keys === null;
  if (!locked && !sameBytes(hashOf(commit.content(), keys), commit.hash)) {
    damage(check, 'commit: fails its authentication', commit.at);
  }
  if (locked && run.level === 3) {
    const message = 'blocks cannot be checked without the key';
    run.found({ fault: 'locked', message, file: file.name, offset: commit.at });
  }
  await checkDescent(check, commit);
  const lines = await readTable(file, commit);
  await checkTable(check.shelf, file, commit).catch((error: unknown) => report(check, error));
  await checkSession(check, commit, lines[commit.ownLine]!);
  const holders = lines.map(line => (file.layers.has(line.id) ? [file] : []));
  await checkTrees(
    check,
    commit,
    { setId: head.setId, cipher: head.cipher, keys, lines, holders },
    run.level === 3 && !locked,
  );
}

export async function verifyFile(inside: Opened, run: VerifyRun): Promise<{ checked: number; bytes: Bytes }> {
  const commits = [...inside.points.values()].map(point => point.commit);
  const stored = commits.flatMap(commit => commit.disks).reduce((sum, disk) => sum + disk.stored, 0);
  const total = inside.file.size + (run.level === 3 ? stored : 0);
  const check: Check = { ...inside, run, checked: 0, problems: 0, bytes: 0, done: 0, total, sum: new RecordSum() };
  await checkFixed(check);
  await checkAllRecords(check);
  for (const commit of commits) {
    try {
      await inside.shelf.use(inside.file.name, source => readCommit(source, commit));
      check.checked++;
      if (run.level >= 2) await checkPoint(check, commit);
    } catch (error) {
      report(check, error);
    }
  }
  return { checked: check.checked, bytes: check.bytes };
}
