/**
 * Names in a local folder, and what the system says about itself and its programs: what `io.ts` needs beside it for
 * files that are kept (overlays, trackers, locks).
 */
import fs from 'node:fs';
import path from 'node:path';
import type { Bytes } from './contracts.ts';
import { ImageError } from './errors.ts';
import { syncData, writeFullNow } from './full-io.ts';
import { LocalFile } from './io.ts';

const { O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW } = fs.constants;

const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? 'error';

const failed = (what: string, file: string, cause: unknown): ImageError => {
  const code = codeOf(cause);
  if (code === 'ENOSPC' || code === 'EDQUOT') return new ImageError('no-space', 'no space left', { file }, { cause });
  if (code === 'ENOENT') return new ImageError('not-found', 'no such file', { file }, { cause });
  if (code === 'EROFS') return new ImageError('read-only', 'the file system is read-only', { file }, { cause });
  return new ImageError('io', `${what} failed (${code})`, { file }, { cause });
};

/** Opens a regular file for reading and writing without waiting; 'create' fails with 'exists'. Links are not followed. */
export function openFileNow(file: string, mode: 'write' | 'create', name = file): LocalFile {
  let fd: number;
  try {
    fd = fs.openSync(file, mode === 'create' ? O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW : O_RDWR | O_NOFOLLOW, 0o600);
  } catch (cause) {
    if (codeOf(cause) === 'EEXIST')
      throw new ImageError('exists', 'the file exists already', { file: name }, { cause });
    throw failed('open', name, cause);
  }
  const stat = fs.fstatSync(fd);
  if (!stat.isFile()) {
    fs.closeSync(fd);
    throw new ImageError('unsupported', 'not a regular file', { file: name });
  }
  return new LocalFile(fd, name, stat.size);
}

/** Bytes that a file takes up on its disk: less than its size where it has holes. */
export function allocatedNow(fd: number): Bytes {
  return fs.fstatSync(fd).blocks * 512;
}

/** Space of the file system that holds a folder, in bytes: what an ordinary user may still take, and all. */
export function spaceNow(folder: string): { readonly free: Bytes; readonly total: Bytes } {
  try {
    const { bavail, blocks, bsize } = fs.statfsSync(folder);
    return { free: bavail * bsize, total: blocks * bsize };
  } catch (cause) {
    throw failed('statfs', folder, cause);
  }
}

/** The whole of a small file; null when there is none. A larger one than `limit` is 'corrupt'. */
export function readSmallFile(file: string, limit: Bytes): Uint8Array | null {
  try {
    if (fs.statSync(file).size > limit) {
      throw new ImageError('corrupt', `larger than ${limit} bytes, which such a file never is`, { file });
    }
    return fs.readFileSync(file);
  } catch (error) {
    if (error instanceof ImageError) throw error;
    if (codeOf(error) === 'ENOENT') return null;
    throw failed('read', file, error);
  }
}

/** Makes a folder that only its owner may enter, and those above it. */
export function makeFolder(folder: string): void {
  try {
    fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw failed('mkdir', folder, cause);
  }
}

/** File names in a folder, in no order; none when there is no such folder. */
export function namesIn(folder: string): readonly string[] {
  try {
    return fs.readdirSync(folder);
  } catch (cause) {
    if (codeOf(cause) === 'ENOENT') return [];
    throw failed('readdir', folder, cause);
  }
}

/** The path of a program that this user may run, in the first of the folders that has it; null: none has. */
export const findProgram = (name: string, folders: readonly string[]): string | null =>
  folders.map(folder => path.join(folder, name)).find(isProgram) ?? null;

function isProgram(file: string): boolean {
  try {
    fs.accessSync(file, fs.constants.X_OK);
    return fs.statSync(file).isFile();
  } catch {
    return false;
  }
}

/** Removes a name; a missing one is fine. */
export function removeFile(file: string): void {
  try {
    fs.rmSync(file, { force: true });
  } catch (cause) {
    throw failed('unlink', file, cause);
  }
}

/** Replaces `to`. Not durable: a folder is synced apart. */
export function renameFile(from: string, to: string): void {
  try {
    fs.renameSync(from, to);
  } catch (cause) {
    throw failed('rename', from, cause);
  }
}

/** Makes a created, renamed or removed name durable. */
export async function syncDirectory(folder: string): Promise<void> {
  const fd = fs.openSync(folder, O_RDONLY);
  try {
    await new Promise<void>((resolve, reject) => {
      fs.fsync(fd, error => (error ? reject(failed('fsync', folder, error)) : resolve()));
    });
  } finally {
    fs.closeSync(fd);
  }
}

/** Writes a small file so that, after any crash, either the old or the new content is there. */
export async function replaceFile(file: string, content: string | Uint8Array, mode = 0o600): Promise<void> {
  const temporary = `${file}.new-${process.pid}`;
  const bytes = typeof content === 'string' ? new TextEncoder().encode(content) : content;
  const fd = fs.openSync(temporary, 'w', mode);
  try {
    writeFullNow(fd, bytes, 0, temporary);
    await syncData(fd, temporary);
  } catch (error) {
    fs.rmSync(temporary, { force: true });
    throw error;
  } finally {
    fs.closeSync(fd);
  }
  fs.renameSync(temporary, file);
  await syncDirectory(file.slice(0, Math.max(1, file.lastIndexOf('/'))));
}

/**
 * Writes `content` under a name that must not exist yet; false when it does. The name appears together with its
 * content (a file written aside, then `link`), which is what makes it good for a lock.
 */
export function writeNew(file: string, content: string): boolean {
  const aside = path.join(path.dirname(file), `.${path.basename(file)}-${process.pid}-${crypto.randomUUID()}`);
  try {
    fs.writeFileSync(aside, content, { flag: 'wx', mode: 0o600 });
    fs.linkSync(aside, file);
    return true;
  } catch (cause) {
    if (codeOf(cause) === 'EEXIST') return false;
    throw failed('link', file, cause);
  } finally {
    fs.rmSync(aside, { force: true });
  }
}

/** Changes with every start of the machine. Whoever reads the same one still shares the page cache of the writer. */
export function bootId(): string {
  return fs.readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
}

/** Number of the pid namespace: a pid says nothing to a program in another one. */
export function pidNamespace(): string {
  return fs.readlinkSync('/proc/self/ns/pid');
}

/**
 * When the program with this pid started, in clock ticks since boot (proc(5), `stat` field 22); null when it has ended.
 * pid and start together name a program for as long as the machine runs. One whose first thread has ended while another
 * is still stuck in the kernel has not ended: that thread can still write.
 */
export function startOf(pid: number): string | null {
  let stat: string;
  let threads: number;
  try {
    stat = fs.readFileSync(`/proc/${pid}/stat`, 'latin1');
    threads = fs.readdirSync(`/proc/${pid}/task`).length;
  } catch {
    return null;
  }
  // The second field is the program's name in brackets, which may itself hold brackets and spaces.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  if ((fields[0] === 'Z' || fields[0] === 'X') && threads <= 1) return null;
  return fields[19] ?? null;
}
