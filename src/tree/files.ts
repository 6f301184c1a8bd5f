/**
 * `files/<volume>/…`: single files of a restore point, read only. Nothing is read before the folder is looked into, and
 * what is wrong with a volume or a file is that one's error alone.
 */
import type { DirNode, FileNode, Node } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import type { RestorePoint } from '../chain/point.ts';
import { contentSeek } from '../volumes/content.ts';
import type { VolumeDir, VolumeEntry, VolumeFile, VolumeNode } from '../volumes/contracts.ts';
import { linkInside } from '../volumes/links.ts';
import { shownName } from '../volumes/names.ts';
import { MetadataCache } from '../volumes/source.ts';
import { openVolumes } from '../volumes/volumes.ts';
import { folder, link, once, textFile } from './nodes.ts';

const METADATA_BUDGET = 33_554_432;
/** Entries of folders that stay in memory, of all points together. */
const ENTRIES_KEPT = 200_000;
const LONGEST_LINK = 4095;

type Listing = ReadonlyMap<string, VolumeEntry>;

/** Folders that were listed of late: the kernel asks for each of their names one by one. */
class Listings {
  readonly #kept = new Map<string, Promise<Listing>>();
  readonly #sizes = new Map<string, number>();
  #entries = 0;

  get(key: string, read: () => Promise<Listing>): Promise<Listing> {
    const kept = this.#kept.get(key);
    if (kept !== undefined) {
      this.#kept.delete(key);
      this.#kept.set(key, kept);
      return kept;
    }
    const reading = read();
    this.#kept.set(key, reading);
    reading.then(
      listing => this.#count(key, reading, listing.size + 1),
      () => this.#kept.delete(key),
    );
    return reading;
  }

  #count(key: string, reading: Promise<Listing>, entries: number): void {
    if (this.#kept.get(key) !== reading) return;
    this.#sizes.set(key, entries);
    this.#entries += entries;
    for (const oldest of this.#kept.keys()) {
      if (this.#entries <= ENTRIES_KEPT || oldest === key) break;
      this.#entries -= this.#sizes.get(oldest) ?? 0;
      this.#sizes.delete(oldest);
      this.#kept.delete(oldest);
    }
  }
}

/** What all `files` folders of a mount share: bounded memory. */
export interface FilesShare {
  readonly metadata: MetadataCache;
  readonly listings: Listings;
  /** Tells the volumes of all points apart. */
  volumes: number;
}

export const filesShare = (): FilesShare => ({
  metadata: new MetadataCache(METADATA_BUDGET),
  listings: new Listings(),
  volumes: 0,
});

interface Within {
  readonly share: FilesShare;
  readonly volume: number;
  readonly type: string;
  /** Folders between this one and the volume's root. */
  readonly depth: number;
}

/** The owner may read everything, whatever its mode was: who can read the mount can read the disk. Never writable, no setuid. */
const shownMode = (mode: number, least: number): number => (mode & 0o555) | least;

function fileNode(file: VolumeFile): FileNode {
  return {
    kind: 'file',
    mtime: file.mtime,
    mode: shownMode(file.mode, 0o400),
    writable: false,
    size: () => file.size,
    allocated: () => file.allocated,
    open: async () => {
      const content = await file.open();
      return {
        size: () => content.size,
        read: (into, at) => content.read(into, at),
        seek: (at, want) => contentSeek(content, at, want),
        async [Symbol.asyncDispose]() {},
      };
    },
  };
}

/** A device, pipe or socket is shown as an empty file: it has no effect here. */
const emptyFile = (mtime: Date): FileNode => ({ ...textFile(mtime, () => ''), mode: 0o444 });

async function nodeFor(node: VolumeNode, within: Within): Promise<Node> {
  switch (node.kind) {
    case 'dir':
      return dirNode(node, { ...within, depth: within.depth + 1 });
    case 'file':
      return fileNode(node);
    case 'link': {
      const target = linkInside(await node.target(), within.depth, within.type === 'ntfs');
      if (Buffer.byteLength(target) > LONGEST_LINK) throw new ImageError('corrupt', 'the target of a link is too long');
      return link(node.mtime, target);
    }
    case 'other':
      return emptyFile(node.mtime);
  }
}

function dirNode(dir: VolumeDir, within: Within): DirNode {
  const { listings } = within.share;
  const listing = (): Promise<Listing> =>
    listings.get(`${within.volume} ${dir.id}`, async () => {
      const found = new Map<string, VolumeEntry>();
      for (const entry of await dir.list()) {
        const name = shownName(entry.name);
        if (!found.has(name)) found.set(name, entry);
      }
      return found;
    });
  return {
    kind: 'dir',
    mtime: dir.mtime,
    mode: shownMode(dir.mode, 0o500),
    list: async () =>
      Array.from(await listing(), ([name, { kind }]) => ({ name, kind: kind === 'other' ? 'file' : kind })),
    child: async name => {
      const entries = await listing();
      const entry = entries.get(name);
      if (entry !== undefined) return nodeFor(await entry.node(), within);
      return streamNode(entries, name);
    },
  };
}

/** `file:stream` names an alternate data stream. It is not listed: that would open every file of a folder. */
async function streamNode(entries: Listing, name: string): Promise<Node | null> {
  const colon = name.indexOf(':');
  const entry = colon > 0 ? entries.get(name.slice(0, colon)) : undefined;
  if (entry === undefined) return null;
  const node = await entry.node();
  if (node.kind !== 'file' && node.kind !== 'dir') return null;
  const stream = (await node.stream?.(name.slice(colon + 1))) ?? null;
  return stream === null ? null : fileNode(stream);
}

async function volumeFolders(point: RestorePoint, share: FilesShare, mtime: Date): Promise<ReadonlyMap<string, Node>> {
  const nodes = new Map<string, Node>();
  const notes: string[] = [];
  for (const [i, { name }] of point.disks.entries()) {
    const disk = await point.openDisk(i);
    const found = await openVolumes(disk, name, share.metadata);
    notes.push(...found.notes);
    for (const { name: its, volume } of found.volumes) {
      const shown = shownName(point.disks.length > 1 ? `${name}-${its}` : its);
      nodes.set(shown, dirNode(volume.root, { share, volume: share.volumes++, type: volume.type, depth: 0 }));
    }
  }
  // What is missing is said where it would be looked for.
  if (notes.length > 0)
    nodes.set(
      'notes.txt',
      textFile(mtime, () => `${notes.join('\n')}\n`),
    );
  return nodes;
}

/** The folder of a point; its disks are opened when it is first looked into. */
export function filesFolder(point: RestorePoint, share: FilesShare, mtime: Date): DirNode {
  const volumes = once(() => volumeFolders(point, share, mtime));
  return {
    ...folder(mtime, () => new Map()),
    list: async () => Array.from(await volumes(), ([name, { kind }]) => ({ name, kind })),
    child: async name => (await volumes()).get(name) ?? null,
  };
}
