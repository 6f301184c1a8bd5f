/**
 * Writing files of a backup into a folder of this machine. Every name is made through a handle of the folder it belongs
 * into, and nothing that exists is followed or replaced: whoever changes the folders meanwhile, and whatever the names
 * and links in the backup are, nothing is written outside.
 */
import fs from 'node:fs';
import type { Bytes } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { TYPE_BITS, TYPE_MASK } from '../base/file-types.ts';
import { native } from '../base/native.ts';
import {
  BATCH,
  FEW_RANGES,
  type PointDir,
  type PointFile,
  type PointLink,
  type PointNode,
  type PointOther,
} from '../files/point-files.ts';
import { shownName } from '../volumes/names.ts';
import { copyFile, inside, isThere } from './copy-file.ts';
import type { CopiedLinks } from './copy-links.ts';
import { copyXattrs } from './copy-xattrs.ts';

const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW } = fs.constants;

export interface Copied {
  files: number;
  bytes: Bytes;
  /** Files that were there already, with the same size and time. */
  kept: number;
  /** Devices, pipes and sockets that were not made. */
  skipped: number;
  /** Names of files that were copied under another one, which are no further copies. */
  links: number;
  /** Alternate data streams that were not copied. */
  streams: number;
  /** Extended attributes that were not kept. */
  attributes: number;
}

export const nothingCopied = (): Copied => ({
  files: 0,
  bytes: 0,
  kept: 0,
  skipped: 0,
  links: 0,
  streams: 0,
  attributes: 0,
});

export interface CopySpec {
  readonly signal: AbortSignal;
  /** Of the restore point. */
  readonly identity: string;
  readonly owners: boolean;
  /** Makes devices, pipes and sockets: only root may. */
  readonly devices: boolean;
  /** Copies alternate data streams, as `file:stream` beside their file. */
  readonly streams: boolean;
  readonly links: CopiedLinks;
  /** A device, pipe or socket that is not made. */
  skipped(path: string, what: string): void;
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
        const target = { folder: its, name: batch[i]!, path: `${path}/${batch[i]}` };
        await copyNode(node, target, spec, done);
        if (!(node instanceof ImageError)) await copyStreams(dir, node, target, spec, done);
      }
    }
    done.attributes += await copyXattrs(dir, its, spec.owners);
    if (spec.owners) fs.fchownSync(its, dir.uid, dir.gid);
    fs.fchmodSync(its, dir.mode & 0o777);
    fs.futimesSync(its, dir.mtime, dir.mtime);
  } finally {
    fs.closeSync(its);
  }
}

/** As it is stored: nothing here follows it. */
async function copyLink(node: PointLink, { folder, name }: Target, spec: CopySpec, done: Copied): Promise<void> {
  const link = inside(folder, name);
  const there = fs.lstatSync(link, { throwIfNoEntry: false })?.isSymbolicLink() === true;
  if (there && fs.readlinkSync(link) === node.target) {
    done.kept++;
    return;
  }
  fs.symlinkSync(node.target, link);
  done.attributes += await copyXattrs(node, link, spec.owners);
  if (spec.owners) fs.lchownSync(link, node.uid, node.gid);
  fs.lutimesSync(link, node.mtime, node.mtime);
  done.files++;
}

async function copyContent(node: PointFile, target: Target, spec: CopySpec, done: Copied): Promise<void> {
  const { folder, name, path } = target;
  if (!isThere(inside(folder, name), node) && spec.links.link(node, folder, name)) {
    done.links++;
    return;
  }
  const end = await copyFile(node, folder, name, {
    signal: spec.signal,
    identity: `${spec.identity} ${path}`,
    owners: spec.owners,
    async describe(fd) {
      done.attributes += await copyXattrs(node, fd, spec.owners);
    },
    progress(bytes) {
      done.bytes += bytes;
      spec.progress(done.bytes);
    },
  });
  if (end === 'kept') done.kept++;
  else done.files++;
  spec.links.made(node, folder, path);
}

/** Alternate data streams of a file or folder that lies in `dir`: copied beside it where they are wanted, else counted. */
async function copyStreams(
  dir: PointDir,
  node: PointNode,
  target: Target,
  spec: CopySpec,
  done: Copied,
): Promise<void> {
  if ((node.kind !== 'file' && node.kind !== 'dir') || node.streams === undefined) return;
  for (const stream of await node.streams()) {
    const name = `${target.name}:${shownName(stream)}`;
    const its = spec.streams ? await dir.child(`${target.name}:${stream}`) : null;
    if (its?.kind !== 'file') done.streams++;
    else
      await copyNode({ ...its, id: '' }, { ...target, name, path: `${target.path}:${shownName(stream)}` }, spec, done);
  }
}

const CALLED = { fifo: 'a pipe', char: 'a character device', block: 'a block device', socket: 'a socket' } as const;

function makeDevice(node: PointOther, { folder, name, path }: Target, spec: CopySpec, done: Copied): void {
  const { device } = node;
  if (!spec.devices || device === null) {
    done.skipped++;
    spec.skipped(path, device === null ? 'no file' : CALLED[device.type]);
    return;
  }
  const { type, major, minor } = device;
  const file = inside(folder, name);
  const there = fs.lstatSync(file, { throwIfNoEntry: false });
  if (there !== undefined) {
    if ((there.mode & TYPE_MASK) !== TYPE_BITS[type]) throw new ImageError('exists', 'is there already and is another');
    done.kept++;
    return;
  }
  if (native()?.makeNode(file, TYPE_BITS[type] + 0o600, major, minor) !== true) {
    throw new ImageError('io', `${CALLED[type]} cannot be made here`, { file: path });
  }
  if (spec.owners) fs.lchownSync(file, node.uid, node.gid);
  fs.lutimesSync(file, node.mtime, node.mtime);
  done.files++;
}

async function copyOne(node: PointNode, target: Target, spec: CopySpec, done: Copied): Promise<void> {
  switch (node.kind) {
    case 'file':
      await copyContent(node, target, spec, done);
      return;
    case 'dir':
      return copyFolder(node, target, spec, done);
    case 'link':
      return copyLink(node, target, spec, done);
    case 'other':
      makeDevice(node, target, spec, done);
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
