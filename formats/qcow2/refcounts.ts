/** Refcounts (QEMU docs/interop/qcow2.txt, "Host cluster management"): reading goes without them but for one question. */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { isZero } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import type { Qcow2Header } from './header.ts';
import { offsetOf } from './tables.ts';

/** Host clusters that one refcount block counts. */
export const countedPerBlock = (h: Pick<Qcow2Header, 'clusterSize' | 'refcountBits'>): number =>
  (h.clusterSize * 8) / h.refcountBits;

/**
 * Whether clusters right after the end of the file are counted as used: then the file was cut. Looks at one entry of the
 * refcount table and at most 4 KiB of counts. Without readable refcounts the answer is no.
 */
export async function isCut(source: ByteSource, header: Qcow2Header): Promise<boolean> {
  const next = Math.ceil(source.size / header.clusterSize);
  const perBlock = countedPerBlock(header);
  const entryAt = header.refcountsAt + Math.floor(next / perBlock) * 8;
  const tableEnd = header.refcountsAt + header.refcountClusters * header.clusterSize;
  if (header.refcountsAt === 0 || entryAt + 8 > tableEnd) return false;
  if (entryAt + 8 > source.size) return header.refcountsAt >= source.size;
  const entry = new Uint8Array(8);
  await source.read(entry, entryAt);
  const view = viewOf(entry);
  const block: Bytes = offsetOf(view.getUint32(0), view.getUint32(4));
  if (block === 0) return false;
  if (block + header.clusterSize > source.size) return true;
  // The first count that belongs to clusters past the end, to the byte: smaller counts share a byte with their neighbours.
  const first = Math.ceil(((next % perBlock) * header.refcountBits) / 8);
  const counts = new Uint8Array(Math.min(4096, header.clusterSize - first));
  await source.read(counts, block + first);
  return !isZero(counts);
}
