/** Restore: one disk of a restore point into a file that is complete, durable and read back, or not there. */
import type { ByteFile, Bytes, Disk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { filledRuns } from '../base/range.ts';
import { deviceBytes } from '../base/shared-bytes.ts';
import { Checkpoints, type Reached, readBackError, readerBack } from './checkpoints.ts';
import { addWindows, CHECK_WINDOW, ContentCheck, checkedDisk } from './content-check.ts';
import {
  dataWindows,
  firstDifference,
  HOLE,
  inLanes,
  readBlocks,
  readSparse,
  type Watch,
  type Window,
} from './sparse.ts';
import { writeBehind } from './write-behind.ts';

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
  /** Whether what was written is read back and compared. */
  readonly readBack: boolean;
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

const WINDOW = CHECK_WINDOW;
const LANES = 3;

interface Journal {
  readonly identity: string;
  readonly format: string;
  readonly size: Bytes;
  /** Everything before it is written and durable. A multiple of WINDOW, or the size. */
  readonly done: Bytes;
  /** Check value of what lies before `done`. */
  readonly content: string;
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
  const check = new ContentCheck();
  await using behind = writeBehind(file);
  const disk = spec.readBack ? checkedDisk(spec.disk, check) : spec.disk;
  await write(disk, behind, (done, total) => spec.progress(done, total), spec.signal);
  await behind.sync();
  // The medium takes the rest while it is read back.
  await both(behind.settle(), spec.readBack ? checkWritten(spec, check.value()) : null);
  return { resumedAt: 0, written: file.size };
}

/** Waits for both whatever happens to one: the file must not be closed under the other. */
async function both(first: Promise<void>, second: Promise<void> | null): Promise<void> {
  const ends = await Promise.allSettled([first, second]);
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
}

/** `content`: check value of what the writer read of the disk; null: it did not read it in order. */
async function checkWritten(spec: RestoreSpec, content: string | null): Promise<void> {
  spec.checking();
  await using again = await spec.reopen();
  const { disk } = again;
  if (content !== null && (await contentOf(spec, disk)) === content) return;
  const at = await firstDifference(spec.disk, disk, spec);
  if (at !== null) throw readBackError(spec.target.name, at);
}

/** Check value of what the disk holds. */
async function contentOf({ signal, progress }: Watch, disk: Disk): Promise<string | null> {
  const check = new ContentCheck();
  await addWindows(
    check,
    dataWindows([disk], WINDOW, 0, disk.size, signal),
    Array.from({ length: LANES }, () => deviceBytes(Math.min(WINDOW, disk.size))),
    (into, at) => readSparse(disk, into, at),
    end => progress(end, disk.size),
  );
  return check.value();
}

/** The journal's state when it belongs to this very restore and the file is there in full length; else the beginning. */
async function resumePoint(spec: RestoreSpec, file: ByteFile): Promise<Journal> {
  const { identity, format, disk } = spec;
  const fresh: Journal = { identity, format, size: disk.size, done: 0, content: '' };
  const text = await spec.target.readJournal();
  if (text === null || file.size !== disk.size) return fresh;
  let found: Partial<Journal> | null;
  try {
    found = JSON.parse(text) as Partial<Journal> | null;
  } catch {
    return fresh;
  }
  const { done, content } = found ?? {};
  const ours = found?.identity === identity && found.format === format && found.size === disk.size;
  const usable = Number.isSafeInteger(done) && done! >= 0 && (done! % WINDOW === 0 || done === disk.size);
  if (!ours || !usable || done! > disk.size || typeof content !== 'string') return fresh;
  return { ...fresh, done: done!, content };
}

/** Reads back what was written since the last call. */
function readBackOf(spec: RestoreSpec, file: ByteFile): (reached: Reached, watch: Watch) => Promise<void> {
  const { disk, target } = spec;
  const windows = (from: Bytes, to: Bytes, signal: AbortSignal) => dataWindows([disk], WINDOW, from, to, signal);
  const isSame = readerBack(file, windows, disk.size);
  return async (reached, watch) => {
    if (await isSame(reached, watch)) return;
    throw readBackError(target.name, (await firstDifference(disk, fileDisk(file, disk), watch)) ?? 0);
  };
}

async function restoreRaw(spec: RestoreSpec, file: ByteFile): Promise<RestoreResult> {
  const { disk, signal } = spec;
  const start = await resumePoint(spec, file);
  // What lies past the durable part may be torn, so it goes; the rest of the file is one hole then.
  await file.truncate(start.done);
  await file.truncate(disk.size);
  const check = new ContentCheck(start.content, start.done);
  const content = (): string => check.value() ?? '';
  const checkpoints = new Checkpoints({
    file,
    from: start.done,
    save: reached => spec.target.writeJournal(JSON.stringify({ ...start, ...reached } satisfies Journal)),
    readBack: spec.readBack ? readBackOf(spec, file) : null,
    signal,
  });
  let { done } = start;
  let written = 0;
  await checkpoints.now({ done, content: content() });
  const buffers = Array.from({ length: LANES }, () => deviceBytes(Math.min(WINDOW, disk.size)));
  try {
    await inLanes(
      dataWindows([disk], WINDOW, done, disk.size, signal),
      LANES,
      async ({ at, length }, lane) => {
        const data = buffers[lane]!.subarray(0, length);
        const filled = await readBlocks(disk, data, at);
        let wrote = 0;
        for (const part of filled) wrote += await writeData(file, inside(data, part), at + part.at);
        return { at, wrote, data, filled };
      },
      ({ at, wrote, data, filled }) => {
        written += wrote;
        for (const part of filled) check.add(inside(data, part), at + part.at);
        done = at + data.length;
        spec.progress(done, disk.size);
        checkpoints.begin(done, content);
      },
    );
    if (spec.readBack) spec.checking();
    await checkpoints.end({ done: disk.size, content: content() }, spec);
  } catch (error) {
    if (worthKeeping(spec, error) && done < disk.size)
      await checkpoints.now({ done, content: content() }).catch(() => {});
    throw error;
  } finally {
    await checkpoints.settle();
  }
  return { resumedAt: start.done, written };
}

const inside = (data: Uint8Array, { at, length }: Window): Uint8Array => data.subarray(at, at + length);

/** Writes the parts that are not zeros. Returns their length. */
async function writeData(file: ByteFile, data: Uint8Array, at: Bytes): Promise<Bytes> {
  let written = 0;
  for (const [from, to] of filledRuns(data, HOLE)) {
    await file.write(data.subarray(from, to), at + from);
    written += to - from;
  }
  return written;
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
