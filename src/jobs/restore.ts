/** Restore: one disk of a restore point into a file that is complete, durable and read back, or not there. */
import { hash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import type { ByteFile, Bytes, Disk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { isZero } from '../base/range.ts';
import { dataWindows, firstDifference, inLanes, readSparse, type Watch } from './sparse.ts';

/** Writes a whole disk file of some format, from the start. */
export type DiskWriter = (
  disk: Disk,
  file: ByteFile,
  onProgress?: (done: Bytes, total: Bytes) => void,
  signal?: AbortSignal,
) => Promise<void>;

/** Where a restore goes: a file under a name of its own until it is finished, and a small journal beside it. */
export interface RestoreTarget {
  /** For messages. */
  readonly name: string;
  /** The unfinished file: the one from an earlier run, or a new one. */
  open(): Promise<ByteFile>;
  readJournal(): Promise<string | null>;
  /** Durable when it resolves. */
  writeJournal(text: string): Promise<void>;
  /** Gives the file its name, durably, and removes the journal. 'exists' when the name is taken meanwhile. */
  finish(): Promise<void>;
  /** Removes the unfinished file and the journal. */
  discard(): Promise<void>;
}

export interface RestoreSpec extends Watch {
  readonly disk: Disk;
  /** What is restored: an unfinished file of anything else is not continued. */
  readonly identity: string;
  readonly format: string;
  readonly target: RestoreTarget;
  /** null: raw, which is written here, sparse and resumable. */
  readonly write: DiskWriter | null;
  /** Opens the unfinished file by its format, for reading it back. Not used for raw. */
  reopen(): Promise<{ readonly disk: Disk } & AsyncDisposable>;
  /** Called when writing ends and reading back begins, with the bytes to read. */
  checking(): void;
}

export interface RestoreResult {
  /** Where an earlier run was continued; 0 when there was nothing to continue. */
  readonly resumedAt: Bytes;
  /** Bytes written as data. */
  readonly written: Bytes;
}

const WINDOW = 4 * 2 ** 20;
const LANES = 3;
/** Runs of zeros of this length become holes. */
const HOLE = 65_536;
/** After so much the file is made durable and the journal says so: at most this is done again after a crash. */
const CHECKPOINT: Bytes = 256 * 2 ** 20;

interface Journal {
  readonly identity: string;
  readonly format: string;
  readonly size: Bytes;
  /** Everything before it is written and durable. A multiple of WINDOW, or the size. */
  readonly done: Bytes;
  /** Running check value of the windows before `done`. */
  readonly check: string;
}

/** Throws 'corrupt' when what was read back is not what was written. */
export async function restore(spec: RestoreSpec): Promise<RestoreResult> {
  await using file = await spec.target.open();
  try {
    const result = spec.write === null ? await restoreRaw(spec, file) : await restoreWith(spec, spec.write, file);
    spec.signal.throwIfAborted();
    await spec.target.finish();
    return result;
  } catch (error) {
    if (!worthKeeping(spec, error)) await spec.target.discard();
    throw error;
  }
}

/** What is written so far serves the next run when nothing is wrong with it: stopped by the user, or by the target. */
function worthKeeping(spec: RestoreSpec, error: unknown): boolean {
  if (spec.write !== null) return false;
  return spec.signal.aborted || (error instanceof ImageError && ['no-space', 'io', 'exists'].includes(error.fault));
}

async function restoreWith(spec: RestoreSpec, write: DiskWriter, file: ByteFile): Promise<RestoreResult> {
  await file.truncate(0);
  await write(spec.disk, file, (done, total) => spec.progress(done, total), spec.signal);
  await file.sync();
  spec.checking();
  await using again = await spec.reopen();
  const at = await firstDifference(spec.disk, again.disk, spec);
  if (at !== null) throw readBackError(spec.target.name, at);
  return { resumedAt: 0, written: file.size };
}

const readBackError = (file: string, at: Bytes): ImageError =>
  new ImageError('corrupt', `read back, the disk differs from the restore point at guest offset ${at}`, { file });

/** A CRC-32 for each window: what is looked for is a medium that errs, and this costs less than copying the window. */
const extend = (before: string, at: Bytes, data: Uint8Array): string =>
  hash('sha256', `${before} ${at}:${crc32(data)}`);

/** The journal's state when it belongs to this very restore and the file is there in full length; else the beginning. */
async function resumePoint(spec: RestoreSpec, file: ByteFile): Promise<Journal> {
  const { identity, format, disk } = spec;
  const fresh: Journal = { identity, format, size: disk.size, done: 0, check: '' };
  const text = await spec.target.readJournal();
  if (text === null || file.size !== disk.size) return fresh;
  let found: Partial<Journal> | null;
  try {
    found = JSON.parse(text) as Partial<Journal> | null;
  } catch {
    return fresh;
  }
  const { done, check } = found ?? {};
  const ours = found?.identity === identity && found.format === format && found.size === disk.size;
  const usable = Number.isSafeInteger(done) && done! >= 0 && (done! % WINDOW === 0 || done === disk.size);
  if (!ours || !usable || done! > disk.size || typeof check !== 'string') return fresh;
  return { ...fresh, done: done!, check };
}

async function restoreRaw(spec: RestoreSpec, file: ByteFile): Promise<RestoreResult> {
  const { disk, target, signal } = spec;
  const start = await resumePoint(spec, file);
  // What lies past the durable part may be torn, so it goes; the rest of the file is one hole then.
  await file.truncate(start.done);
  await file.truncate(disk.size);
  let { done, check } = start;
  let checkpointed = done;
  let written = 0;
  const checkpoint = async (): Promise<void> => {
    const reached = { ...start, done, check };
    await file.sync();
    await target.writeJournal(JSON.stringify(reached));
    checkpointed = reached.done;
  };
  await checkpoint();
  const buffers = Array.from({ length: LANES }, () => new Uint8Array(Math.min(WINDOW, disk.size)));
  try {
    await inLanes(
      dataWindows([disk], WINDOW, done, disk.size, signal),
      LANES,
      async ({ at, length }, lane) => {
        const data = buffers[lane]!.subarray(0, length);
        await readSparse(disk, data, at);
        return { at, length, wrote: await writeData(file, data, at), data };
      },
      async ({ at, length, wrote, data }) => {
        written += wrote;
        check = extend(check, at, data);
        done = at + length;
        spec.progress(done, disk.size);
        if (done - checkpointed >= CHECKPOINT) await checkpoint();
      },
    );
    done = disk.size;
  } catch (error) {
    if (worthKeeping(spec, error)) await checkpoint().catch(() => {});
    throw error;
  }
  await checkpoint();
  spec.checking();
  await checkRaw(spec, file, check);
  return { resumedAt: start.done, written };
}

/** Writes the parts that are not zeros. Returns their length. */
async function writeData(file: ByteFile, data: Uint8Array, at: Bytes): Promise<Bytes> {
  let written = 0;
  for (let from = 0; from < data.length; ) {
    let to = from;
    while (to < data.length && !isZero(data.subarray(to, to + HOLE))) to += HOLE;
    if (to > from) {
      const part = data.subarray(from, to);
      await file.write(part, at + from);
      written += part.length;
    }
    from = to + HOLE;
  }
  return written;
}

/** Reads back every window that may hold data and compares the running check values; the rest was never written to. */
async function checkRaw(spec: RestoreSpec, file: ByteFile, expected: string): Promise<void> {
  const { disk, signal } = spec;
  const buffers = Array.from({ length: LANES }, () => new Uint8Array(Math.min(WINDOW, disk.size)));
  let check = '';
  await inLanes(
    dataWindows([disk], WINDOW, 0, disk.size, signal),
    LANES,
    async ({ at, length }, lane) => {
      const data = buffers[lane]!.subarray(0, length);
      await file.read(data, at);
      return { at, data };
    },
    ({ at, data }) => {
      check = extend(check, at, data);
      spec.progress(at + data.length, disk.size);
    },
  );
  if (check === expected) return;
  const at = await firstDifference(disk, fileDisk(file, disk), spec);
  throw readBackError(spec.target.name, at ?? 0);
}

const fileDisk = (file: ByteFile, like: Disk): Disk => ({
  id: file.name,
  size: file.size,
  sectorSize: like.sectorSize,
  extent: (_at, limit) => ({ kind: 'data', length: limit }),
  load: async () => {},
  read: (into, at) => file.read(into, at),
  async [Symbol.asyncDispose]() {},
});
