import { createHash } from 'node:crypto';
import type {
  Adapter,
  Disk,
  ImageDisk,
  ImagePoint,
  Keyring,
  Layer,
  LayerId,
  Scratch,
  Store,
} from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { UnitCache } from './cache.ts';
import { chainDisk } from './disk.ts';
import { folderOf, safeName, stem, timeName, uniqueNames } from './names.ts';
import { chainOf, indexLinks, type Link, type Links } from './order.ts';
import type { BackupSet, Repository, RestorePoint } from './point.ts';
import { filesOf, type Identified, identify, openWith, ownerOf, roomForEnds } from './scan.ts';

/** Bytes of decoded blocks that are kept where nobody says otherwise. */
export const DEFAULT_CACHE = 64 * 2 ** 20;

export interface RepositoryOptions {
  /** Decoded blocks of all chains, in bytes. */
  readonly cache?: UnitCache;
  /** Without it, what is compressed as a whole is listed and cannot be read. */
  readonly scratch?: Scratch;
}

/** Reads every file of the store by its content, orders the images into chains, and names what is missing. */
export async function openRepository(
  store: Store,
  adapters: readonly Adapter[],
  keys: Keyring,
  options: RepositoryOptions = {},
): Promise<Repository> {
  const unknown: string[] = [];
  const images: Identified[] = [];
  const stamps = new Map<string, string>();
  try {
    for await (const { name, size, modified } of filesOf(store, adapters)) {
      stamps.set(name, `${size} ${modified.getTime()}`);
    }
    const room = roomForEnds();
    for (const [name, stamp] of stamps) {
      if (ownerOf(adapters, name, its => stamps.has(its)) !== undefined) continue;
      const found = await identifyThere(name, store, adapters, keys, stamp, options.scratch, room);
      if (found === null) unknown.push(name);
      else images.push(found);
    }
    await addNamedParents(images, unknown, stamps, store, adapters, keys);
  } catch (error) {
    await closeAll(images);
    throw error;
  }
  return assemble(store.label, images, unknown, options);
}

/** As `identify`; a file that was removed since it was listed (a backup that is being tidied up) is nobody's. */
async function identifyThere(...args: Parameters<typeof identify>): Promise<Identified | null> {
  try {
    return await identify(...args);
  } catch (error) {
    if (error instanceof ImageError && error.fault === 'not-found') return null;
    throw error;
  }
}

async function closeAll(images: readonly Identified[]): Promise<void> {
  for (const { image } of images) await image?.[Symbol.asyncDispose]();
}

/** A repository of images that are open already; closing it closes them. */
export function assemble(
  label: string,
  images: readonly Identified[],
  unknown: readonly string[],
  options: RepositoryOptions = {},
): Repository {
  const cache = options.cache ?? new UnitCache(DEFAULT_CACHE);
  const warnings = images.flatMap(({ name, image }) =>
    (image?.warnings ?? []).map(warning => (warning.startsWith(name) ? warning : `${name}: ${warning}`)),
  );
  return {
    label,
    sets: groupIntoSets(images.flatMap(linksOf), cache),
    unknown,
    warnings,
    [Symbol.asyncDispose]: () => closeAll(images),
  };
}

/** A parent that no adapter recognises by itself (a raw base without a partition table) is opened as its child says. */
async function addNamedParents(
  images: Identified[],
  unknown: string[],
  stamps: ReadonlyMap<string, string>,
  store: Store,
  adapters: readonly Adapter[],
  keys: Keyring,
): Promise<void> {
  for (const { image } of [...images]) {
    for (const { parent } of image?.points ?? []) {
      if (parent?.by !== 'name' || parent.format === null) continue;
      const adapter = adapters.find(a => a.name === parent.format);
      const at = unknown.indexOf(parent.name);
      if (adapter === undefined || at < 0) continue;
      unknown.splice(at, 1);
      images.push(await openWith(adapter, parent.name, store, keys, stamps.get(parent.name)));
    }
  }
}

function linksOf(found: Identified): readonly Link[] {
  const { name: file, adapter, image, problem, stamp } = found;
  if (image !== null) {
    return image.points.map(point => ({ file, adapter: adapter.name, encrypted: image.encrypted, stamp, point }));
  }
  const point: ImagePoint = {
    id: `file:${file}` as LayerId,
    parent: null,
    set: null,
    time: null,
    type: 'full',
    disks: [],
    identity: '',
    problem,
  };
  return [{ file, adapter: adapter.name, encrypted: false, stamp, point }];
}

interface Placed {
  readonly link: Link;
  /** Base first; only the link itself when the chain is broken. */
  readonly chain: readonly Link[];
  readonly problem: ImageError | null;
}

function place(link: Link, links: Links): Placed {
  try {
    const chain = chainOf(link, links);
    return { link, chain, problem: chain.find(l => l.point.problem !== null)?.point.problem ?? null };
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    return { link, chain: [link], problem: link.point.problem ?? error };
  }
}

/** The name that the backup records, else the folder when one chain fills it, else the file that the chain starts with. */
function setNames(placed: readonly Placed[]): (p: Placed) => string {
  const rootsOfFolder = new Map<string, Set<string>>();
  const rootOf = (p: Placed): string => p.chain[0]!.file;
  for (const p of placed) {
    if (p.link.point.set !== null || p.problem?.fault === 'broken-chain') continue;
    const folder = folderOf(rootOf(p));
    const roots = rootsOfFolder.get(folder) ?? new Set();
    rootsOfFolder.set(folder, roots.add(rootOf(p)));
  }
  return p => {
    if (p.link.point.set !== null) return p.link.point.set;
    const folder = folderOf(rootOf(p));
    const roots = rootsOfFolder.get(folder)?.size ?? 1;
    if (folder !== '') return roots <= 1 ? folder : `${folder}/${stem(rootOf(p))}`;
    return stem(rootOf(p));
  };
}

/** `a-b` keeps its name, whatever else would be called so: `a/b` is `a-b-2` beside it. */
function folderNames(names: readonly string[]): ReadonlyMap<string, string> {
  const unique = uniqueNames();
  const asItIs = (name: string): number => (safeName(name) === name ? 0 : 1);
  const ordered = names.toSorted((a, b) => asItIs(a) - asItIs(b) || (a < b ? -1 : 1));
  return new Map(ordered.map(name => [name, unique(safeName(name))]));
}

function groupIntoSets(all: readonly Link[], cache: UnitCache): readonly BackupSet[] {
  const links = indexLinks(all);
  const placed = all.map(link => place(link, links));
  const nameOf = setNames(placed);
  const groups = new Map<string, Placed[]>();
  for (const p of placed) {
    const name = nameOf(p);
    const group = groups.get(name);
    if (group === undefined) groups.set(name, [p]);
    else group.push(p);
  }
  const names = folderNames([...groups.keys()]);
  return [...groups]
    .map(([name, group]) => ({ name: names.get(name)!, group }))
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .map(({ name, group }) => ({
      name,
      adapter: group[0]!.link.adapter,
      encrypted: group.some(p => p.link.encrypted),
      points: namePoints(name, group, cache),
    }));
}

function namePoints(set: string, group: readonly Placed[], cache: UnitCache): readonly RestorePoint[] {
  const timed = group.every(p => p.link.point.time !== null);
  const order = (p: Placed): number => (timed ? p.link.point.time!.getTime() : p.chain.length);
  const ordered = [...group].sort((a, b) => order(a) - order(b) || (a.link.file < b.link.file ? -1 : 1));
  const unique = uniqueNames();
  const names = new Map(ordered.map(p => [p.link, unique(pointName(p.link))]));
  const byId = new Map(ordered.toReversed().map(({ link }) => [link.point.id, link]));
  return ordered.map(p => restorePoint(set, p, { names, byId }, cache));
}

/** The points of a set: what they are called, and the first one of an id. */
interface Named {
  readonly names: ReadonlyMap<Link, string>;
  readonly byId: ReadonlyMap<LayerId, Link>;
}

const pointName = (link: Link): string =>
  link.point.time === null ? safeName(stem(link.file)) : timeName(link.point.time);

function restorePoint(set: string, placed: Placed, { names, byId }: Named, cache: UnitCache): RestorePoint {
  const { link, chain, problem } = placed;
  const digest = createHash('sha256');
  for (const { point, stamp } of chain) digest.update(`${point.identity} ${point.sealed === true ? '' : stamp}\n`);
  const identity = digest.digest('hex');
  const builtOn = link.point.builtOn ?? null;
  const below = chain.at(-2) ?? (builtOn === null ? undefined : byId.get(builtOn));
  return {
    set,
    name: names.get(link)!,
    time: link.point.time,
    type: link.point.type,
    adapter: link.adapter,
    disks: link.point.disks.map(({ name, size, sectorSize, stored }) => ({ name, size, sectorSize, stored })),
    state: problem === null ? 'ok' : problem.fault === 'locked' || problem.fault === 'wrong-key' ? 'locked' : 'broken',
    problem,
    identity,
    file: link.file,
    files: chain.map(l => l.file),
    parent: below === undefined ? null : (names.get(below) ?? null),
    openDisk: async index => {
      if (problem !== null) throw problem;
      return openChain(chain, index, identity, cache);
    },
    layers: index => {
      if (problem !== null) throw problem;
      return layersOf(chain, index);
    },
  };
}

function diskOf(tip: Link, index: number): ImageDisk {
  const disk = tip.point.disks[index];
  if (disk === undefined) throw new ImageError('not-found', `there is no disk ${index}`, { file: tip.file });
  return disk;
}

function layersOf(chain: readonly Link[], index: number): readonly Layer[] {
  const { name } = diskOf(chain.at(-1)!, index);
  const layers: Layer[] = [];
  for (const { file, point } of chain) {
    // A disk that was added later has no layer in the older images.
    const layer = point.disks.find(d => d.name === name)?.layer;
    if (layer === null) throw new ImageError('broken-chain', `${name} cannot be read`, { file });
    if (layer !== undefined) layers.push(layer);
  }
  return layers;
}

function openChain(chain: readonly Link[], index: number, identity: string, cache: UnitCache): Disk {
  const { name, sectorSize } = diskOf(chain.at(-1)!, index);
  return chainDisk({ layers: layersOf(chain, index), id: `${identity}/${name}`, sectorSize, cache });
}
