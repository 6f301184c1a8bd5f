/**
 * `files/<volume>/…`: single files of a restore point, read only. Nothing is read before the folder is looked into, and
 * what is wrong with a volume or a file is that one's error alone.
 */
import type { Described, DirNode, FileNode, Node, Recorded } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { once } from '../base/lazy.ts';
import type { RestorePoint } from '../chain/point.ts';
import { LastUsed } from '../files/folders.ts';
import { Parser } from '../files/parser.ts';
import {
  openPointFiles,
  type PointDir,
  type PointFile,
  type PointNode,
  type PointOther,
} from '../files/point-files.ts';
import type { Attributes, Device } from '../volumes/contracts.ts';
import { linkInside } from '../volumes/links.ts';
import { nameBytes, shownName } from '../volumes/names.ts';
import { folder, textFile } from './nodes.ts';
import { Scan } from './scan.ts';

/** Folders whose names are being asked for one after the other. */
const SCANS_KEPT = 8;
const LONGEST_LINK = 4095;

/** What all `files` folders of a mount share. */
export interface FilesShare {
  readonly parser: Parser;
  readonly scans: LastUsed<Scan>;
}

/** `secrets`: for encrypted volumes. */
export const filesShare = (secrets: readonly Uint8Array[]): FilesShare => ({
  parser: new Parser({ secrets: async () => secrets }),
  scans: new LastUsed(SCANS_KEPT),
});

interface Within {
  readonly share: FilesShare;
  /** Path of the folder, over all points and volumes. */
  readonly path: string;
  readonly type: string;
  /** Folders between this one and the volume's root. */
  readonly depth: number;
}

/** All that NTFS has beside is in these; the names that the system asks for by itself are never there. */
const NTFS_NAMES = /^(user|system\.ntfs_)/;
const isNtfsName = (name: string): boolean => NTFS_NAMES.test(name);

function describedBy({ xattrs }: Pick<PointFile, 'xattrs'>, type: string): Described {
  if (xattrs === undefined) return {};
  const asBytes = async (): Promise<ReadonlyMap<string, Uint8Array>> =>
    new Map(Array.from(await xattrs(), ([name, value]) => [nameBytes(name)?.toString('latin1') ?? '', value]));
  return { xattrs: asBytes, ...(type === 'ntfs' ? { mayHave: isNtfsName } : {}) };
}

const recordOf = ({ uid, gid, links }: Attributes): Recorded => ({ uid, gid, links });

function fileNode(file: PointFile, type: string): FileNode {
  return {
    kind: 'file',
    ...describedBy(file, type),
    mtime: file.mtime,
    mode: file.mode,
    recorded: recordOf(file),
    writable: false,
    size: () => file.size,
    allocated: () => file.allocated,
    open: async () => {
      const content = await file.open();
      return {
        size: () => content.size,
        read: (into, at) => content.read(into, at),
        seek: (at, want) => content.seek(at, want),
        async [Symbol.asyncDispose]() {},
      };
    },
  };
}

const specialNode = (node: PointOther, { type, major, minor }: Device, volume: string): Node => ({
  kind: type,
  mtime: node.mtime,
  mode: node.mode,
  recorded: recordOf(node),
  major,
  minor,
  ...describedBy(node, volume),
});

function nodeFor(node: PointNode, name: string, within: Within): Node {
  switch (node.kind) {
    case 'dir':
      return dirNode(node, { ...within, path: `${within.path}/${name}`, depth: within.depth + 1 });
    case 'file':
      return fileNode(node, within.type);
    case 'link': {
      const target = linkInside(node.target, within.depth, within.type === 'ntfs');
      if (Buffer.byteLength(target) > LONGEST_LINK) throw new ImageError('corrupt', 'the target of a link is too long');
      return { kind: 'link', mtime: node.mtime, target, recorded: recordOf(node), ...describedBy(node, within.type) };
    }
    case 'other':
      if (node.device !== null) return specialNode(node, node.device, within.type);
      // Nothing but that it is no file: an empty one has no effect.
      return { ...textFile(node.mtime, () => ''), mode: node.mode, recorded: recordOf(node) };
  }
}

function dirNode(dir: PointDir, within: Within): DirNode {
  const { scans } = within.share;
  return {
    kind: 'dir',
    ...describedBy(dir, within.type),
    mtime: dir.mtime,
    mode: dir.mode,
    recorded: recordOf(dir),
    async list() {
      const entries = await dir.list();
      scans.set(within.path, new Scan(entries.map(({ name }) => name)));
      return entries.map(({ name, kind }) => ({ name, kind: kind === 'other' ? 'unknown' : kind }));
    },
    child(name) {
      const shown = (found: PointNode | ImageError | null): Node | null => {
        if (found instanceof ImageError) throw found;
        return found === null ? null : nodeFor(found, name, within);
      };
      const scan = scans.get(within.path);
      const known = scan?.take(name);
      if (known !== undefined) return shown(known);
      const asked = scan === undefined ? Promise.resolve(null) : scan.ask(dir, name);
      return asked.then(found => found ?? dir.child(name)).then(shown);
    },
  };
}

const keysOf = (type: string): string =>
  type === 'bitlocker'
    ? 'a file with its pass-phrase or its recovery key (eight groups of six digits), or its .BEK file'
    : 'a file with its pass-phrase';

async function volumeFolders(point: RestorePoint, share: FilesShare, mtime: Date): Promise<ReadonlyMap<string, Node>> {
  const nodes = new Map<string, Node>();
  const { volumes, locked, notes } = await openPointFiles(share.parser, point);
  const broken: string[] = [];
  for (const { name, type, root } of volumes) {
    try {
      const path = `${point.identity}/${name}`;
      nodes.set(name, dirNode(await root(), { share, path, type, depth: 0 }));
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      broken.push(`${name} cannot be read: ${error.message}`);
    }
  }
  for (const { name, type, reason } of locked) {
    const text = `${name} is encrypted: ${reason}.\nMount with --volume-key-file FILE, ${keysOf(type)}.\n`;
    nodes.set(
      `${shownName(name)}.locked.txt`,
      textFile(mtime, () => text),
    );
  }
  // What is missing is said where it would be looked for.
  const told = [...notes, ...broken];
  if (told.length > 0)
    nodes.set(
      'notes.txt',
      textFile(mtime, () => `${told.join('\n')}\n`),
    );
  return nodes;
}

/** The folder of a point; its disks are opened when it is first looked into. */
export function filesFolder(point: RestorePoint, share: FilesShare, mtime: Date): DirNode {
  const volumes = once(() => volumeFolders(point, share, mtime));
  return {
    ...folder(mtime, () => new Map()),
    lasting: true,
    list: async () => Array.from(await volumes(), ([name, { kind }]) => ({ name, kind })),
    child: async name => (await volumes()).get(name) ?? null,
  };
}
