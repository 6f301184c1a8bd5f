/** Checks of one image by itself: structure (levels 1 and 2), and every cluster (level 3). */
import type { ByteSource, Bytes, Done, Layer, Problem, VerifyRun } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { viewOf } from '../../src/base/struct.ts';
import type { Qcow2Header } from './header.ts';
import { entriesOf } from './layer.ts';
import { offsetOf, type TopTable, tablesOf } from './tables.ts';

export interface Mapping {
  readonly name: string;
  readonly top: TopTable;
  readonly size: Bytes;
  readonly layer: Layer;
}

export interface VerifyParts {
  readonly source: ByteSource;
  readonly data: ByteSource;
  readonly header: Qcow2Header;
  readonly mappings: readonly Mapping[];
  /** Why the image cannot be read, if so: that is then the only finding, unless only the key is missing. */
  readonly problem: ImageError | null;
}

/** A set of cluster numbers, by pages of 65,536 bytes: memory follows what is in the set, not the largest number. */
export function clusterSet(): { add(cluster: number): boolean; has(cluster: number): boolean } {
  const PER_PAGE = 2 ** 19;
  const pages = new Map<number, Uint8Array>();
  const has = (cluster: number): boolean => {
    const bit = cluster % PER_PAGE;
    return ((pages.get(Math.floor(cluster / PER_PAGE))?.[bit >> 3] ?? 0) & (1 << (bit & 7))) !== 0;
  };
  return {
    has,
    /** False when it was there already. */
    add(cluster) {
      if (has(cluster)) return false;
      const index = Math.floor(cluster / PER_PAGE);
      const page = pages.get(index) ?? new Uint8Array(PER_PAGE / 8);
      pages.set(index, page);
      const bit = cluster % PER_PAGE;
      page[bit >> 3] = page[bit >> 3]! | (1 << (bit & 7));
      return true;
    },
  };
}

type Report = (fault: string, message: string, offset: Bytes, block?: number) => void;
type Clusters = ReturnType<typeof clusterSet>;

interface Walk extends VerifyParts {
  readonly run: VerifyRun;
  readonly report: Report;
  readonly metadata: Clusters;
  /** L2 tables that were checked for another mapping already; snapshots share them. */
  readonly tables: Clusters;
  readonly count: { clusters: number; bytes: Bytes };
}

function claim(walk: Walk, at: Bytes, length: Bytes, what: string, shared = false): void {
  const { clusterSize } = walk.header;
  for (let c = Math.floor(at / clusterSize); c < Math.ceil((at + length) / clusterSize); c++) {
    if (!walk.metadata.add(c) && !shared)
      walk.report('corrupt', `${what} shares a cluster with other metadata`, c * clusterSize);
  }
}

/** Header, snapshot table, refcount table and blocks: where they lie, and that they do not overlap. */
async function checkMetadata(walk: Walk): Promise<void> {
  const { header, source, report } = walk;
  const { clusterSize } = header;
  claim(walk, 0, clusterSize, 'the header');
  for (const mapping of walk.mappings)
    claim(walk, mapping.top.at, mapping.top.entries * 8, `the L1 table of ${mapping.name}`);
  if (header.snapshots > 0) claim(walk, header.snapshotsAt, 40, 'the snapshot table');
  const length = header.refcountClusters * clusterSize;
  if (header.refcountsAt % clusterSize !== 0 || header.refcountsAt + length > source.size) {
    report('corrupt', 'the refcount table leaves the file', header.refcountsAt);
    return;
  }
  claim(walk, header.refcountsAt, length, 'the refcount table');
  const table = new Uint8Array(length);
  await source.read(table, header.refcountsAt);
  walk.count.bytes += length;
  const view = viewOf(table);
  for (let i = 0; i < length; i += 8) {
    const at = offsetOf(view.getUint32(i), view.getUint32(i + 4));
    if (at === 0) continue;
    if (at % clusterSize !== 0 || at + clusterSize > source.size)
      report('corrupt', `refcount block ${i / 8} at ${at} is not a cluster of the file`, header.refcountsAt + i);
    else claim(walk, at, clusterSize, `refcount block ${i / 8}`);
  }
}

/** Every L2 table is claimed before data is looked at, so that data over a later table is found too. */
async function claimTables(walk: Walk): Promise<void> {
  const { clusterSize } = walk.header;
  for (const mapping of walk.mappings) {
    for await (const { table, at } of tablesOf(walk.source, mapping.top)) {
      const inside = at % clusterSize === 0 && at + clusterSize <= walk.source.size;
      if (!inside)
        walk.report(
          'corrupt',
          `L2 table ${table} of ${mapping.name} at ${at} is not a cluster of the file`,
          mapping.top.at + table * 8,
        );
      else claim(walk, at, clusterSize, `L2 table ${table} of ${mapping.name}`, walk.tables.has(at / clusterSize));
      if (inside) walk.tables.add(at / clusterSize);
    }
  }
}

function checkTable(walk: Walk, mapping: Mapping, table: number, at: Bytes, page: DataView, seen: Clusters): void {
  const { header, data, source, report, count } = walk;
  const { clusterSize } = header;
  const entries = entriesOf(header);
  const perTable = clusterSize / entries.entrySize;
  for (let entry = 0; entry < perTable; entry++) {
    const unit = table * perTable + entry;
    const entryAt = at + entry * entries.entrySize;
    if (unit * clusterSize >= mapping.size) return;
    count.clusters++;
    const kind = entries.kind(page, entry, 0);
    if (kind === 'packed') {
      const packed = entries.packed(page, entry);
      if (packed.at >= source.size)
        report('corrupt', `packed cluster at ${packed.at} lies past the end of the file`, entryAt, unit);
      else if (walk.metadata.has(Math.floor(packed.at / clusterSize)))
        report('corrupt', `packed cluster at ${packed.at} lies in metadata`, entryAt, unit);
      continue;
    }
    let bad = kind === 'bad';
    for (let part = 1; part < entries.parts; part++) bad ||= entries.kind(page, entry, part) === 'bad';
    if (bad) {
      report('corrupt', 'the L2 entry makes no sense', entryAt, unit);
      continue;
    }
    const host = entries.host(page, entry);
    if (host === 0 && kind !== 'plain') continue;
    if (host >= data.size && kind === 'plain')
      report('corrupt', `the cluster at ${host} lies past the end of ${data.name}`, entryAt, unit);
    else if (data === source && walk.metadata.has(host / clusterSize))
      report('corrupt', `the cluster at ${host} is metadata`, entryAt, unit);
    if (!seen.add(Math.floor(host / clusterSize)))
      report('corrupt', `the cluster at ${host} holds another guest cluster too`, entryAt, unit);
  }
}

async function checkStructure(walk: Walk, mapping: Mapping): Promise<void> {
  const { clusterSize } = walk.header;
  const seen = clusterSet();
  const page = new Uint8Array(clusterSize);
  for await (const { table, at } of tablesOf(walk.source, mapping.top)) {
    walk.run.signal.throwIfAborted();
    if (at % clusterSize !== 0 || at + clusterSize > walk.source.size) continue;
    await walk.source.read(page, at);
    walk.count.bytes += clusterSize;
    checkTable(walk, mapping, table, at, viewOf(page), seen);
  }
}

/** Reads every byte that the mapping stores. */
async function checkData(walk: Walk, { layer }: Mapping, before: Bytes, total: Bytes): Promise<void> {
  const block = new Uint8Array(Math.max(layer.blockSize, 2 ** 20));
  const attempt = async (at: Bytes, read: () => Done, fileAt: Bytes, bytes: Bytes): Promise<void> => {
    try {
      await read();
      walk.count.bytes += bytes;
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      walk.report(error.fault, error.message, error.where.at ?? fileAt, Math.floor(at / layer.blockSize));
    }
  };
  for (let at = 0; at < layer.size; ) {
    walk.run.signal.throwIfAborted();
    const limit = Math.min(layer.size - at, block.length);
    let where = layer.locate(at, limit);
    if (where === null) {
      try {
        await layer.load(at, limit);
      } catch (error) {
        if (!(error instanceof ImageError)) throw error;
        // Reported with the structure; on to the next cluster.
        at = Math.min(layer.size, (Math.floor(at / layer.blockSize) + 1) * layer.blockSize);
        continue;
      }
      where = layer.locate(at, limit);
      if (where === null) continue;
    }
    const found = where;
    if (found.kind === 'plain') {
      const into = block.subarray(0, found.length);
      await attempt(at, () => found.source.read(into, found.at), found.at, found.length);
    } else if (found.kind === 'packed') {
      await attempt(at, () => layer.unpack(found.unit, block.subarray(0, layer.blockSize)), 0, found.length);
    }
    at += found.length;
    walk.run.progress(before + at, total);
  }
}

/**
 * Level 1 and 2: tables inside the file and apart from each other, entries that make sense, no cluster used twice within a
 * mapping or laid over metadata. Level 3 also reads every plain and decompresses every packed cluster. The format has no
 * checksums: damage inside a plain cluster cannot be seen.
 */
export async function verifyImage(parts: VerifyParts, run: VerifyRun): Promise<{ checked: number; bytes: Bytes }> {
  const { source, problem } = parts;
  const report: Report = (fault, message, offset, block) => {
    const found: Problem = { fault, message, file: source.name, offset };
    run.found(block === undefined ? found : { ...found, disk: 'disk0', block });
  };
  const count = { clusters: 0, bytes: 0 };
  const isLocked = problem?.fault === 'locked';
  if (problem !== null && !isLocked) {
    report(problem.fault, problem.message, problem.where.at ?? 0);
    return { checked: 0, bytes: 0 };
  }
  const walk: Walk = { ...parts, run, report, metadata: clusterSet(), tables: clusterSet(), count };
  await checkMetadata(walk);
  await claimTables(walk);
  const total = parts.mappings.reduce((sum, mapping) => sum + mapping.layer.size, 0);
  let before = 0;
  for (const mapping of parts.mappings) {
    if (!parts.header.rawData) await checkStructure(walk, mapping);
    if (run.level === 3 && !isLocked) await checkData(walk, mapping, before, total);
    before += mapping.layer.size;
    run.progress(before, total);
  }
  return { checked: count.clusters, bytes: count.bytes };
}
