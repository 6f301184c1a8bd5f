/** Checks of one image by itself: its tables (levels 1 and 2), and every grain (level 3). */
import { ABSENT, BAD } from '../../src/base/block-layer.ts';
import type { Bytes, Done, Layer, Problem, VerifyRun } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { viewOf } from '../../src/base/struct.ts';
import type { OpenedDisk } from './disk.ts';
import type { HostedExtent } from './hosted.ts';
import { FLAG, GrainMarker, SECTOR } from './structs.ts';
import type { GrainTables } from './tables.ts';

const CHUNK: Bytes = 1_048_576;

type Report = (fault: string, message: string, file: string, offset: Bytes, block?: number) => void;

interface Walk {
  readonly run: VerifyRun;
  readonly report: Report;
  readonly count: { checked: number; bytes: Bytes };
}

/** Which places of the file hold a grain already: one bit per length of a grain, in which only one can start. */
function taken(tables: GrainTables) {
  const bits = new Uint8Array(Math.ceil(tables.source.size / tables.grain / 8) + 1);
  return (place: Bytes): boolean => {
    const unit = Math.floor(place / tables.grain);
    const byte = Math.floor(unit / 8);
    const bit = 1 << (unit % 8);
    const before = (bits[byte]! & bit) !== 0;
    bits[byte]! |= bit;
    return before;
  };
}

/** Entries of one grain table. */
function checkTable(
  walk: Walk,
  tables: GrainTables,
  first: number,
  at: Bytes,
  table: Uint8Array,
  isTaken: (place: Bytes) => boolean,
): void {
  const { source, size, grain, entrySize, perTable, packed, directoryAt } = tables;
  const view = viewOf(table);
  const directoryEnd = directoryAt + Math.ceil(size / (grain * perTable)) * entrySize;
  for (let i = 0; i < perTable && (first + i) * grain < size; i++) {
    const entryAt = at + i * entrySize;
    const place = tables.place(view, i * entrySize);
    const bad = (message: string): void => walk.report('corrupt', message, source.name, entryAt, first + i);
    walk.count.checked++;
    if (place === BAD) bad('the entry makes no sense');
    if (place < 0) continue;
    const used = packed ? GrainMarker.size : Math.min(grain, size - (first + i) * grain);
    if (place + used > source.size) bad(`the grain at ${place} leaves the file`);
    else if (place < SECTOR || (place < directoryEnd && place + used > directoryAt))
      bad(`the grain at ${place} lies in metadata`);
    else if (!packed && isTaken(place)) bad(`the grain at ${place} holds another one too`);
  }
}

/** Place of the redundant table, which has to say the same; null where there is none. */
async function redundantTable(tables: GrainTables, hosted: HostedExtent | null, number: number): Promise<Bytes | null> {
  if (hosted === null || Math.floor(hosted.fields.flags / FLAG.redundantTable) % 2 === 0) return null;
  const at = Number(hosted.fields.rgdOffset) * SECTOR + number * 4;
  if (at < SECTOR || at + 4 > tables.source.size) return null;
  const entry = new Uint8Array(4);
  await tables.source.read(entry, at);
  const place = viewOf(entry).getUint32(0, true) * SECTOR;
  return place === 0 || place + tables.perTable * 4 > tables.source.size ? null : place;
}

async function checkTables(walk: Walk, tables: GrainTables, hosted: HostedExtent | null): Promise<void> {
  const { source, size, grain, directoryAt, entrySize, perTable } = tables;
  const isTaken = taken(tables);
  const count = Math.ceil(size / (grain * perTable));
  const entry = new Uint8Array(entrySize);
  const table = new Uint8Array(perTable * entrySize);
  const other = new Uint8Array(table.length);
  for (let number = 0; number < count; number++) {
    walk.run.signal.throwIfAborted();
    const entryAt = directoryAt + number * entrySize;
    await source.read(entry, entryAt);
    const at = tables.table(viewOf(entry), 0);
    if (at === ABSENT) continue;
    if (at < 0 || at + table.length > source.size) {
      walk.report('corrupt', `grain table ${number} lies outside the file`, source.name, entryAt);
      continue;
    }
    await source.read(table, at);
    walk.count.bytes += table.length;
    checkTable(walk, tables, number * perTable, at, table, isTaken);
    const redundant = await redundantTable(tables, hosted, number);
    if (redundant === null) continue;
    await source.read(other, redundant);
    walk.count.bytes += other.length;
    if (Buffer.compare(table, other) !== 0)
      walk.report('corrupt', `grain table ${number} differs from its redundant copy`, source.name, redundant);
  }
}

/** Reads every byte that the image stores. */
async function checkData(walk: Walk, layer: Layer, file: string): Promise<void> {
  const block = new Uint8Array(Math.max(layer.blockSize, CHUNK));
  const attempt = async (at: Bytes, read: () => Done, bytes: Bytes): Promise<boolean> => {
    try {
      await read();
      walk.count.bytes += bytes;
      return true;
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      const { where } = error;
      walk.report(error.fault, error.message, where.file ?? file, where.at ?? 0, Math.floor(at / layer.blockSize));
      return false;
    }
  };
  const unpacked = block.subarray(0, layer.blockSize);
  for (let at = 0; at < layer.size; ) {
    walk.run.signal.throwIfAborted();
    const from = at;
    const limit = Math.min(layer.size - at, block.length);
    let length = Math.min(limit, layer.blockSize - (at % layer.blockSize));
    const visit = async (): Promise<void> => {
      let where = layer.locate(from, limit);
      for (; where === null; where = layer.locate(from, limit)) await layer.load(from, limit);
      length = where.length;
      const found = where;
      if (found.kind === 'plain')
        await attempt(from, () => found.source.read(block.subarray(0, length), found.at), length);
      if (found.kind === 'packed') await attempt(from, () => layer.unpack(found.unit, unpacked), length);
    };
    // What cannot be located is one block, reported with its entry.
    await attempt(from, visit, 0);
    at += length;
    walk.run.progress(at, layer.size);
  }
}

/**
 * Levels 1 and 2: tables inside the file and equal to their redundant copies, entries that make sense, no place used
 * twice. Level 3 also reads every plain grain and decompresses every packed one, whose data has a checksum. Nothing else
 * in the format has one: damage inside a plain grain cannot be seen.
 */
export async function verifyDisk(
  disk: OpenedDisk,
  name: string,
  run: VerifyRun,
): Promise<{ checked: number; bytes: Bytes }> {
  const count = { checked: 0, bytes: 0 };
  const seen = new Set<string>();
  const report: Report = (fault, message, file, offset, block) => {
    // Level 3 comes past the entries that the tables' check has reported.
    const key = `${file} ${offset}`;
    if (block !== undefined && seen.has(key)) return;
    if (block !== undefined && seen.size < 100_000) seen.add(key);
    const found: Problem = { fault, message, file, offset };
    run.found(block === undefined ? found : { ...found, disk: 'disk0', block });
  };
  if (disk.problem !== null || disk.layer === null) {
    const { problem } = disk;
    if (problem !== null) report(problem.fault, problem.message, problem.where.file ?? name, problem.where.at ?? 0);
    return count;
  }
  const walk: Walk = { run, report, count };
  for (const { tables, hosted } of disk.tables) await checkTables(walk, tables, hosted);
  if (run.level === 3) await checkData(walk, disk.layer, name);
  return count;
}
