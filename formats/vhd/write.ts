import type { ByteFile, Bytes, Disk } from '../../src/base/contracts.ts';
import { dataLength } from '../../src/base/extents.ts';
import { filledRuns } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import { FOOTER_SIZE, HEADER_SIZE, SECTOR } from '../../src/base/vhd.ts';
import { BLOCK, checkedSize, footerFor, leadFor, planFor, uuidFor } from './layout.ts';

/** What is all zero of a block, in parts of this length, stays a hole of the file. */
const PART: Bytes = 256 * 1024;

/**
 * Writes the disk into an empty file as a dynamic VHD; blocks of zeros take no space. The footer goes last, after
 * everything else is durable: a file that was cut off is not taken for a disk.
 * 'too-big' beyond 2040 GiB; `signal` stops between blocks with its own reason.
 */
export async function writeVhd(
  disk: Disk,
  file: ByteFile,
  onProgress?: (bytesDone: Bytes, bytesTotal: Bytes) => void,
  signal?: AbortSignal,
): Promise<void> {
  const size = checkedSize(disk.size);
  const plan = planFor(size);
  const footer = footerFor(size, 'dynamic', uuidFor(`vhd file\n${disk.id}`));
  const table = new Uint8Array(plan.tableLength).fill(0xff);
  const entries = viewOf(table);
  const bitmap = new Uint8Array(plan.bitmapLength).fill(0xff);
  const data = new Uint8Array(BLOCK);
  let end = plan.first;
  for (let block = 0; block < plan.blocks; block++) {
    signal?.throwIfAborted();
    const start = block * BLOCK;
    const length = Math.min(BLOCK, disk.size - start);
    const used = await dataLength(disk, start, length);
    if (used > 0) await disk.read(data.subarray(0, used), start);
    let present = false;
    for (const [from, to] of filledRuns(data.subarray(0, used), PART)) {
      if (!present) await file.write(bitmap, end);
      present = true;
      await file.write(data.subarray(from, to), end + plan.bitmapLength + from);
    }
    if (present) {
      entries.setUint32(block * 4, end / SECTOR);
      end += plan.stride;
    }
    onProgress?.(start + length, disk.size);
  }
  signal?.throwIfAborted();
  await file.write(table, FOOTER_SIZE + HEADER_SIZE);
  await file.sync();
  await file.write(footer, end);
  await file.write(leadFor(footer, plan.blocks), 0);
  await file.sync();
}
