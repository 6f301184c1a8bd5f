/**
 * Writing files of a backup into a folder of this machine. Every name is made through a handle of the folder it belongs
 * into, and nothing that exists is followed or replaced: whoever changes the folders meanwhile, and whatever the names
 * and links in the backup are, nothing is written outside.
 */
import fs from 'node:fs';
import type { Bytes } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { writeFullNow } from '../base/io.ts';
import { contentSeek } from '../volumes/content.ts';
import type { VolumeDir, VolumeFile, VolumeNode } from '../volumes/contracts.ts';
import { shownName } from '../volumes/names.ts';

const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW, O_WRONLY, O_CREAT, O_EXCL } = fs.constants;
const PART = 1_048_576;

export interface Copied {
  files: number;
  bytes: Bytes;
  /** Files that were there already, with the same size and time. */
  kept: number;
  skipped: number;
}

export interface CopySpec {
  readonly signal: AbortSignal;
  /** Something that could not be copied; everything else still is. */
  failed(path: string, error: ImageError): void;
  progress(bytes: Bytes): void;
}

/** A name in a folder that is held open, whatever its path has become. */
const inside = (folder: number, name: string): string => `/proc/self/fd/${folder}/${name}`;

const refused = (cause: unknown, path: string): ImageError => {
  if (cause instanceof ImageError) return cause;
  const code = (cause as NodeJS.ErrnoException).code;
  if (code === undefined) throw cause;
  if (code === 'EEXIST') return new ImageError('exists', 'is there already and is another', { file: path }, { cause });
  if (code === 'ELOOP' || code === 'ENOTDIR')
    return new ImageError('exists', 'is no folder', { file: path }, { cause });
  const full = code === 'ENOSPC' || code === 'EDQUOT';
  return new ImageError(
    full ? 'no-space' : 'io',
    full ? 'no space left' : `cannot be written (${code})`,
    { file: path },
    { cause },
  );
};

/** The same size and time: an earlier run copied it. */
function isThere(file: string, node: VolumeFile): boolean {
  const stat = fs.lstatSync(file, { throwIfNoEntry: false });
  return stat?.isFile() === true && stat.size === node.size && Math.abs(stat.mtimeMs - node.mtime.getTime()) < 1000;
}

async function copyFile(node: VolumeFile, folder: number, name: string, spec: CopySpec, done: Copied): Promise<void> {
  const file = inside(folder, name);
  if (isThere(file, node)) {
    done.kept++;
    return;
  }
  const content = await node.open();
  const fd = fs.openSync(file, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  try {
    const part = new Uint8Array(PART);
    for (let at = contentSeek(content, 0, 'data'); at !== null && at < content.size; ) {
      spec.signal.throwIfAborted();
      const hole = contentSeek(content, at, 'hole') ?? content.size;
      const target = part.subarray(0, Math.min(PART, hole - at));
      await content.read(target, at);
      writeFullNow(fd, target, at, name);
      done.bytes += target.length;
      spec.progress(done.bytes);
      at = at + target.length === hole ? contentSeek(content, hole, 'data') : at + target.length;
    }
    fs.ftruncateSync(fd, content.size);
    fs.fchmodSync(fd, node.mode & 0o777);
    fs.futimesSync(fd, node.mtime, node.mtime);
    done.files++;
  } catch (error) {
    // A file of which a part is missing must not look like one that was copied.
    fs.rmSync(file, { force: true });
    throw error;
  } finally {
    fs.closeSync(fd);
  }
}

async function copyFolder(
  dir: VolumeDir,
  folder: number,
  name: string,
  path: string,
  spec: CopySpec,
  done: Copied,
): Promise<void> {
  try {
    fs.mkdirSync(inside(folder, name), 0o700);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  const its = fs.openSync(inside(folder, name), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  try {
    for (const entry of await dir.list()) {
      const shown = shownName(entry.name);
      await copyNode(() => entry.node(), its, shown, `${path}/${shown}`, spec, done);
    }
    fs.fchmodSync(its, dir.mode & 0o777);
    fs.futimesSync(its, dir.mtime, dir.mtime);
  } finally {
    fs.closeSync(its);
  }
}

async function copyOne(
  node: VolumeNode,
  folder: number,
  name: string,
  path: string,
  spec: CopySpec,
  done: Copied,
): Promise<void> {
  switch (node.kind) {
    case 'file':
      return copyFile(node, folder, name, spec, done);
    case 'dir':
      return copyFolder(node, folder, name, path, spec, done);
    case 'link': {
      const target = await node.target();
      const there = fs.lstatSync(inside(folder, name), { throwIfNoEntry: false })?.isSymbolicLink() === true;
      if (there && fs.readlinkSync(inside(folder, name)) === target) done.kept++;
      else {
        fs.symlinkSync(target, inside(folder, name));
        done.files++;
      }
      return;
    }
    case 'other':
      done.skipped++;
  }
}

/** Copies what `open` gives into the open folder. What fails is told, and the rest goes on. */
export async function copyNode(
  open: () => Promise<VolumeNode>,
  folder: number,
  name: string,
  path: string,
  spec: CopySpec,
  done: Copied,
): Promise<void> {
  try {
    await copyOne(await open(), folder, name, path, spec, done);
  } catch (error) {
    spec.signal.throwIfAborted();
    const failure = refused(error, path);
    if (failure.fault === 'no-space') throw failure;
    spec.failed(path, failure);
  }
}
