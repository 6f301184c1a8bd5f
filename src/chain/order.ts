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

const DEPTH_LIMIT = 4096;

/** Names that a chain file uses for formats, and the adapter that reads them. */
const FORMAT_NAMES: Readonly<Record<string, string>> = { vpc: 'vhd', qcow: 'qcow1' };

export interface Links {
  readonly all: readonly Link[];
  byId(id: LayerId): Link | undefined;
  byName(file: string): Link | undefined;
}

export function indexLinks(all: readonly Link[]): Links {
  const ids = new Map<LayerId, Link>();
  const names = new Map<string, Link>();
  for (const link of all) {
    if (!ids.has(link.point.id)) ids.set(link.point.id, link);
    // A file that holds several points is referred to by name for its newest state, the last one in the file.
    if (link.point.type !== 'snapshot' || !names.has(link.file)) names.set(link.file, link);
  }
  return { all, byId: id => ids.get(id), byName: name => names.get(name) };
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
  const wanted = parent.format === null ? null : (FORMAT_NAMES[parent.format] ?? parent.format);
  if (wanted !== null && found.adapter !== wanted) {
    // Read as something else than the child says, a guest could choose its host file by writing a header into its disk.
    const message = `the parent ${name} should be ${wanted} but is ${found.adapter}`;
    throw new ImageError('broken-chain', message, { file: link.file });
  }
  return found;
}

/** Base first, the link itself last. Throws 'broken-chain' for a gap, a loop or more than 4,096 layers. */
export function chainOf(tip: Link, links: Links): readonly Link[] {
  const chain: Link[] = [tip];
  const seen = new Set<Link>(chain);
  for (let link = parentOf(tip, links); link !== null; link = parentOf(link, links)) {
    if (seen.has(link))
      throw new ImageError('broken-chain', `the chain loops: ${link.file} lies under itself`, { file: tip.file });
    if (chain.length >= DEPTH_LIMIT)
      throw new ImageError('broken-chain', `the chain is longer than ${DEPTH_LIMIT} layers`, { file: tip.file });
    seen.add(link);
    chain.push(link);
  }
  return chain.reverse();
}
