/** What of its device btrfs has not given to any chunk. Free space inside chunks counts as used. */
import type { Bytes } from '../../base/contracts.ts';
import { type FoundFree, freeRuns } from '../free.ts';
import { u64 } from '../source.ts';
import type { Btrfs } from './filesystem.ts';

/** Boot code and the first superblock; nothing is given out before. */
const FIRST = 1_048_576;
/** Copies of the superblock. */
const COPIES: readonly Bytes[] = [64 * 2 ** 20, 256 * 2 ** 30];
const COPY_SIZE = 65_536;
const DEVICE_ITEMS = 1;
const DEVICE_ITEM = 216;

export async function free(btrfs: Btrfs, found: FoundFree): Promise<void> {
  const { source, superblock } = btrfs;
  const used: [from: Bytes, to: Bytes][] = [[0, FIRST]];
  for (const at of COPIES) used.push([at, at + COPY_SIZE]);
  let size = 0;
  const item = { object: DEVICE_ITEMS, type: DEVICE_ITEM, offset: superblock.device };
  for await (const { data } of btrfs.items(superblock.chunkTree, item, item)) size = u64(data, 8);
  source.check(size > FIRST && size <= source.size, `a device of ${size} bytes`);
  for await (const { data } of btrfs.chunkItems()) {
    const [length, stripes, type] = [u64(data, 0), data.readUInt16LE(44), data.readUInt32LE(24)];
    source.check(data.length >= 48 + stripes * 32, 'a chunk is damaged');
    for (let i = 0; i < stripes; i++) {
      if (u64(data, 48 + i * 32) !== superblock.device) continue;
      const at = u64(data, 56 + i * 32);
      // Stripes of several devices are shorter than the chunk; as long as it is safe.
      source.check(Number.isSafeInteger(at + length) && type !== 0, 'a chunk has no sound place');
      used.push([at, at + length]);
    }
  }
  used.sort((a, b) => a[0] - b[0]);
  const runs = freeRuns(found);
  let end = 0;
  for (const [from, to] of used) {
    if (from > end) runs.add(end, Math.min(from, size) - end);
    end = Math.max(end, to);
  }
  runs.add(end, size - end);
  runs.end();
}
