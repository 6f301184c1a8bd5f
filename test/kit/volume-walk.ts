/** Volumes for tests: images as disks, and everything that is in a volume as lines that can be compared. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import type { Disk } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { openFile } from '../../src/base/io.ts';
import type { VolumeDir, VolumeFile, VolumeNode } from '../../src/volumes/contracts.ts';
import { shownName } from '../../src/volumes/names.ts';
import { MetadataCache } from '../../src/volumes/source.ts';
import { openVolumes, type PointVolumes } from '../../src/volumes/volumes.ts';

/** A raw image file as a disk. */
export async function imageDisk(file: string, sectorSize: 512 | 4096 = 512): Promise<Disk> {
  const source = await openFile(file, 'read');
  return {
    id: file,
    size: source.size,
    sectorSize,
    extent: (_at, limit) => ({ kind: 'data', length: limit }),
    load: async () => {},
    read: (into, at) => source.read(into, at),
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  };
}

const CACHE = 2 ** 23;

/** The volumes of disks that are named disk0, disk1, …, unlocked by these secrets. */
export const volumesOn = (disks: readonly Disk[], ...secrets: readonly string[]): Promise<PointVolumes> =>
  openVolumes({
    disks: disks.map((disk, i) => ({ disk, name: `disk${i}` })),
    cache: new MetadataCache(CACHE),
    keys: { secrets: async () => secrets.map(secret => Buffer.from(secret)) },
  });

export const volumesOf = (disk: Disk): Promise<PointVolumes> => volumesOn([disk]);

/** SHA-256 of a file, read in parts of an odd length. */
export async function digestOf(file: VolumeFile, part = 300_007): Promise<string> {
  const content = await file.open();
  const hash = createHash('sha256');
  const into = new Uint8Array(Math.min(part, content.size));
  for (let at = 0; at < content.size; at += into.length) {
    const target = into.subarray(0, Math.min(into.length, content.size - at));
    await content.read(target, at);
    hash.update(target);
  }
  return hash.digest('hex');
}

export interface Walked {
  readonly node: VolumeNode;
  /** `dir`, `file SIZE SHA256`, `link TARGET`, `other` or `error FAULT`. */
  readonly line: string;
}

export interface WalkLimits {
  readonly entries: number;
  /** Larger files are read in part. */
  readonly fileBytes: number;
}

/** The node, and what it is in a line. */
async function lineOf(node: VolumeNode, limits: WalkLimits): Promise<string> {
  switch (node.kind) {
    case 'dir':
      return 'dir';
    case 'link':
      return `link ${await node.target()}`;
    case 'other':
      return 'other';
    case 'file': {
      if (node.size <= limits.fileBytes) return `file ${node.size} ${await digestOf(node)}`;
      const content = await node.open();
      const into = new Uint8Array(65_536);
      await content.read(into, 0);
      await content.read(into, node.size - into.length);
      return `file ${node.size} large`;
    }
  }
}

const faultOf = (error: unknown): string => {
  if (error instanceof ImageError) return `error ${error.fault}`;
  throw error;
};

/** Every path below a folder. Anything but an ImageError is thrown. */
export async function walk(
  root: VolumeDir,
  limits: WalkLimits = { entries: 1_000_000, fileBytes: 2 ** 31 },
): Promise<Map<string, Walked>> {
  const found = new Map<string, Walked>();
  const enter = async (dir: VolumeDir, path: string): Promise<void> => {
    for (const entry of await dir.list()) {
      if (found.size >= limits.entries) return;
      const its = path === '' ? shownName(entry.name) : `${path}/${shownName(entry.name)}`;
      let node: VolumeNode | null = null;
      try {
        node = await entry.node();
        found.set(its, { node, line: await lineOf(node, limits) });
        if (node.kind === 'dir') await enter(node, its);
      } catch (error) {
        const line = faultOf(error);
        found.set(its, { node: node ?? root, line });
      }
    }
  };
  await enter(root, '');
  return found;
}

export const linesOf = (walked: ReadonlyMap<string, Walked>): Record<string, string> =>
  Object.fromEntries(
    Array.from(walked, ([path, { line }]) => [path, line] as const).sort(([a], [b]) => (a < b ? -1 : 1)),
  );

/** Folders with an index, and names that were looked up in them one by one: each gives what the listing gives. */
export async function lookedUp(root: VolumeDir, everyNth = 1): Promise<{ folders: number; names: number }> {
  let [folders, names] = [0, 0];
  const essence = (node: VolumeNode | null): unknown => node && [node.kind, node.mtime, 'size' in node ? node.size : 0];
  const enter = async (dir: VolumeDir): Promise<void> => {
    const entries = await dir.list();
    if (dir.lookup !== undefined) {
      folders++;
      for (let i = 0; i < entries.length; i += everyNth) {
        const entry = entries[i]!;
        assert.deepEqual(essence(await dir.lookup(entry.name)), essence(await entry.node()), entry.name);
        names++;
      }
      for (const absent of ['', 'not there', '.', 'zzz', '\udcff', `${entries[0]?.name}x`]) {
        const there = entries.some(({ name }) => name === absent);
        if (!there) assert.equal(await dir.lookup(absent), null, absent);
      }
    }
    for (const entry of entries) {
      const inner = entry.kind === 'dir' ? await entry.node() : null;
      if (inner?.kind === 'dir') await enter(inner);
    }
  };
  await enter(root);
  return { folders, names };
}
