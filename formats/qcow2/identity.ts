/** What changes when an image's content changes, found with bounded reads. */
import { createHash } from 'node:crypto';
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { viewOf } from '../../src/base/struct.ts';
import type { Qcow2Header } from './header.ts';
import type { Snapshot } from './snapshots.ts';
import { offsetOf } from './tables.ts';

/** Bytes of L2 tables that are read, and in how many reads at most: opening a thousand images stays quick. */
const L2_BYTES: Bytes = 4 * 2 ** 20;
const L2_READS = 256;
const REFCOUNT_BYTES: Bytes = 65536;

/**
 * SHA-256 over facts that do not depend on any name: the file's size, the header with the tables' places, one L1 table,
 * the top of the refcount table, and the L2 tables: all of them while they fit 4 MiB and 256 reads, otherwise as many
 * spread evenly. A cluster that is overwritten in place without any change of metadata is not seen by this.
 */
export async function diskIdentity(
  source: ByteSource,
  header: Qcow2Header,
  head: Uint8Array,
  l1: Uint8Array,
  dataSize: Bytes | null,
): Promise<string> {
  const hash = createHash('sha256');
  hash.update(`qcow2 ${source.size} ${dataSize}`);
  hash.update(head.subarray(0, Math.min(head.length, 4096)));
  hash.update(l1);
  const refcounts = Math.min(REFCOUNT_BYTES, header.refcountClusters * header.clusterSize);
  if (refcounts > 0 && header.refcountsAt + refcounts <= source.size) {
    const top = new Uint8Array(refcounts);
    await source.read(top, header.refcountsAt);
    hash.update(top);
  }
  const chunk = Math.min(header.clusterSize, 65536);
  const l1View = viewOf(l1);
  const places: Bytes[] = [];
  for (let i = 0; i < l1.length; i += 8) {
    const at = offsetOf(l1View.getUint32(i), l1View.getUint32(i + 4));
    if (at !== 0 && at + chunk <= source.size) places.push(at);
  }
  const most = Math.min(L2_READS, L2_BYTES / chunk);
  const step = Math.max(1, places.length / most);
  const buffer = new Uint8Array(chunk);
  for (let i = 0; i < places.length; i += step) {
    await source.read(buffer, places[Math.floor(i)]!);
    hash.update(buffer);
  }
  return `qcow2:${hash.digest('hex')}`;
}

/**
 * Clusters that a snapshot refers to are never changed in place, so its own record and L1 table are enough; the identity
 * stays while the disk goes on changing.
 */
export function snapshotIdentity(header: Qcow2Header, snapshot: Snapshot, l1: Uint8Array): string {
  const hash = createHash('sha256');
  hash.update(`qcow2 snapshot ${header.clusterBits} ${snapshot.size} ${snapshot.time.getTime()} ${snapshot.id}`);
  hash.update(l1);
  return `qcow2:${hash.digest('hex')}`;
}
