/** All nodes of an index, its blocks in the order in which they lie. Source: libfsntfs, "The index". */
import type { Bytes } from '../../base/contracts.ts';
import type { Ntfs } from './filesystem.ts';
import { fixedUp, type Record, TYPE } from './records.ts';

const LAST_ENTRY = 2;

/** The root of an index from its node header on, and how long its blocks are. `what` names the index in messages. */
export async function indexRoot(
  ntfs: Ntfs,
  record: Record,
  name: string,
  what: string,
): Promise<{ readonly root: Buffer; readonly blockSize: number }> {
  const { source } = ntfs;
  const found = (await ntfs.attribute(record, TYPE.indexRoot, name))?.resident;
  const root = source.need(found, `${what} has no index`);
  const blockSize = root.readUInt32LE(8);
  source.check(blockSize >= 512 && blockSize <= 65_536, `index blocks of ${blockSize} bytes`);
  return { root: root.subarray(16), blockSize };
}

export interface IndexSpec {
  readonly record: Record;
  readonly name: string;
  readonly what: string;
  readonly largest: Bytes;
  readonly largestBitmap: Bytes;
}

/** Calls `node` with each node of the index, from its header on; the bytes are the next one's afterwards. */
export async function eachNode(ntfs: Ntfs, spec: IndexSpec, node: (bytes: Buffer) => void): Promise<void> {
  const { source } = ntfs;
  const { record, name, largest, largestBitmap } = spec;
  const { root, blockSize } = await indexRoot(ntfs, record, name, spec.what);
  node(root);
  const allocation = await ntfs.attribute(record, TYPE.indexAllocation, name);
  if (allocation === null) return;
  source.check(allocation.size <= Math.min(largest, source.size), `an index of ${allocation.size} bytes`);
  const bitmap = await ntfs.attribute(record, TYPE.bitmap, name);
  const used = await ntfs.value(source.need(bitmap, 'an index has no bitmap'), largestBitmap);
  const blocks = ntfs.content(allocation);
  const block = Buffer.allocUnsafe(blockSize);
  for (let i = 0; (i + 1) * blockSize <= allocation.size; i++) {
    if (((used[Math.floor(i / 8)] ?? 0) & (1 << (i % 8))) === 0) continue;
    await blocks.read(block, i * blockSize);
    node(fixedUp(source, block, 'INDX').subarray(24));
  }
}

/** Places of the entries of one node and their lengths, without the one that ends it. */
export function* entriesOf(
  ntfs: Ntfs,
  bytes: Buffer,
  what: string,
): Iterable<{ readonly at: number; readonly length: number }> {
  const end = bytes.readUInt32LE(4);
  ntfs.source.check(end <= bytes.length, `an index node of ${what} is too long`);
  for (let at = bytes.readUInt32LE(0); at + 16 <= end; ) {
    const length = bytes.readUInt16LE(at + 8);
    ntfs.source.check(length >= 16 && at + length <= end, `an index entry of ${what} is damaged`);
    if ((bytes.readUInt16LE(at + 12) & LAST_ENTRY) !== 0) return;
    yield { at, length };
    at += length;
  }
}
