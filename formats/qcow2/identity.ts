/** What changes when an image's content changes, found with bounded reads. */
import { createHash } from 'node:crypto';
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { viewOf } from '../../src/base/struct.ts';
import { entriesPerTable, type Qcow2Header, tablesFor } from './header.ts';
import { entriesOf } from './layer.ts';
import type { Snapshot } from './snapshots.ts';
import { tablesOf, topParts } from './tables.ts';

/** Bytes of L2 tables that are read, and in how many reads at most: opening a thousand images stays quick. */
const L2_BYTES: Bytes = 4 * 2 ** 20;
const L2_READS = 256;
const REFCOUNT_BYTES: Bytes = 65536;

export interface Survey {
  readonly identity: string;
  /** A guest cluster that the file ends inside of, if one was met: what is missing of it reads as zeros. */
  readonly cutCluster: number | null;
}

/**
 * The identity is SHA-256 over facts that do not depend on any name: the file's size, the header with the tables' places,
 * the L1 table, the top of the refcount table, and the L2 tables: all of them while they fit 4 MiB and 256 reads,
 * otherwise as many spread evenly. A cluster that is overwritten in place without any change of metadata is not seen.
 */
export async function surveyDisk(
  source: ByteSource,
  header: Qcow2Header,
  head: Uint8Array,
  dataSize: Bytes | null,
): Promise<Survey> {
  const hash = createHash('sha256');
  hash.update(`qcow2 ${source.size} ${dataSize}`);
  hash.update(head.subarray(0, Math.min(head.length, 4096)));
  const top = { at: header.l1At, entries: tablesFor(header, header.size) };
  for await (const part of topParts(source, top)) hash.update(part);
  const refcounts = Math.min(REFCOUNT_BYTES, header.refcountClusters * header.clusterSize);
  if (refcounts > 0 && header.refcountsAt + refcounts <= source.size) {
    const table = new Uint8Array(refcounts);
    await source.read(table, header.refcountsAt);
    hash.update(table);
  }
  const chunk = Math.min(header.clusterSize, 65536);
  const most = Math.min(L2_READS, L2_BYTES / chunk);
  let count = 0;
  const sound = (at: Bytes): boolean => at + chunk <= source.size;
  for await (const { at } of tablesOf(source, top)) if (sound(at)) count++;
  const step = Math.max(1, count / most);
  const page = new Uint8Array(chunk);
  let cutCluster: number | null = null;
  let number = 0;
  let next = 0;
  for await (const { table, at } of tablesOf(source, top)) {
    if (!sound(at) || number++ < Math.floor(next)) continue;
    next += step;
    await source.read(page, at);
    hash.update(page);
    if (dataSize === null) cutCluster ??= cutIn(viewOf(page), header, source.size, table);
  }
  return { identity: `qcow2:${hash.digest('hex')}`, cutCluster };
}

/** The guest cluster that lies where the file ends, unless only bytes behind the disk's end are missing of it. */
function cutIn(page: DataView, header: Qcow2Header, fileSize: Bytes, table: number): number | null {
  const { clusterSize } = header;
  const left = fileSize % clusterSize;
  if (left === 0 || left === fileSize) return null;
  const entries = entriesOf(header);
  const first = table * entriesPerTable(header);
  for (let entry = 0; entry < page.byteLength / entries.entrySize; entry++) {
    if (entries.host(page, entry) !== fileSize - left || entries.kind(page, entry, 0) === 'packed') continue;
    if ((first + entry) * clusterSize + left < header.size) return first + entry;
  }
  return null;
}

/**
 * Clusters that a snapshot refers to are never changed in place, so its own record and L1 table are enough; the identity
 * stays while the disk goes on changing.
 */
export async function snapshotIdentity(source: ByteSource, header: Qcow2Header, snapshot: Snapshot): Promise<string> {
  const hash = createHash('sha256');
  hash.update(`qcow2 snapshot ${header.clusterBits} ${snapshot.size} ${snapshot.time.getTime()} ${snapshot.id}`);
  const top = { at: snapshot.l1At, entries: tablesFor(header, snapshot.size) };
  for await (const part of topParts(source, top)) hash.update(part);
  return `qcow2:${hash.digest('hex')}`;
}
