/** Which chunk lies where: one pass over the sections of all segments, then parts of the tables as they are asked for. */
import type { Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { pages } from '../../src/base/pages.ts';
import { lastAtOrBefore } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import { bodyOf, corrupt, type Section, sectionsOf, sumAt } from './sections.ts';
import type { Segments } from './segments.ts';
import { TableHeader, Volume } from './structs.ts';
import { type Geometry, parseGeometry } from './volume.ts';

/** More sections than this have 80 TiB in the usual tables of 16,375 chunks. */
const MOST_SECTIONS = 524_288;
/** Other work gets its turn after so many sections. */
const TURN = 256;
/** Chunks whose entries are read at once; 4 MiB of them stay in memory. */
const PER_PAGE = 4096;
const PAGES = 256;
const COMPRESSED = 0x8000_0000;

/** One table: entries for chunks that follow each other on the disk. */
export interface Table {
  readonly section: Section;
  /** Number of its first chunk, and how many it has. */
  readonly first: number;
  readonly count: number;
  /** File offset of the entries, and of the entries in the table's copy; null: there is none. */
  readonly entriesAt: Bytes;
  readonly copyAt: Bytes | null;
  /** What the entries count from, and where chunks may lie. */
  readonly base: Bytes;
  readonly dataAt: Bytes;
  readonly dataEnd: Bytes;
  /** From this entry on offsets use all 32 bits and nothing is compressed. */
  readonly wide: number;
}

export interface ChunkPlace {
  readonly segment: number;
  readonly at: Bytes;
  /** From the beginning of the chunk to the next one, or to the end of the section. */
  readonly length: Bytes;
  readonly compressed: boolean;
}

export interface Directory {
  readonly tables: readonly Table[];
  /** Every section of every segment that is not a table, `sectors` or the last one. */
  readonly others: readonly Section[];
  /** How many chunks the tables have. */
  readonly chunks: number;
  /** Where a chunk lies by its table, or by the table's copy: null when there is no copy. 'corrupt': not where a chunk can lie. */
  place(chunk: number, by: 'table' | 'copy'): Promise<ChunkPlace | null>;
  /** As `place` by the table, when its entries are in memory; else null. */
  placeNow(chunk: number): ChunkPlace | null;
}

interface Head {
  readonly count: number;
  readonly base: Bytes;
}

/** The head of a table; null when it is damaged. */
async function readHead(segments: Segments, section: Section): Promise<Head | null> {
  const raw = await bodyOf(segments, section, TableHeader.size);
  if (raw.length < TableHeader.size) return null;
  if (sumAt(raw, TableHeader.offsetOf('checksum')) === 'wrong') return null;
  const { entries: count, base } = TableHeader.parse(raw, 0, segments.name(section.segment));
  const fits = section.bodyAt + TableHeader.size + count * 4 <= section.end;
  return fits ? { count, base } : null;
}

/** First entry whose offset needs the bit that says "compressed" before: there the offsets fall without it (EnCase 6.7). */
async function findWide(segments: Segments, { segment }: Section, entriesAt: Bytes, count: number): Promise<number> {
  const part = new Uint8Array(65_536);
  const view = viewOf(part);
  let before = -1;
  for (let first = 0; first < count; first += part.length / 4) {
    const some = Math.min(part.length / 4, count - first);
    await segments.read(segment, part.subarray(0, some * 4), entriesAt + first * 4);
    for (let i = 0; i < some; i++) {
      const offset = view.getUint32(i * 4, true) % COMPRESSED;
      if (offset < before) return first + i;
      before = offset;
    }
  }
  return Number.POSITIVE_INFINITY;
}

interface Pass {
  readonly segments: Segments;
  readonly geometry: Geometry;
  readonly tables: Table[];
  readonly others: Section[];
  chunks: number;
  /** Data whose table has not come yet, and a table that is damaged and may have a copy. */
  data: Section | null;
  damaged: Section | null;
}

async function addTable(pass: Pass, section: Section, head: Head): Promise<void> {
  const { segments, data } = pass;
  const file = segments.name(section.segment);
  if (head.count === 0) return;
  const entriesAt = section.bodyAt + TableHeader.size;
  const entriesEnd = entriesAt + head.count * 4;
  // SMART and the first EnCase keep the chunks behind the entries; others have at most a checksum there.
  if (data === null && section.end - entriesEnd <= 4) throw corrupt('a table has no data', file, section.at);
  const [dataAt, dataEnd] = data === null ? [entriesEnd, section.end] : [data.bodyAt, data.end];
  const mayBeWide = head.base + COMPRESSED < dataEnd;
  const wide = mayBeWide ? await findWide(segments, section, entriesAt, head.count) : Number.POSITIVE_INFINITY;
  const { base, count } = head;
  pass.tables.push({ section, first: pass.chunks, count, entriesAt, copyAt: null, base, dataAt, dataEnd, wide });
  pass.chunks += count;
  pass.data = null;
}

async function passTable(pass: Pass, section: Section): Promise<void> {
  const head = await readHead(pass.segments, section);
  if (section.type === 'table') {
    pass.damaged = head === null ? section : null;
    if (head !== null) await addTable(pass, section, head);
    return;
  }
  const last = pass.tables.at(-1);
  if (pass.damaged !== null && head !== null) {
    await addTable(pass, section, head);
    pass.damaged = null;
  } else if (last !== undefined && head?.count === last.count && last.section.segment === section.segment) {
    pass.tables[pass.tables.length - 1] = { ...last, copyAt: section.bodyAt + TableHeader.size };
  }
}

/** `data` in a later segment says once more which image it belongs to. */
async function checkData(pass: Pass, section: Section): Promise<void> {
  const file = pass.segments.name(section.segment);
  const raw = await bodyOf(pass.segments, section, Volume.size);
  const { geometry: its } = parseGeometry(raw, section, file);
  const { size, chunkSize, setId } = pass.geometry;
  if (its.size === size && its.chunkSize === chunkSize && its.setId === setId) return;
  const message = `${file} belongs to another image than ${pass.segments.name(0)}`;
  throw new ImageError('broken-chain', message, { file, at: section.at });
}

async function passSection(pass: Pass, section: Section): Promise<void> {
  const { type, segment, at } = section;
  const isTable = type === 'table' || type === 'table2';
  if (pass.damaged !== null && type !== 'table2') {
    throw corrupt('a table is damaged and has no copy', pass.segments.name(segment), pass.damaged.at);
  }
  if (type === 'sectors') pass.data = section;
  else if (isTable) await passTable(pass, section);
  else if (type === 'data' && segment > 0) await checkData(pass, section);
  if (type !== 'sectors' && !isTable) pass.others.push(section);
  if (pass.others.length > MOST_SECTIONS || pass.tables.length > MOST_SECTIONS) {
    throw new ImageError('unsupported', `more than ${MOST_SECTIONS} sections`, {
      file: pass.segments.name(segment),
      at,
    });
  }
}

interface EntryPage {
  /** Number of its first entry. */
  readonly first: number;
  /** Where it lies when all files are counted through, and its length. */
  readonly at: Bytes;
  readonly length: number;
}

/** The page that has the entry, and one more on either side: a chunk begins behind the one before it and ends where the next begins. */
function pageOf(segments: Segments, table: Table, index: number, entriesAt: Bytes): EntryPage {
  const page = Math.floor(index / PER_PAGE);
  const first = Math.max(0, page * PER_PAGE - 1);
  const count = Math.min(table.count, (page + 1) * PER_PAGE + 1) - first;
  return { first, at: segments.globalAt(table.section.segment, entriesAt + first * 4), length: count * 4 };
}

/** Place of one chunk by the entries at `entriesAt`. */
function placeIn(
  segments: Segments,
  table: Table,
  index: number,
  entriesAt: Bytes,
  first: number,
  page: Uint8Array,
): ChunkPlace {
  const { segment } = table.section;
  const view = viewOf(page);
  const entry = (k: number): number => view.getUint32((k - first) * 4, true);
  const startOf = (k: number): Bytes => table.base + (k >= table.wide ? entry(k) : entry(k) % COMPRESSED);
  const at = startOf(index);
  const end = index + 1 < table.count ? startOf(index + 1) : table.dataEnd;
  const before = index > 0 ? startOf(index - 1) : table.dataAt - 1;
  if (before < table.dataAt - 1 || at <= before || end <= at || end > table.dataEnd) {
    const message = `chunk ${table.first + index} of the disk cannot lie where the table says`;
    throw corrupt(message, segments.name(segment), entriesAt + index * 4, 'table');
  }
  return { segment, at, length: end - at, compressed: index < table.wide && entry(index) >= COMPRESSED };
}

/** Reads the descriptor of every section, and the head of every table. */
export async function readDirectory(segments: Segments, geometry: Geometry): Promise<Directory> {
  const pass: Pass = { segments, geometry, tables: [], others: [], chunks: 0, data: null, damaged: null };
  for (let segment = 0, turn = 1; segment < segments.count; segment++) {
    pass.data = null;
    for await (const section of sectionsOf(segments, segment)) {
      await passSection(pass, section);
      if (turn++ % TURN === 0) await new Promise<void>(resolve => setImmediate(resolve));
    }
  }
  const { tables, others, chunks } = pass;
  const firsts = tables.map(({ first }) => first);
  const cache = pages(segments.asOne(), PAGES);
  const tableOf = (chunk: number): Table => {
    const table = tables[lastAtOrBefore(firsts, chunk)];
    if (table !== undefined && chunk < chunks) return table;
    const last = segments.count - 1;
    throw corrupt(`chunk ${chunk} of the disk is in no table`, segments.name(last), segments.size(last), 'table');
  };
  return {
    tables,
    others,
    chunks,
    async place(chunk, by) {
      const table = tableOf(chunk);
      const entriesAt = by === 'table' ? table.entriesAt : table.copyAt;
      if (entriesAt === null) return null;
      const index = chunk - table.first;
      const { first, at, length } = pageOf(segments, table, index, entriesAt);
      return placeIn(segments, table, index, entriesAt, first, await cache.load(at, length));
    },
    placeNow(chunk) {
      const table = tableOf(chunk);
      const index = chunk - table.first;
      const { first, at } = pageOf(segments, table, index, table.entriesAt);
      const page = cache.resident(at);
      return page === null ? null : placeIn(segments, table, index, table.entriesAt, first, page);
    },
  };
}
