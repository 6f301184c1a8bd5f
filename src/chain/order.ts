/** Parents, gaps and cycles: which images lie under a point, found by id or by name, never outside the store. */
import path from 'node:path';
import type { ImagePoint, LayerId } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';

/** One point of one image file. */
export interface Link {
  readonly file: string;
  readonly adapter: string;
  readonly encrypted: boolean;
  /** Size and time of the file, for formats whose identity does not cover the content. */
  readonly stamp: string;
  readonly point: ImagePoint;
}

/** Layers that a chain may have. */
export const DEPTH_LIMIT = 4096;

/** Names that a chain file uses for formats, and the adapter that reads them. */
const FORMAT_NAMES: ReadonlyMap<string, string> = new Map([
  ['vpc', 'vhd'],
  ['qcow', 'qcow1'],
]);

export interface Links {
  readonly all: readonly Link[];
  byId(id: LayerId): Link | undefined;
  byName(file: string): Link | undefined;
  /** What is known about the way down from each link. */
  readonly depths: Map<Link, Depth>;
}

export function indexLinks(all: readonly Link[]): Links {
  const ids = new Map<LayerId, Link>();
  const names = new Map<string, Link>();
  for (const link of all) {
    if (!ids.has(link.point.id)) ids.set(link.point.id, link);
    // A file that holds several points is referred to by name for its newest state, the last one in the file.
    if (link.point.type !== 'snapshot' || !names.has(link.file)) names.set(link.file, link);
  }
  return { all, byId: id => ids.get(id), byName: name => names.get(name), depths: new Map() };
}

/** The link directly below; null for a full. Throws 'broken-chain' naming what is missing. */
function parentOf(link: Link, links: Links): Link | null {
  const { parent } = link.point;
  if (parent === null) return null;
  if (parent.by === 'id') {
    const found = links.byId(parent.id);
    if (found !== undefined) return found;
    const names = parent.names.length > 0 ? ` (${parent.names.join(' or ')})` : '';
    throw new ImageError('broken-chain', `the parent ${parent.id}${names} is missing`, { file: link.file });
  }
  const name = path.posix.normalize(parent.name);
  const found = links.byName(name);
  if (found === undefined)
    throw new ImageError('broken-chain', `the parent ${parent.name} is missing`, { file: link.file });
  const wanted = parent.format === null ? null : (FORMAT_NAMES.get(parent.format) ?? parent.format);
  if (wanted !== null && found.adapter !== wanted) {
    // Read as something else than the child says, a guest could choose its host file by writing a header into its disk.
    const message = `the parent ${name} should be ${wanted} but is ${found.adapter}`;
    throw new ImageError('broken-chain', message, { file: link.file });
  }
  return found;
}

/** Layers from the base up to a link; or what is wrong with every chain that reaches it. */
type Depth = number | ((tip: Link) => ImageError);

const looped =
  (link: Link) =>
  (tip: Link): ImageError =>
    new ImageError('broken-chain', `the chain loops: ${link.file} lies under itself`, { file: tip.file });

/** What stops the way down from `link`; each link is looked at once, however many chains go through it. */
function depthOf(link: Link, links: Links): Depth {
  const way: Link[] = [];
  const onWay = new Set<Link>();
  let depth: Depth | undefined;
  for (let at: Link | null = link; at !== null; ) {
    depth = links.depths.get(at);
    if (depth !== undefined) break;
    if (onWay.has(at)) {
      depth = looped(at);
      break;
    }
    onWay.add(at);
    way.push(at);
    try {
      at = parentOf(at, links);
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      depth = () => error;
      break;
    }
  }
  depth ??= 0;
  for (const each of way.reverse()) {
    if (typeof depth === 'number') depth++;
    links.depths.set(each, depth);
  }
  return depth;
}

/** Base first, the link itself last. Throws 'broken-chain' for a gap, a loop or more than 4,096 layers. */
export function chainOf(tip: Link, links: Links): readonly Link[] {
  const depth = depthOf(tip, links);
  if (typeof depth !== 'number') throw depth(tip);
  if (depth > DEPTH_LIMIT)
    throw new ImageError('broken-chain', `the chain is longer than ${DEPTH_LIMIT} layers`, { file: tip.file });
  const chain: Link[] = [];
  for (let link: Link | null = tip; link !== null; link = parentOf(link, links)) chain.push(link);
  return chain.reverse();
}
