/** What the parser child does with what it is asked. */
import { flushCompileCache } from 'node:module';
import type { Bytes, Disk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { hasTranslated } from '../base/translated.ts';
import type { FileContent, VolumeDir, VolumeNode } from '../volumes/contracts.ts';
import { eachUnused } from '../volumes/free.ts';
import { shownName } from '../volumes/names.ts';
import { isSuspended } from '../volumes/signs.ts';
import { MetadataCache } from '../volumes/source.ts';
import type { Stretch } from '../volumes/stretch.ts';
import type { FoundVolume, LockedVolume, openVolumes } from '../volumes/volumes.ts';
import { childOf, entriesOf, LastUsed } from './folders.ts';
import { makeLittleGarbage } from './garbage.ts';
import { TRANSLATED, TRANSLATED_EXIT } from './limits.ts';
import {
  type DiskSpec,
  type FromChild,
  failureOf,
  type ListRecord,
  type NodePath,
  type NodeRecord,
  RANGE_WORDS,
  type RangesRecord,
  STORED,
  type ToChild,
  type UnusedRecord,
  type VolumesRecord,
  type Work,
  type XattrsRecord,
} from './protocol.ts';
import { addUnused, noneUnused, type UnusedBlocks } from './unused-map.ts';

const METADATA_BUDGET = 12_582_912;
const FOLDERS_KEPT = 4096;
const CONTENTS_KEPT = 32;
/** Ranges in one answer: 1.5 MiB. */
const MOST_RANGES = 65_536;

const metadata = new MetadataCache(METADATA_BUDGET);
const waiting = new Map<number, { into: Uint8Array; resolve(): void; reject(error: Error): void }>();
let asked = 0;

const send = (message: FromChild): void => void process.send!(message);

/** A disk whose bytes the program reads for us. */
function remoteDisk(group: number, index: number, { name, size, sectorSize }: DiskSpec): Disk {
  return {
    id: name,
    size,
    sectorSize,
    extent: (_at, limit) => ({ kind: 'data', length: limit }),
    load: async () => {},
    read(into, at) {
      if (at < 0 || !(at + into.length <= size)) throw new ImageError('out-of-range', 'outside the disk', { at });
      const needs = ++asked;
      send({ needs, group, disk: index, at, length: into.length });
      return new Promise((resolve, reject) => waiting.set(needs, { into, resolve, reject }));
    },
    async [Symbol.asyncDispose]() {},
  };
}

interface Opened {
  readonly volumes: ReadonlyMap<string, FoundVolume>;
  readonly locked: readonly LockedVolume[];
  readonly unknown: readonly Stretch[];
  readonly notes: readonly string[];
}

interface Group {
  readonly disks: readonly DiskSpec[];
  readonly skip: ReadonlySet<string>;
  opened: Promise<Opened> | null;
  readonly folders: LastUsed<VolumeDir>;
  readonly contents: LastUsed<Promise<FileContent>>;
}

let open: typeof openVolumes;
const groups = new Map<number, Group>();
let secrets: readonly Uint8Array[] = [];
const fresh = (disks: readonly DiskSpec[], skip: ReadonlySet<string>): Group => ({
  disks,
  skip,
  opened: null,
  folders: new LastUsed(FOLDERS_KEPT),
  contents: new LastUsed(CONTENTS_KEPT),
});

async function openGroup(number: number, { disks, skip }: Group): Promise<Opened> {
  const named = disks.map((spec, index) => ({ disk: remoteDisk(number, index, spec), name: spec.name }));
  const { volumes, locked, unknown, notes } = await open({
    disks: named,
    cache: metadata,
    keys: { secrets: async () => secrets },
    skip,
    opening: its => send({ opening: its, group: number }),
  });
  send({ opening: null, group: number });
  return { volumes: new Map(volumes.map(volume => [shownName(volume.name), volume])), locked, unknown, notes };
}

function groupOf(number: number): Group {
  const group = groups.get(number);
  if (group === undefined) throw new ImageError('not-found', 'these disks were not declared');
  return group;
}

/** Points whose volumes stay open; the others are opened again when they are asked for. */
const GROUPS_OPEN = 64;
const recent = new Set<number>();

function openedOf(number: number): NonNullable<Group['opened']> {
  const group = groupOf(number);
  recent.delete(number);
  recent.add(number);
  if (recent.size > GROUPS_OPEN) {
    const oldest = recent.values().next().value!;
    recent.delete(oldest);
    const its = groups.get(oldest);
    if (its !== undefined) groups.set(oldest, fresh(its.disks, its.skip));
  }
  group.opened ??= openGroup(number, group).catch(error => {
    group.opened = null;
    throw error;
  });
  return group.opened;
}

async function volumeOf({ group, volume }: NodePath): Promise<FoundVolume> {
  const found = (await openedOf(group)).volumes.get(volume);
  if (found === undefined) throw new ImageError('not-found', 'there is no such volume', { file: volume });
  return found;
}

async function folderAt(at: NodePath, path: readonly string[]): Promise<VolumeDir> {
  const { folders } = groupOf(at.group);
  const key = `${at.volume}/${path.join('/')}`;
  const kept = folders.get(key);
  if (kept !== undefined) return kept;
  const node: VolumeNode | null =
    path.length === 0
      ? (await volumeOf(at)).volume.root
      : await childOf(await folderAt(at, path.slice(0, -1)), path.at(-1)!);
  if (node === null) throw new ImageError('not-found', 'no such file or folder', { file: path.join('/') });
  if (node.kind !== 'dir') throw new ImageError('not-found', 'is no folder', { file: path.join('/') });
  folders.set(key, node);
  return node;
}

async function nodeAt(at: NodePath): Promise<VolumeNode> {
  const { path, stream } = at;
  const node =
    path.length === 0 ? await folderAt(at, path) : await childOf(await folderAt(at, path.slice(0, -1)), path.at(-1)!);
  const found =
    stream === null || node === null
      ? node
      : node.kind === 'file' || node.kind === 'dir'
        ? ((await node.stream?.(stream)) ?? null)
        : null;
  if (found === null) throw new ImageError('not-found', 'no such file or folder', { file: path.join('/') });
  return found;
}

async function recordOf(node: VolumeNode, ranges: RangesRecord | null = null): Promise<NodeRecord> {
  const { kind, mtime, mode, uid, gid, links } = node;
  return {
    kind,
    mtime,
    mode,
    uid,
    gid,
    links,
    id: node.kind === 'dir' || node.kind === 'file' ? (node.id ?? '') : '',
    xattrs: node.xattrs !== undefined,
    streams: (node.kind === 'file' || node.kind === 'dir') && node.streams !== undefined,
    device: node.kind === 'other' ? (node.device ?? null) : null,
    size: node.kind === 'file' ? node.size : 0,
    allocated: node.kind === 'file' ? node.allocated : 0,
    target: node.kind === 'link' ? await node.target() : '',
    ranges,
  };
}

function contentAt(at: NodePath): Promise<FileContent> {
  const { contents } = groupOf(at.group);
  const key = `${at.volume}/${at.path.join('/')}/${at.stream ?? ''}`;
  const kept = contents.get(key);
  if (kept !== undefined) return kept;
  const opening = (async () => {
    const node = await nodeAt(at);
    if (node.kind !== 'file') throw new ImageError('not-found', 'is no file', { file: at.path.join('/') });
    return node.open();
  })();
  contents.set(key, opening);
  opening.catch(() => contents.delete(key));
  return opening;
}

function rangesOf(content: FileContent, volume: FoundVolume, from: Bytes, most: number): RangesRecord {
  const numbers: number[] = [];
  for (let here = from; here < content.size && numbers.length < RANGE_WORDS * most; ) {
    const part = content.range(here, content.size - here);
    const place = part.kind === 'disk' ? volume.place(part.at, part.length) : null;
    const length = place?.length ?? part.length;
    if (place !== null) numbers.push(length, place.disk, place.at);
    else numbers.push(length, part.kind === 'zero' ? STORED.zero : STORED.packed, 0);
    here += length;
  }
  return { size: content.size, table: Float64Array.from(numbers) };
}

async function recordAt(at: NodePath, most: number): Promise<NodeRecord> {
  const node = await nodeAt(at);
  if (node.kind !== 'file' || most === 0) return recordOf(node);
  try {
    return await recordOf(node, rangesOf(await node.open(), await volumeOf(at), 0, most));
  } catch {
    // Whoever opens the file is told why it cannot be read.
    return recordOf(node);
  }
}

async function unusedIn(at: NodePath, blockSize: Bytes): Promise<UnusedRecord> {
  const { disks } = groupOf(at.group);
  for (const stretch of (await openedOf(at.group)).unknown) {
    if (!(await isSuspended(stretch))) continue;
    throw new ImageError('unsupported', `a sleeping system in ${stretch.its} may have it open`, { file: at.volume });
  }
  const maps = disks.map((): UnusedBlocks | null => null);
  await eachUnused(await volumeOf(at), (disk, from, length) => {
    const { size } = disks[disk]!;
    maps[disk] ??= noneUnused(size, blockSize);
    addUnused(maps[disk], size, from, length);
  });
  return { bits: maps.map(map => map?.bits ?? null) };
}

async function carryOut(work: Work): Promise<unknown> {
  switch (work.op) {
    case 'volumes': {
      const { volumes, locked, unknown, notes } = await openedOf(work.group);
      const record: VolumesRecord = {
        volumes: Array.from(volumes, ([name, { volume }]) => ({ name, type: volume.type })),
        locked,
        unknown: unknown.map(({ its }) => its),
        notes,
      };
      return record;
    }
    case 'list': {
      const entries = [...(await entriesOf(await folderAt(work, work.path))).values()];
      const record: ListRecord = { names: entries.map(({ name }) => name), kinds: entries.map(({ kind }) => kind) };
      return record;
    }
    case 'node':
      return recordOf(await nodeAt(work));
    case 'xattrs': {
      const found = (await (await nodeAt(work)).xattrs?.()) ?? new Map<string, Uint8Array>();
      const record: XattrsRecord = { names: [...found.keys()], values: [...found.values()] };
      return record;
    }
    case 'streams': {
      const node = await nodeAt(work);
      return node.kind === 'file' || node.kind === 'dir' ? ((await node.streams?.()) ?? []) : [];
    }
    case 'nodes':
      return Promise.all(
        work.names.map(name =>
          recordAt({ ...work, path: [...work.path, name] }, work.ranges).catch(error => ({
            failure: failureOf(error, 'corrupt'),
          })),
        ),
      );
    case 'ranges':
      return rangesOf(await contentAt(work), await volumeOf(work), work.from, MOST_RANGES);
    case 'unused':
      return unusedIn(work, work.blockSize);
    case 'read': {
      const into = new Uint8Array(work.length);
      await (await contentAt(work)).read(into, work.from);
      return into;
    }
  }
}

function answered(
  number: number,
  use: (wait: { into: Uint8Array; resolve(): void; reject(error: Error): void }) => void,
): void {
  const wait = waiting.get(number);
  waiting.delete(number);
  if (wait !== undefined) use(wait);
}

function heard(message: ToChild): void {
  if ('declare' in message) {
    groups.set(message.declare, fresh(message.disks, new Set(message.skip)));
  } else if ('secrets' in message) secrets = message.secrets;
  else if ('forget' in message) groups.delete(message.forget);
  else if ('work' in message) {
    const { id, work } = message;
    carryOut(work).then(
      value => send({ id, value }),
      error => send({ id, failure: failureOf(error, 'corrupt') }),
    );
  } else if ('data' in message) {
    answered(message.answers, ({ into, resolve }) => {
      into.set(message.data);
      resolve();
    });
  } else {
    const { fault, message: text, where } = message.failure;
    answered(message.answers, ({ reject }) => reject(new ImageError(fault, text, where)));
  }
}

interface Permission {
  has(scope: string, reference: string): boolean;
  /** Absent in older releases. */
  drop?(scope: string): void;
}

/**
 * Gives up all files, before anything of a backup is read: the program is loaded, and what was translated for it is kept
 * for the next one, which comes at once where there was something: without the translator it takes 15 MiB less.
 */
function giveUpFiles(): void {
  const cache = process.env.NODE_COMPILE_CACHE;
  const permission: Permission | undefined = process.permission;
  if (permission === undefined || cache === undefined) return;
  flushCompileCache();
  if (process.env[TRANSLATED] === undefined && hasTranslated()) process.exit(TRANSLATED_EXIT);
  permission.drop?.('fs');
  if (permission.has('fs.write', cache)) throw new Error('it could still write files');
}

/** Serves this process' IPC channel; `opening` knows the file systems. */
export function serveParser(opening: typeof openVolumes): void {
  makeLittleGarbage();
  giveUpFiles();
  open = opening;
  process.on('message', heard);
  process.on('disconnect', () => process.exit(0));
  send({ ready: true });
}
