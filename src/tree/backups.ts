/** `backups/<set>/<point>/<disk>.<format>` and its `files`: every restore point that can be read, read only. */
import type { DirNode, Disk, DiskFormat, FileNode, Node, VirtualFile } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { once } from '../base/lazy.ts';
import type { BackupSet, PointDisk, Repository, RestorePoint } from '../chain/point.ts';
import { viewFile } from '../views/view.ts';
import { type FilesShare, filesFolder, filesShare } from './files.ts';
import { folder, jsonFile, link } from './nodes.ts';
import { spaceOf } from './space.ts';

const LONG_AGO = new Date(0);
/** Steps of metadata that a stat may cost before st_blocks becomes an estimate. */
const STAT_BUDGET = 4096;

function viewNode(file: VirtualFile, disk: Disk, mtime: Date): FileNode {
  const space = once(() => spaceOf(file, disk, STAT_BUDGET));
  return {
    kind: 'file',
    mtime,
    mode: 0o444,
    writable: false,
    size: () => file.size,
    // A look at the folder must not unpack what is in it.
    allocated: () => (disk.deferred?.() === true ? file.size : space()),
    open: async () => viewFile(file, disk),
  };
}

/** The views of one disk, by file name; a format that cannot hold a disk of this size is left out. */
function diskViews(
  name: string,
  disk: Disk,
  formats: readonly DiskFormat[],
  mtime: Date,
): ReadonlyMap<string, FileNode> {
  const nodes = new Map<string, FileNode>();
  for (const format of formats) {
    let files: readonly VirtualFile[];
    try {
      files = format.layout(disk, { writable: false, name });
    } catch (error) {
      if (error instanceof ImageError && error.fault === 'too-big') continue;
      throw error;
    }
    for (const file of files) nodes.set(`${name}${file.suffix}`, viewNode(file, disk, mtime));
  }
  return nodes;
}

export interface PointDescription {
  readonly set: string;
  readonly name: string;
  readonly time: string | null;
  readonly type: string;
  readonly adapter: string;
  readonly parent: string | null;
  readonly identity: string;
  readonly files: readonly string[];
  readonly disks: readonly PointDisk[];
}

function describePoint(point: RestorePoint): PointDescription {
  const { set, name, type, adapter, parent, identity, files, disks } = point;
  return { set, name, time: point.time?.toISOString() ?? null, type, adapter, parent, identity, files, disks };
}

function pointFolder(point: RestorePoint, formats: readonly DiskFormat[], share: FilesShare): DirNode {
  const mtime = point.time ?? LONG_AGO;
  const entries = once(async () => {
    // Whoever looks into the folder of a point may look into `files` next: the parser starts meanwhile.
    share.parser.warm();
    const nodes = new Map<string, Node>();
    for (const [i, { name }] of point.disks.entries()) {
      for (const [file, node] of diskViews(name, await point.openDisk(i), formats, mtime)) nodes.set(file, node);
    }
    nodes.set('files', filesFolder(point, share, mtime));
    return nodes.set(
      'point.json',
      jsonFile(mtime, () => describePoint(point)),
    );
  });
  return {
    kind: 'dir',
    lasting: true,
    mtime,
    mode: 0o555,
    list: async () => [...(await entries())].map(([name, { kind }]) => ({ name, kind })),
    child: async name => (await entries()).get(name) ?? null,
  };
}

function setFolder(set: BackupSet, formats: readonly DiskFormat[], share: FilesShare): DirNode | null {
  const readable = set.points.filter(point => point.state === 'ok');
  const newest = readable.at(-1);
  if (newest === undefined) return null;
  const nodes = new Map<string, Node>(readable.map(point => [point.name, pointFolder(point, formats, share)]));
  nodes.set('latest', { ...link(newest.time ?? LONG_AGO, newest.name), lasting: true });
  return { ...folder(newest.time ?? LONG_AGO, () => nodes), lasting: true };
}

/** `secrets`: for encrypted volumes inside the disks. */
export function backupsFolder(
  repository: Repository,
  formats: readonly DiskFormat[],
  secrets: readonly Uint8Array[] = [],
): DirNode {
  const nodes = new Map<string, Node>();
  const share = filesShare(secrets);
  for (const set of repository.sets) {
    const node = setFolder(set, formats, share);
    if (node !== null) nodes.set(set.name, node);
  }
  return { ...folder(LONG_AGO, () => nodes), lasting: true };
}
