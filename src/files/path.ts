/** Paths inside a point: `/volume/folder/file`, walked as the kernel would walk them in the mount. */
import { ImageError } from '../base/errors.ts';
import { linkInside } from '../volumes/links.ts';
import type { ListedName, PointDir, PointFiles, PointNode } from './point-files.ts';

/** As many links as Linux follows in one path. */
const MOST_LINKS = 40;

/** The folder of all volumes. */
export function volumesFolder({ volumes }: PointFiles): PointDir {
  const child = async (name: string): Promise<PointDir | null> =>
    (await volumes.find(volume => volume.name === name)?.root()) ?? null;
  return {
    kind: 'dir',
    id: '',
    mtime: new Date(0),
    mode: 0o555,
    uid: 0,
    gid: 0,
    links: 1,
    list: async () => volumes.map(({ name }): ListedName => ({ name, kind: 'dir' })),
    child,
    children: names =>
      Promise.all(
        names.map(async name => {
          try {
            return (await child(name)) ?? new ImageError('not-found', 'there is no such volume');
          } catch (error) {
            if (error instanceof ImageError) return error;
            throw error;
          }
        }),
      ),
  };
}

const isNothing = (file: string): ImageError =>
  new ImageError('not-found', 'no such file or folder in the backup', { file });

/** `..` and links never lead above the volume. The last link is followed where `follow` says so. */
async function walk(root: PointDir, drives: boolean, parts: readonly string[], follow: boolean): Promise<PointNode> {
  const above: PointDir[] = [root];
  const left = [...parts];
  const shown = `/${parts.join('/')}`;
  let node: PointNode = root;
  let links = 0;
  while (left.length > 0) {
    const name = left.shift()!;
    const dir = above.at(-1)!;
    if (name === '.' || name === '..') {
      if (name === '..' && above.length > 1) above.pop();
      node = above.at(-1)!;
      continue;
    }
    const found: PointNode | null = await dir.child(name);
    if (found === null) throw isNothing(shown);
    node = found;
    if (node.kind === 'link' && (left.length > 0 || follow)) {
      if (++links > MOST_LINKS) throw new ImageError('corrupt', 'too many links lead to one another', { file: shown });
      left.unshift(...linkInside(node.target, above.length - 1, drives).split('/'));
      node = dir;
    } else if (node.kind === 'dir') above.push(node);
    else if (left.length > 0) throw new ImageError('not-found', `${name} is no folder`, { file: shown });
  }
  return node;
}

/** What lies at the path; no path at all is the folder of all volumes. */
export async function nodeAt(files: PointFiles, path: readonly string[], follow: boolean): Promise<PointNode> {
  const [first, ...rest] = path;
  if (first === undefined) return volumesFolder(files);
  const volume = files.volumes.find(({ name }) => name === first);
  if (volume === undefined) {
    const known = files.volumes.map(({ name }) => name).join(', ') || 'none that can be read';
    const locked = files.locked.map(({ name, reason }) => `${name} is locked: ${reason} (--volume-key-file FILE)`);
    const hint = [`volumes: ${known}`, ...locked, ...files.notes].join('; ');
    throw new ImageError('not-found', `there is no volume ${JSON.stringify(first)}`, {}, { hint });
  }
  return walk(await volume.root(), volume.type === 'ntfs', rest, follow);
}
