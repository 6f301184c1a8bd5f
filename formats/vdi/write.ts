import type { ByteFile, Bytes, Disk } from '../../src/base/contracts.ts';
import { dataLength } from '../../src/base/extents.ts';
import { isZero } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import { BLOCK, headerFor, MAP_AT, planFor } from './layout.ts';

/** The next block that may hold data: a long stretch of zeros costs one question. */
function skipEmpty(disk: Disk, block: number): number {
  const extent = disk.extent(block * BLOCK, disk.size - block * BLOCK);
  if (extent?.kind !== 'zero') return block;
  const reach = block * BLOCK + extent.length;
  return reach === disk.size ? Math.ceil(reach / BLOCK) : Math.floor(reach / BLOCK);
}

/**
 * Writes the disk into an empty file as a dynamic VDI; blocks of zeros take no space. The header goes last, after
 * everything else is durable: a file that was cut off is not taken for a disk.
 * 'too-big' beyond 512 TiB; `signal` stops between blocks with its own reason.
 */
export async function writeVdi(
  disk: Disk,
  file: ByteFile,
  onProgress?: (bytesDone: Bytes, bytesTotal: Bytes) => void,
  signal?: AbortSignal,
): Promise<void> {
  const plan = planFor(disk.size);
  const map = new Uint8Array(plan.blocks * 4).fill(0xff);
  const entries = viewOf(map);
  const data = new Uint8Array(BLOCK);
  let places = 0;
  for (let block = skipEmpty(disk, 0); block < plan.blocks; block = skipEmpty(disk, block + 1)) {
    signal?.throwIfAborted();
    const start = block * BLOCK;
    const length = Math.min(BLOCK, disk.size - start);
    const used = await dataLength(disk, start, length);
    if (used > 0) await disk.read(data.subarray(0, used), start);
    data.fill(0, used);
    if (used > 0 && !isZero(data.subarray(0, used))) {
      await file.write(data, plan.dataAt + places * BLOCK);
      entries.setUint32(block * 4, places++, true);
    }
    onProgress?.(start + length, disk.size);
    if (start + length === disk.size) break;
  }
  signal?.throwIfAborted();
  await file.write(map, MAP_AT);
  await file.truncate(plan.dataAt + places * BLOCK);
  await file.sync();
  await file.write(headerFor(plan, 'dynamic', `file\n${disk.id}`, places), 0);
  await file.sync();
  onProgress?.(disk.size, disk.size);
}
