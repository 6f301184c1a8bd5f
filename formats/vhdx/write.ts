import type { ByteFile, Bytes, Disk } from '../../src/base/contracts.ts';
import { dataLength } from '../../src/base/extents.ts';
import { isZero } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import { frame, planFor, putPresent, TABLE_AT } from './frame.ts';
import { ENTRY_SIZE, MIB, slotOf } from './structs.ts';

/** Read from the disk at a time; what is all zero of it stays a hole of the file. */
const CHUNK = MIB;

/**
 * Writes the disk into an empty file as a dynamic VHDX; blocks of zeros take no space. What makes the file a VHDX goes
 * last, after everything else is durable: a file that was cut off is not taken for a disk.
 * 'too-big' beyond 64 TiB; `signal` stops between parts with its own reason.
 */
export async function writeVhdx(
  disk: Disk,
  file: ByteFile,
  onProgress?: (bytesDone: Bytes, bytesTotal: Bytes) => void,
  signal?: AbortSignal,
): Promise<void> {
  const plan = planFor(disk);
  const { blockSize, blocks, ratio, dataAt } = plan;
  const table = new Uint8Array(plan.tableLength);
  const entries = viewOf(table);
  const buffer = new Uint8Array(CHUNK);
  let end = dataAt;
  for (let block = 0; block < blocks; block++) {
    const start = block * blockSize;
    const length = Math.min(blockSize, disk.size - start);
    const used = await dataLength(disk, start, length);
    let present = false;
    for (let within = 0; within < used; within += CHUNK) {
      signal?.throwIfAborted();
      const data = buffer.subarray(0, Math.min(CHUNK, used - within));
      await disk.read(data, start + within);
      if (isZero(data)) continue;
      await file.write(data, end + within);
      present = true;
    }
    if (present) {
      putPresent(entries, slotOf(block, ratio) * ENTRY_SIZE, end);
      end += blockSize;
    }
    signal?.throwIfAborted();
    onProgress?.(start + length, disk.size);
  }
  await file.truncate(end);
  await file.write(table, TABLE_AT);
  const structures = frame(plan, false, `vhdx file\n${disk.id}`);
  for (const { at, raw } of structures.toReversed()) {
    if (at === 0) await file.sync();
    await file.write(raw, at);
  }
  await file.sync();
}
