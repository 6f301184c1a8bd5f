/** Writing a disk as one sparse VMDK file. */
import type { ByteFile, Bytes, Disk } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { filledRuns, roundDown, roundUp } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import { directoryEntries, GRAIN, leadFor, PER_TABLE, planFor, type SparsePlan, TABLE } from './layout.ts';
import { baseName } from './names.ts';
import { SECTOR } from './structs.ts';
import { harmless } from './text.ts';

/** Read from the disk at a time; as long as one table reaches at most. */
const CHUNK: Bytes = 2_097_152;

/** The table of the grains that are written now; the one before it goes to the file in both places. */
function tableStore(file: ByteFile, plan: SparsePlan) {
  const entries = new Uint8Array(TABLE);
  const view = viewOf(entries);
  let number = -1;
  const flush = async (): Promise<void> => {
    if (number < 0) return;
    await file.write(entries, plan.redundantTablesAt + number * TABLE);
    await file.write(entries, plan.tablesAt + number * TABLE);
  };
  return {
    flush,
    async put(grain: number, at: Bytes): Promise<void> {
      const table = Math.floor(grain / PER_TABLE);
      if (table !== number) {
        await flush();
        entries.fill(0);
        number = table;
      }
      view.setUint32((grain % PER_TABLE) * 4, at / SECTOR, true);
    },
  };
}

async function writeDirectory(file: ByteFile, at: Bytes, tablesAt: Bytes, tables: number): Promise<void> {
  const directory = new Uint8Array(tables * 4);
  directoryEntries(tablesAt, tables)(viewOf(directory), 0, tables);
  await file.write(directory, at);
}

/**
 * Writes all of `disk` into the empty file `file`, without its zeros. The header goes last, after everything else is
 * durable: a file that was cut off is not taken for a disk. 'too-big' beyond 2 TiB, before anything is written;
 * `signal` stops between reads with its own reason.
 */
export async function writeVmdk(
  disk: Disk,
  file: ByteFile,
  onProgress?: (bytesDone: Bytes, bytesTotal: Bytes) => void,
  signal?: AbortSignal,
): Promise<void> {
  const plan = planFor(disk.size);
  if (plan === null) {
    throw new ImageError(
      'too-big',
      `a VMDK file holds at most 2 TiB, the disk has ${disk.size} bytes: use raw or qcow2`,
    );
  }
  const tables = tableStore(file, plan);
  const buffer = new Uint8Array(CHUNK);
  let end = plan.dataAt;
  for (let at = 0; at < disk.size; ) {
    signal?.throwIfAborted();
    const extent = disk.extent(at, disk.size - at);
    if (extent === null) {
      await disk.load(at, disk.size - at);
      continue;
    }
    const reach = at + extent.length;
    const skipTo = reach >= disk.size ? disk.size : roundDown(reach, GRAIN);
    if (extent.kind === 'zero' && skipTo > at) at = skipTo;
    else {
      const length = Math.min(CHUNK, disk.size - at, roundUp(extent.length, GRAIN));
      await disk.read(buffer.subarray(0, length), at);
      const padded = roundUp(length, GRAIN);
      buffer.fill(0, length, padded);
      end = await appendGrains(file, tables, at / GRAIN, buffer.subarray(0, padded), end);
      at += length;
    }
    onProgress?.(at, disk.size);
  }
  signal?.throwIfAborted();
  await tables.flush();
  await writeDirectory(file, plan.redundantAt, plan.redundantTablesAt, plan.tables);
  await writeDirectory(file, plan.directoryAt, plan.tablesAt, plan.tables);
  await file.truncate(end);
  await file.sync();
  await file.write(leadFor(plan, harmless(baseName(file.name)), `file\n${disk.id}`), 0);
  await file.sync();
}

/** Appends the grains that are not zero, neighbours in one write; gives the new end of the file. */
async function appendGrains(
  file: ByteFile,
  tables: ReturnType<typeof tableStore>,
  first: number,
  data: Uint8Array,
  end: Bytes,
): Promise<Bytes> {
  for (const [from, to] of filledRuns(data, GRAIN)) {
    for (let at = from; at < to; at += GRAIN) await tables.put(first + at / GRAIN, end + at - from);
    await file.write(data.subarray(from, to), end);
    end += to - from;
  }
  return end;
}
