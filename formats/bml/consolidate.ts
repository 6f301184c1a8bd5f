/** Consolidation (section 11): the files of a range of points become one, without a key. Old or new, never in between. */
import type { ByteFile, Bytes, Keyring, WritableStore } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { type PlacedCommit, readCommit } from './commit.ts';
import { heirOf, refuseDependents } from './dependents.ts';
import { buildHeld, INDEX_PER_PAGE, indexPages } from './held.ts';
import { Appender, movedCommit, type Walk, walkTrees } from './merge.ts';
import type { Objects } from './objects.ts';
import { claim } from './owner.ts';
import { Places } from './places.ts';
import { insideOf, type Opened, openBml } from './read.ts';
import { storedHeaderCrc } from './record.ts';
import { RecordSum } from './record-sum.ts';
import { type SetFile, type Shelf, shelfOf } from './shelf.ts';
import {
  ALIGN,
  corrupt,
  FIRST_RECORD,
  hex,
  KEY_AREAS,
  PAGE,
  RECORD_HEADER,
  SLOTS,
  SUPERBLOCKS,
  sameBytes,
} from './structs.ts';
import { buildSlot, buildSuperblock, buildTrailer } from './superblock.ts';
import type { Line } from './table.ts';
import { readTable } from './table-read.ts';

export interface ConsolidateSpec {
  /** Files of the points of the range in the order of the chain, base first. The last one is the point that stays: the result takes its name. */
  readonly files: readonly string[];
  readonly signal: AbortSignal;
  /** Objects copied and read back, of twice their number. */
  progress(done: number, total: number): void;
}

export interface Consolidated {
  /** False when the last file held everything already, and only leftovers were removed. */
  readonly built: boolean;
  readonly records: number;
  /** Size of the file that stays. */
  readonly bytes: Bytes;
  /** Files that are gone, in the order of their going. */
  readonly removed: readonly string[];
}

const NO_KEYS: Keyring = { secrets: async () => [] };

interface Source {
  readonly inside: Opened;
  readonly commit: PlacedCommit;
}

const unfit = (message: string, file: string): ImageError => new ImageError('usage', message, { file });

/** The files of the range, each with the one commit that it holds. */
async function openSources(store: WritableStore, names: readonly string[], opened: AsyncDisposableStack) {
  const sources: Source[] = [];
  for (const name of names) {
    const inside = insideOf(opened.use(await openBml(name, store, NO_KEYS)))!;
    const [point] = [...inside.points.values()];
    if (inside.tail.total !== 1 || inside.points.size !== 1) throw unfit('holds more than one restore point', name);
    const { problem, commit } = point!;
    // Locked is what an encrypted set is without its key; anything else means that the point cannot be read.
    if (problem !== null && problem.fault !== 'locked') throw problem;
    if (inside.tail.warning !== null) throw corrupt(inside.tail.warning, name, inside.file.size - PAGE);
    sources.push({ inside, commit });
  }
  return sources;
}

interface Range {
  readonly tip: Source;
  readonly lines: readonly Line[];
  readonly inRange: Uint8Array;
  /** Ids of the layers in the range, in hexadecimal. */
  readonly layers: ReadonlySet<string>;
}

async function rangeOf(sources: readonly Source[]): Promise<Range> {
  const tip = sources.at(-1)!;
  const lines = await readTable(tip.inside.file, tip.commit);
  const layers = new Set<string>();
  for (const { inside, commit } of sources) {
    const { name, setId } = inside.file;
    const own = hex(commit.layer);
    if (setId !== tip.inside.file.setId || !lines.some(line => line.id === own)) {
      throw unfit(`${tip.inside.file.name} does not build on it`, name);
    }
    for (const id of inside.file.layers) layers.add(id);
  }
  return { tip, lines, layers, inRange: Uint8Array.from(lines, line => (layers.has(line.id) ? 1 : 0)) };
}

/** What is read from: files of the range first, then others that happen to hold a copy. */
async function objectsOf(shelf: Shelf, range: Range, sources: readonly Source[]): Promise<Objects> {
  const { tip, lines, inRange } = range;
  const { file, head } = tip.inside;
  const wanted = new Map(lines.filter((line, i) => inRange[i] === 1 && line.live > 0).map(line => [line.id, '']));
  const found = await shelf.find(file.name, file.setId, wanted);
  const own = sources.map(source => source.inside.file);
  const files = [...own, ...found.filter(one => own.every(mine => mine.name !== one.name))];
  const holders = lines.map((line, i) => (inRange[i] === 1 ? files.filter(one => one.layers.has(line.id)) : []));
  return { setId: head.setId, cipher: head.cipher, keys: null, lines, holders };
}

/** Everything in front of the records. The commit slot comes last. */
async function writeFront(file: ByteFile, { inside }: Source, fileId: Uint8Array): Promise<void> {
  await file.write(new Uint8Array(FIRST_RECORD), 0);
  for (const at of SUPERBLOCKS) await file.write(buildSuperblock({ ...inside.head, fileId }), at);
  if (inside.keyArea !== null) for (const at of KEY_AREAS) await file.write(inside.keyArea, at);
}

const bytesAt = async (file: SetFile, at: Bytes, length: number): Promise<Uint8Array> => {
  const bytes = new Uint8Array(length);
  await file.read(bytes, at);
  return bytes;
};

/** Writes the whole file and makes it durable. Returns the places of what it holds. */
async function build(file: ByteFile, range: Range, objects: Objects, step: Step): Promise<Places> {
  const { tip, lines, layers, inRange } = range;
  const { inside, commit } = tip;
  const fileId = crypto.getRandomValues(new Uint8Array(16));
  await writeFront(file, tip, fileId);
  const out = new Appender(file, FIRST_RECORD);
  const places = new Places();
  const walk: Walk = {
    objects,
    inRange,
    met: [],
    signal: step.signal,
    async store(place, line, record) {
      const at = await out.record(record);
      places.add(place, line, at);
      step.one();
      return at;
    },
  };
  const roots = await walkTrees(walk, commit, inside.file);
  const table = await bytesAt(inside.file, commit.tableAt, RECORD_HEADER + commit.tableStored);
  const tableAt = await out.record(table);
  // A layer has a line for each run of its writer.
  const held = [...new Map(lines.filter(line => layers.has(line.id)).map(line => [line.id, line.layer])).values()];
  const heldAt = await out.append(buildHeld(held), ALIGN);
  const pages = indexPages(places.entries());
  const indexAt = await out.append(new Uint8Array(0), PAGE);
  for (const page of pages) await out.append(page, PAGE);
  const old = await bytesAt(inside.file, commit.at, commit.length);
  const at = await out.append(movedCommit(old, roots, tableAt), PAGE);
  await out.flush();
  await file.sync();
  const more = { heldAt, held: held.length, indexAt, indexEntries: places.count };
  const fileSize = at + commit.length + PAGE;
  const tail = { sequence: 1, commits: [{ at, length: commit.length, layer: commit.layer }], fileSize, ...more };
  const ids = { setId: inside.head.setId, fileId, sum: out.sum };
  await file.write(buildTrailer({ ...tail, ...ids }), fileSize - PAGE);
  await file.write(buildSlot({ ...tail, ...ids }), SLOTS[0]);
  await file.sync();
  return places;
}

/** Reads the new file as a stranger would, and compares: commit, table, every object at its place, the index. */
async function readBack(shelf: Shelf, partial: string, range: Range, places: Places, step: Step): Promise<Bytes> {
  const bad = (what: string, at: Bytes): never => {
    throw corrupt(`read back, ${what} is not what was written`, partial, at);
  };
  const { file, head, tail } = await shelf.identify(partial);
  const { commit: old, inside } = range.tip;
  const place = tail.commits[0];
  if (tail.warning !== null || tail.total !== 1 || place === undefined) return bad('the trailer', file.size - PAGE);
  const commit = await shelf.use(partial, source => readCommit(source, place));
  if (!sameBytes(commit.hash, old.hash) || !sameBytes(commit.content(), old.content())) bad('the commit', commit.at);
  const lines = await readTable(file, commit);
  if (inside.keyArea !== null) {
    for (const at of KEY_AREAS) {
      if (!sameBytes(await bytesAt(file, at, inside.keyArea.length), inside.keyArea)) bad('the key slots', at);
    }
  }
  // Its hints alone must lead to everything: so no other file, and no index.
  const only: SetFile = { ...file, index: { at: 0, entries: 0 }, read: (into, at) => file.read(into, at) };
  const seen = new Places();
  const sum = new RecordSum();
  const walk: Walk = {
    objects: {
      setId: head.setId,
      cipher: head.cipher,
      keys: null,
      lines,
      holders: lines.map(line => (file.layers.has(line.id) ? [only] : [])),
    },
    inRange: Uint8Array.from(lines, line => (file.layers.has(line.id) ? 1 : 0)),
    met: [],
    signal: step.signal,
    store(at, line, record, hint) {
      seen.add(at, line, hint);
      sum.add(hint, storedHeaderCrc(record));
      step.one();
      return hint;
    },
  };
  await walkTrees(walk, commit, only);
  sum.add(commit.tableAt, storedHeaderCrc(await bytesAt(file, commit.tableAt, RECORD_HEADER)));
  if (tail.sum === null || !sum.equals(tail.sum)) bad('the record sum', file.size - PAGE);
  if (seen.count !== places.count || tail.indexEntries !== places.count) bad('the number of objects', tail.indexAt);
  let page = 0;
  for (const expected of indexPages(seen.entries())) {
    const at = tail.indexAt + page++ * PAGE;
    if (!sameBytes(await bytesAt(file, at, PAGE), expected)) bad('the index', at);
  }
  if (page !== Math.ceil(tail.indexEntries / INDEX_PER_PAGE)) bad('the index', tail.indexAt);
  return file.size;
}

interface Step {
  readonly signal: AbortSignal;
  one(): void;
}

function stepper(spec: ConsolidateSpec, total: number): Step {
  let done = 0;
  return {
    signal: spec.signal,
    one: () => spec.progress(Math.min(++done, total), total),
  };
}

/**
 * Makes the last file hold all that it needs of the others, then removes those. No key is needed or used. Faults: 'usage'
 * for files that are no range of one chain or on which others build, 'busy', 'corrupt' and 'broken-chain' for what cannot be
 * read, 'no-space'. Until the new file is complete, durable and read back, nothing changes; a run that was stopped later is
 * completed by the same call.
 */
export async function consolidateBml(store: WritableStore, spec: ConsolidateSpec): Promise<Consolidated> {
  const name = spec.files.at(-1);
  if (name === undefined) throw new ImageError('usage', 'no files to consolidate', {});
  const folder = name.slice(0, name.lastIndexOf('/') + 1);
  const stray = spec.files.find(file => file.slice(0, file.lastIndexOf('/') + 1) !== folder);
  if (stray !== undefined) throw unfit('lies in another folder than the rest of the range', stray);
  const work = await claim(store, name, 'alone');
  const shelf = shelfOf(store);
  let left = true;
  try {
    await using opened = new AsyncDisposableStack();
    const sources = await openSources(store, spec.files, opened);
    const range = await rangeOf(sources);
    const { file } = range.tip.inside;
    const heir = hex(range.tip.commit.layer);
    const gone = new Set([...range.layers].filter(id => id !== heir));
    const except = new Set(spec.files);
    await refuseDependents(store, shelf, { beside: name, setId: file.setId, except, layers: gone, heir });
    const built = [...range.layers].some(id => !file.layers.has(id));
    let bytes = file.size;
    let records = 0;
    if (built) {
      const objects = await objectsOf(shelf, range, sources);
      records = range.lines.reduce((sum, line, i) => sum + (range.inRange[i] === 1 ? line.live : 0), 0);
      const step = stepper(spec, records * 2);
      const places = await build(work.file, range, objects, step);
      bytes = await readBack(shelf, work.partial, range, places, step);
      await shelf.forget(work.partial);
      spec.signal.throwIfAborted();
      await store.rename(work.partial, name);
      left = false;
    }
    await opened.disposeAsync();
    // Newest first, so that what is left after a crash is a chain from the first point of the range.
    const removed = spec.files.slice(0, -1).reverse();
    for (const old of removed) await store.remove(old);
    return { built, records, bytes, removed };
  } finally {
    await work.end(left);
  }
}

/** Removes the file of a point on which nothing builds any more. Faults as above. */
export async function dropBml(store: WritableStore, name: string): Promise<void> {
  const work = await claim(store, name, 'alone');
  try {
    const shelf = shelfOf(store);
    await using opened = new AsyncDisposableStack();
    const [source] = await openSources(store, [name], opened);
    const { file } = source!.inside;
    const except = new Set([name]);
    const heir = await heirOf(store, shelf, file);
    await refuseDependents(store, shelf, { beside: name, setId: file.setId, except, layers: file.layers, heir });
    await opened.disposeAsync();
    await store.remove(name);
  } finally {
    await work.end(true);
  }
}

/** Times of the restore points whose layers a file holds, in the order of the chain, its own last: those that were consolidated into it. */
export async function heldTimes(store: WritableStore, name: string): Promise<readonly Date[]> {
  await using opened = new AsyncDisposableStack();
  const [source] = await openSources(store, [name], opened);
  const { inside, commit } = source!;
  const lines = await readTable(inside.file, commit);
  const times = new Map(lines.filter(line => inside.file.layers.has(line.id)).map(line => [line.id, line.time]));
  return [...times.values()].map(time => new Date(time));
}
