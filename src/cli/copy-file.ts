/**
 * One file of a backup into a folder that is held open. It is written aside, under a name that says from what, and gets
 * its own name when it is whole: a copy that was stopped is gone on with, and none that is not whole looks as if it were.
 */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import type { Bytes } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { readFullNow, writeFullNow } from '../base/full-io.ts';
import type { FileContent } from '../files/content.ts';
import type { PointFile } from '../files/point-files.ts';

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDWR } = fs.constants;
const PART = 1_048_576;

export interface FileCopy {
  readonly signal: AbortSignal;
  /** What tells this file of this point from all others. */
  readonly identity: string;
  /** Owners too: only root may. */
  readonly owners: boolean;
  /** Sets what the file has beside its content; called while it has no name yet. */
  describe(fd: number): Promise<void>;
  /** So many bytes more are in place. */
  progress(bytes: Bytes): void;
}

/** A name in a folder that is held open, whatever its path has become. */
export const inside = (folder: number, name: string): string => `/proc/self/fd/${folder}/${name}`;

const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? '';

/** The same size and time: an earlier run copied it. */
export function isThere(file: string, node: PointFile): boolean {
  const stat = fs.lstatSync(file, { throwIfNoEntry: false });
  return stat?.isFile() === true && stat.size === node.size && Math.abs(stat.mtimeMs - node.mtime.getTime()) < 1;
}

const partialName = (node: PointFile, identity: string): string => {
  const digest = createHash('sha256').update(`${identity}\n${node.size} ${node.mtime.getTime()}`).digest('hex');
  return `.bootmount-${digest.slice(0, 24)}.partial`;
};

/** What an earlier run left, or a new file. Only one of this user's that has no other name is gone on with. */
function openPartial(file: string): { readonly fd: number; readonly length: Bytes } {
  try {
    const fd = fs.openSync(file, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
    const stat = fs.fstatSync(fd);
    if (stat.isFile() && stat.nlink === 1 && stat.uid === process.geteuid?.()) return { fd, length: stat.size };
    fs.closeSync(fd);
    fs.unlinkSync(file);
  } catch (error) {
    if (codeOf(error) === 'ELOOP') fs.unlinkSync(file);
    else if (codeOf(error) !== 'ENOENT') throw error;
  }
  return { fd: fs.openSync(file, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600), length: 0 };
}

/** How far the partial file holds what it should: it may be from before a power loss. */
async function soundLength(fd: number, length: Bytes, content: FileContent, signal: AbortSignal): Promise<Bytes> {
  const end = Math.min(length, content.size);
  const [ours, theirs] = [new Uint8Array(Math.min(PART, end)), new Uint8Array(Math.min(PART, end))];
  for (let at = 0; at < end; at += PART) {
    signal.throwIfAborted();
    const here = ours.subarray(0, Math.min(PART, end - at));
    const there = theirs.subarray(0, here.length);
    readFullNow(fd, here, at, 'partial');
    await content.read(there, at);
    if (Buffer.compare(here, there) !== 0) return at;
  }
  return end;
}

async function fill(fd: number, from: Bytes, content: FileContent, name: string, spec: FileCopy): Promise<void> {
  const part = new Uint8Array(Math.min(PART, content.size));
  for (let at = from < content.size ? await content.seek(from, 'data') : null; at !== null && at < content.size; ) {
    spec.signal.throwIfAborted();
    const hole: Bytes = (await content.seek(at, 'hole')) ?? content.size;
    const target = part.subarray(0, Math.min(PART, hole - at));
    await content.read(target, at);
    writeFullNow(fd, target, at, name);
    spec.progress(target.length);
    at = at + target.length === hole ? await content.seek(hole, 'data') : at + target.length;
  }
}

/** Gives the file its name; one that is there stays, and is an error. */
function giveName(folder: number, partial: string, name: string): void {
  const [from, to] = [inside(folder, partial), inside(folder, name)];
  try {
    fs.linkSync(from, to);
    fs.unlinkSync(from);
  } catch (error) {
    if (!['EPERM', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'].includes(codeOf(error))) throw error;
    // A file system without hard links.
    if (fs.lstatSync(to, { throwIfNoEntry: false }) !== undefined) {
      throw Object.assign(new Error('exists'), { code: 'EEXIST' });
    }
    fs.renameSync(from, to);
  }
}

/** 'kept': it was there already. */
export async function copyFile(
  node: PointFile,
  folder: number,
  name: string,
  spec: FileCopy,
): Promise<'copied' | 'kept'> {
  const file = inside(folder, name);
  if (isThere(file, node)) return 'kept';
  if (fs.lstatSync(file, { throwIfNoEntry: false }) !== undefined) {
    throw new ImageError('exists', 'is there already and is another');
  }
  const content = await node.open();
  const partial = partialName(node, spec.identity);
  const { fd, length } = openPartial(inside(folder, partial));
  try {
    const sound = length === 0 ? 0 : await soundLength(fd, length, content, spec.signal);
    if (sound < length) fs.ftruncateSync(fd, sound);
    await fill(fd, sound, content, name, spec);
    fs.ftruncateSync(fd, content.size);
    await spec.describe(fd);
    if (spec.owners) fs.fchownSync(fd, node.uid, node.gid);
    fs.fchmodSync(fd, node.mode & 0o777);
    fs.futimesSync(fd, node.mtime, node.mtime);
    giveName(folder, partial, name);
    return 'copied';
  } catch (error) {
    // What cannot be read will not be readable the next time either; what was stopped is gone on with.
    const damaged = error instanceof ImageError && ['corrupt', 'unsupported', 'broken-chain'].includes(error.fault);
    if (damaged || fs.fstatSync(fd).size === 0) fs.rmSync(inside(folder, partial), { force: true });
    throw error;
  } finally {
    fs.closeSync(fd);
  }
}
