/** Files inside a restore point, found by `POINT:/volume/path` without mounting anything. */
import type { Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import { findPoint } from '../chain/find.ts';
import type { VolumeDir, VolumeNode } from '../volumes/contracts.ts';
import { linkInside } from '../volumes/links.ts';
import { shownName } from '../volumes/names.ts';
import { MetadataCache } from '../volumes/source.ts';
import { type NamedDisk, openVolumes } from '../volumes/volumes.ts';
import { openRepo } from './open.ts';
import { type KeyArgs, keyOptions, type SecretRing } from './secrets.ts';
import type { Context } from './verb.ts';

const METADATA_BUDGET = 33_554_432;
/** As many links as Linux follows in one path. */
const MOST_LINKS = 40;

export interface Place {
  /** As it is shown; empty for the folder of all volumes. */
  readonly name: string;
  readonly node: VolumeNode;
}

export interface PointFiles extends AsyncDisposable {
  /** What lies at the path; links on the way are followed inside the volume, the last one where `follow` says so. */
  find(follow: boolean): Promise<Place>;
}

export type PointArgs = KeyArgs & { readonly repo: string };

export const pointOptions = (yargs: Argv): Argv =>
  keyOptions(
    yargs.option('repo', { type: 'string', nargs: 1, demandOption: true, describe: 'folder of backups, or one file' }),
  );

export const PATH_HELP = 'SET@POINT:/volume/path, as below `files` in a mount (SET alone: its latest)';

function split(text: string): { readonly point: string; readonly path: readonly string[] } {
  const colon = text.indexOf(':/');
  if (colon < 0) {
    const hint = 'for example web01@latest:/p2-ext4-root/etc/fstab';
    throw new ImageError('usage', `${JSON.stringify(text)} is not POINT:/volume/path`, {}, { hint });
  }
  return {
    point: text.slice(0, colon),
    path: text
      .slice(colon + 1)
      .split('/')
      .filter(part => part !== ''),
  };
}

/** A folder that is in no volume: its entries are the volumes. */
function folderOf(volumes: ReadonlyMap<string, VolumeDir>): VolumeDir {
  return {
    kind: 'dir',
    id: '',
    mtime: new Date(0),
    mode: 0o555,
    uid: 0,
    gid: 0,
    links: 1,
    list: async () => Array.from(volumes, ([name, root]) => ({ name, kind: 'dir' as const, node: async () => root })),
  };
}

async function childOf(dir: VolumeDir, name: string, path: string): Promise<VolumeNode> {
  const entry = (await dir.list()).find(its => shownName(its.name) === name);
  if (entry !== undefined) return entry.node();
  const colon = name.indexOf(':');
  if (colon > 0) {
    const node = await childOf(dir, name.slice(0, colon), path);
    const stream = node.kind === 'file' || node.kind === 'dir' ? await node.stream?.(name.slice(colon + 1)) : null;
    if (stream !== null && stream !== undefined) return stream;
  }
  throw new ImageError('not-found', 'no such file or folder in the backup', { file: path });
}

/** Walks as the kernel would in the mount: `..` and links never lead above the volume. */
async function resolve(
  root: VolumeDir,
  drives: boolean,
  parts: readonly string[],
  follow: boolean,
): Promise<VolumeNode> {
  const above: VolumeDir[] = [root];
  const left = [...parts];
  const shown = `/${parts.join('/')}`;
  let node: VolumeNode = root;
  let links = 0;
  while (left.length > 0) {
    const name = left.shift()!;
    const dir = above.at(-1)!;
    if (name === '.' || name === '..') {
      if (name === '..' && above.length > 1) above.pop();
      node = above.at(-1)!;
      continue;
    }
    node = await childOf(dir, name, shown);
    if (node.kind === 'link' && (left.length > 0 || follow)) {
      if (++links > MOST_LINKS) throw new ImageError('corrupt', 'too many links lead to one another', { file: shown });
      left.unshift(...linkInside(await node.target(), above.length - 1, drives).split('/'));
      node = dir;
    } else if (node.kind === 'dir') above.push(node);
    else if (left.length > 0) throw new ImageError('not-found', `${name} is no folder`, { file: shown });
  }
  return node;
}

export async function openPointFiles(
  text: string,
  args: PointArgs,
  keys: SecretRing,
  context: Context,
): Promise<PointFiles> {
  const { point: spec, path } = split(text);
  await using opening = new AsyncDisposableStack();
  const { repository } = opening.use(await openRepo(args.repo, keys, context));
  const point = findPoint(repository, spec);
  const roots = new Map<string, { readonly root: VolumeDir; readonly drives: boolean }>();
  const notes: string[] = [];
  const cache = new MetadataCache(METADATA_BUDGET);
  const disks: NamedDisk[] = [];
  for (const [i, { name }] of point.disks.entries()) disks.push({ disk: opening.use(await point.openDisk(i)), name });
  const found = await openVolumes({ disks, cache, keys });
  notes.push(...found.notes, ...found.locked.map(({ name, reason }) => `${name} is locked: ${reason}`));
  for (const { name, volume } of found.volumes) {
    roots.set(shownName(name), { root: volume.root, drives: volume.type === 'ntfs' });
  }
  const opened = opening.move();
  return {
    async find(follow) {
      const [first, ...rest] = path;
      if (first === undefined)
        return { name: '', node: folderOf(new Map(Array.from(roots, ([name, { root }]) => [name, root]))) };
      const volume = roots.get(first);
      if (volume === undefined) {
        const hint = [`volumes: ${[...roots.keys()].join(', ') || 'none that can be read'}`, ...notes].join('; ');
        throw new ImageError('not-found', `there is no volume ${JSON.stringify(first)}`, {}, { hint });
      }
      return { name: path.at(-1)!, node: await resolve(volume.root, volume.drives, rest, follow) };
    },
    [Symbol.asyncDispose]: () => opened.disposeAsync(),
  };
}
