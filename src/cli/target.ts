/** A restored file while it grows: `FILE.partial` and its journal, then `FILE`. */
import fs from 'node:fs';
import path from 'node:path';
import type { Bytes } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { replaceFile, syncDirectory } from '../base/files.ts';
import { type LocalFile, openFile, writtenAside } from '../base/io.ts';
import { openDiskFile } from '../chain/file.ts';
import type { RestoreTarget } from '../jobs/restore.ts';
import { adapters } from '../registry.ts';
import { localFileStore } from '../stores/local.ts';
import { keyring } from './secrets.ts';

const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException).code;
const JOURNAL_LIMIT = 65_536;

/** Refuses what is there already, unless `force`; and what is no regular file, always. */
function checkFree(file: string, force: boolean): void {
  const stat = fs.lstatSync(file, { throwIfNoEntry: false });
  if (stat === undefined) return;
  if (!stat.isFile() && !stat.isSymbolicLink()) {
    throw new ImageError('unsupported', 'only a regular file can be restored to', { file });
  }
  if (!force) throw new ImageError('exists', 'the file exists already', { file }, { hint: '--force overwrites it' });
}

/** The partial file opened for writing, and only if it is our own kind: a plain file with one name, no link that was planted. */
async function openPartial(partial: string): Promise<LocalFile> {
  const there = fs.lstatSync(partial, { throwIfNoEntry: false });
  if (there === undefined) return openFile(partial, 'create');
  if (!there.isFile() || there.nlink !== 1) {
    throw new ImageError('exists', 'something else has the name of the unfinished file', { file: partial });
  }
  const file = await openFile(partial, 'write');
  const opened = fs.fstatSync(file.fd);
  if (opened.ino === there.ino && opened.dev === there.dev) return file;
  await file[Symbol.asyncDispose]();
  throw new ImageError('busy', 'the unfinished file was exchanged while it was opened', { file: partial });
}

/** Gives `from` the name `to` without ever replacing a file that appeared there. */
function renameToFree(from: string, to: string): void {
  try {
    fs.linkSync(from, to);
  } catch (error) {
    if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'EMLINK'].includes(codeOf(error) ?? '')) {
      if (codeOf(error) !== 'EEXIST') throw error;
      const hint = '--force overwrites it; what was restored is kept and need not be read again';
      throw new ImageError('exists', 'a file of that name was made meanwhile', { file: to }, { hint });
    }
    // No hard links on this file system.
    checkFree(to, false);
    fs.renameSync(from, to);
    return;
  }
  fs.unlinkSync(from);
}

/** Throws 'exists', 'unsupported', or 'not-found' when the folder is missing. */
export function restoreTarget(file: string, force: boolean): RestoreTarget & { readonly partial: string } {
  const partial = `${file}.partial`;
  const journal = `${partial}.json`;
  const folder = path.dirname(path.resolve(file));
  checkFree(file, force);
  if (!fs.statSync(folder, { throwIfNoEntry: false })?.isDirectory()) {
    throw new ImageError('not-found', 'there is no such folder', { file: folder });
  }
  return {
    name: file,
    partial,
    async open() {
      const opened = await openPartial(partial);
      opened.bypassCache();
      return writtenAside(opened);
    },
    async readJournal() {
      const stat = fs.lstatSync(journal, { throwIfNoEntry: false });
      if (stat === undefined || !stat.isFile() || stat.size > JOURNAL_LIMIT) return null;
      return fs.readFileSync(journal, 'utf8');
    },
    writeJournal: text => replaceFile(path.resolve(journal), `${text}\n`),
    async finish() {
      if (force) fs.renameSync(partial, file);
      else renameToFree(partial, file);
      fs.rmSync(journal, { force: true });
      await syncDirectory(folder);
    },
    async discard() {
      fs.rmSync(partial, { force: true });
      fs.rmSync(journal, { force: true });
    },
  };
}

/** What was written so far, opened by its format. It is read from the device, not from what the host has of it in memory. */
export const openWritten = (partial: string): ReturnType<typeof openDiskFile> =>
  openDiskFile(path.basename(partial), localFileStore(partial, true), adapters, keyring({}, { ask: false }));

export interface InPlaceTarget extends AsyncDisposable {
  readonly file: LocalFile;
}

/**
 * A file or block device that is there, for writing over. A device that is mounted, or otherwise in use by the system, is
 * refused ('busy'); a file is made as long as the disk.
 */
export async function inPlaceTarget(file: string, size: Bytes): Promise<InPlaceTarget> {
  const stat = fs.statSync(file, { throwIfNoEntry: false });
  if (stat === undefined) {
    throw new ImageError('not-found', 'there is no such file', { file }, { hint: 'leave out --in-place' });
  }
  let guard: number | null = null;
  if (stat.isBlockDevice()) {
    try {
      // On a device, and without O_CREAT, O_EXCL means: nobody else in the kernel has it (open(2)).
      guard = fs.openSync(file, fs.constants.O_RDWR | fs.constants.O_EXCL);
    } catch (cause) {
      if (codeOf(cause) === 'EBUSY') throw new ImageError('busy', 'the device is in use', { file }, { cause });
      throw cause;
    }
  }
  try {
    const opened = await openFile(file, 'write');
    if (guard === null && opened.size !== size) await opened.truncate(size);
    return {
      file: opened,
      async [Symbol.asyncDispose]() {
        await opened[Symbol.asyncDispose]();
        if (guard !== null) fs.closeSync(guard);
      },
    };
  } catch (error) {
    if (guard !== null) fs.closeSync(guard);
    throw error;
  }
}
