/**
 * Writing files of a backup into a folder of this machine. Every name is made through a handle of the folder it belongs
 * into, and nothing that exists is followed or replaced: whoever changes the folders meanwhile, and whatever the names
 * and links in the backup are, nothing is written outside.
 */
import fs from 'node:fs';
import type { Bytes } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { BATCH, FEW_RANGES, type PointDir, type PointLink, type PointNode } from '../files/point-files.ts';
import { copyFile, inside } from './copy-file.ts';

const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW } = fs.constants;

export interface Copied {
  files: number;
  bytes: Bytes;
  /** Files that were there already, with the same size and time. */
  kept: number;
  skipped: number;
}

export interface CopySpec {
  readonly signal: AbortSignal;
  /** Of the restore point. */
  readonly identity: string;
  readonly owners: boolean;
  /** Something that could not be copied; everything else still is. */
  failed(path: string, error: ImageError): void;
  progress(bytes: Bytes): void;
}

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

interface Target {
  /** The folder that it goes into, held open. */
  readonly folder: number;
  readonly name: string;
  /** For messages. */
  readonly path: string;
}

async function copyFolder(dir: PointDir, { folder, name, path }: Target, spec: CopySpec, done: Copied): Promise<void> {
  try {
    fs.mkdirSync(inside(folder, name), 0o700);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  const its = fs.openSync(inside(folder, name), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  try {
    const names = (await dir.list()).map(entry => entry.name);
    for (let from = 0; from < names.length; from += BATCH) {
      const batch = names.slice(from, from + BATCH);
      for (const [i, node] of (await dir.children(batch, FEW_RANGES)).entries()) {
        await copyNode(node, { folder: its, name: batch[i]!, path: `${path}/${batch[i]}` }, spec, done);
      }
    }
    if (spec.owners) fs.fchownSync(its, dir.uid, dir.gid);
    fs.fchmodSync(its, dir.mode & 0o777);
    fs.futimesSync(its, dir.mtime, dir.mtime);
  } finally {
    fs.closeSync(its);
  }
}

/** As it is stored: nothing here follows it. */
function copyLink(node: PointLink, { folder, name }: Target, spec: CopySpec, done: Copied): void {
  const link = inside(folder, name);
  const there = fs.lstatSync(link, { throwIfNoEntry: false })?.isSymbolicLink() === true;
  if (there && fs.readlinkSync(link) === node.target) {
    done.kept++;
    return;
  }
  fs.symlinkSync(node.target, link);
  if (spec.owners) fs.lchownSync(link, node.uid, node.gid);
  fs.lutimesSync(link, node.mtime, node.mtime);
  done.files++;
}

async function copyOne(node: PointNode, target: Target, spec: CopySpec, done: Copied): Promise<void> {
  switch (node.kind) {
    case 'file': {
      const end = await copyFile(node, target.folder, target.name, {
        signal: spec.signal,
        identity: `${spec.identity} ${target.path}`,
        owners: spec.owners,
        progress(bytes) {
          done.bytes += bytes;
          spec.progress(done.bytes);
        },
      });
      if (end === 'kept') done.kept++;
      else done.files++;
      return;
    }
    case 'dir':
      return copyFolder(node, target, spec, done);
    case 'link':
      return copyLink(node, target, spec, done);
    case 'other':
      done.skipped++;
  }
}

/** Copies a node, or tells the error that stands for it. What fails is told, and the rest goes on; a full disk ends it. */
export async function copyNode(
  node: PointNode | ImageError,
  target: Target,
  spec: CopySpec,
  done: Copied,
): Promise<void> {
  try {
    if (node instanceof ImageError) throw node;
    await copyOne(node, target, spec, done);
  } catch (error) {
    spec.signal.throwIfAborted();
    const failure = refused(error, target.path);
    if (failure.fault === 'no-space')
      throw new ImageError('no-space', 'no space left', { file: target.path }, { cause: error });
    spec.failed(target.path, failure);
  }
}
