/** The files inside the disks of a restore point: volumes, folders, files. What parses them is the parser child. */
import type { Bytes, Disk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import type { Attributes, Device, EntryKind } from '../volumes/contracts.ts';
import { shownName } from '../volumes/names.ts';
import type { LockedVolume } from '../volumes/volumes.ts';
import { type FileContent, openContent } from './content.ts';
import type { DeclaredDisk, Parser } from './parser.ts';
import type { FailureRecord, ListRecord, NodePath, NodeRecord, VolumesRecord, XattrsRecord } from './protocol.ts';

export interface ListedName {
  /** As it is shown, and as it is asked for. */
  readonly name: string;
  readonly kind: EntryKind;
}

export interface PointDir extends Attributes {
  readonly kind: 'dir';
  /** The same for the same folder of a volume. */
  readonly id: string;
  /** As for files. */
  streams?(): Promise<readonly string[]>;
  list(): Promise<readonly ListedName[]>;
  /** Also `name:stream`, for an alternate data stream. null: there is none. */
  child(name: string): Promise<PointNode | null>;
  /**
   * Several at once, in their order; what cannot be read is an error in its place. `ranges`: how many of each file are
   * fetched with it, so that opening it costs nothing.
   */
  children(names: readonly string[], ranges?: number): Promise<readonly (PointNode | ImageError)[]>;
}

export interface PointFile extends Attributes {
  readonly kind: 'file';
  readonly size: Bytes;
  /** Bytes that it takes up on its volume. */
  readonly allocated: Bytes;
  /** The same for all names of a file of a volume; empty: it has one name. */
  readonly id: string;
  /** Names of its alternate data streams, which are `name:stream` to the folder. Absent: it has none. */
  streams?(): Promise<readonly string[]>;
  open(): Promise<FileContent>;
}

export interface PointLink extends Attributes {
  readonly kind: 'link';
  /** As it is stored. */
  readonly target: string;
}

/** A device, pipe or socket. */
export interface PointOther extends Attributes {
  readonly kind: 'other';
  /** null: it cannot be known. */
  readonly device: Device | null;
}

export type PointNode = PointDir | PointFile | PointLink | PointOther;

export interface PointVolume {
  /** `p1-ntfs-System`, as it is shown. */
  readonly name: string;
  readonly type: string;
  root(): Promise<PointDir>;
}

export interface PointFiles {
  readonly volumes: readonly PointVolume[];
  /** Encrypted ones for which no key fits. */
  readonly locked: readonly LockedVolume[];
  /** One line each: what cannot be read, and what is odd about the rest. */
  readonly notes: readonly string[];
  /** Nothing of it is to be used afterwards. */
  close(): void;
}

/** What opens the disks of a point; `chain/point.ts` has it. */
export interface DisksOfPoint {
  readonly disks: readonly { readonly name: string; readonly size: Bytes; readonly sectorSize: 512 | 4096 }[];
  openDisk(index: number): Promise<Disk>;
  /** Told of what is read for the parser. */
  seen?(disk: number, at: Bytes, length: Bytes): void;
}

interface Where {
  readonly parser: Parser;
  readonly disks: () => Promise<readonly Disk[]>;
}

/** Ranges that come along with a file for whoever opens most of a folder's files. */
export const FEW_RANGES = 16;

/** So many names are asked for at once. */
export const BATCH = 256;

async function xattrsAt({ parser }: Where, at: NodePath): Promise<ReadonlyMap<string, Uint8Array>> {
  const { names, values } = (await parser.ask({ op: 'xattrs', ...at })) as XattrsRecord;
  return new Map(names.map((name, i) => [name, values[i]!]));
}

const streamsAt = ({ parser }: Where, at: NodePath): Promise<readonly string[]> =>
  parser.ask({ op: 'streams', ...at }) as Promise<readonly string[]>;

function nodeOf(where: Where, at: NodePath, record: NodeRecord): PointNode {
  const { kind, id, mtime, mode, uid, gid, links, size, allocated, target, ranges } = record;
  const attributes: Attributes = {
    mtime,
    mode,
    uid,
    gid,
    links,
    ...(record.xattrs ? { xattrs: () => xattrsAt(where, at) } : {}),
  };
  const streams = record.streams ? { streams: () => streamsAt(where, at) } : {};
  switch (kind) {
    case 'dir':
      return { ...dirOf(where, at, id, attributes), ...streams };
    case 'file':
      return {
        kind,
        ...attributes,
        size,
        allocated,
        id: id === '' ? '' : `${at.volume}:${id}`,
        ...streams,
        open: async () => openContent(where.parser, await where.disks(), at, ranges),
      };
    case 'link':
      return { kind, ...attributes, target };
    case 'other':
      return { kind, ...attributes, device: record.device };
  }
}

function dirOf(where: Where, at: NodePath, id: string, attributes: Attributes): PointDir {
  const { parser } = where;
  const below = (name: string, stream: string | null = null): NodePath => ({ ...at, path: [...at.path, name], stream });
  const one = async (path: NodePath): Promise<PointNode | null> => {
    try {
      return nodeOf(where, path, (await parser.ask({ op: 'node', ...path })) as NodeRecord);
    } catch (error) {
      if (error instanceof ImageError && error.fault === 'not-found') return null;
      throw error;
    }
  };
  return {
    kind: 'dir',
    id,
    ...attributes,
    async list() {
      const { names, kinds } = (await parser.ask({ op: 'list', ...at })) as ListRecord;
      return names.map((name, i) => ({ name: shownName(name), kind: kinds[i]! }));
    },
    async child(name) {
      const node = await one(below(name));
      const colon = name.indexOf(':');
      return node ?? (colon > 0 ? one(below(name.slice(0, colon), name.slice(colon + 1))) : null);
    },
    async children(names, ranges = 0) {
      const records = (await parser.ask({ op: 'nodes', ...at, names, ranges })) as readonly (
        | NodeRecord
        | { readonly failure: FailureRecord }
      )[];
      return records.map((record, i) => {
        if (!('failure' in record)) return nodeOf(where, below(names[i]!), record);
        const { fault, message, where: place } = record.failure;
        return new ImageError(fault, message, place);
      });
    },
  };
}

/** Opens what the disks of a point hold. Reads the top of each volume. */
export async function openPointFiles(parser: Parser, point: DisksOfPoint): Promise<PointFiles> {
  const opened = point.disks.map((): Promise<Disk> | null => null);
  const openDisk = (index: number): Promise<Disk> => {
    opened[index] ??= point.openDisk(index).catch(error => {
      opened[index] = null;
      throw error;
    });
    return opened[index];
  };
  const declared: readonly DeclaredDisk[] = point.disks.map(({ name, size, sectorSize }, index) => ({
    name,
    size,
    sectorSize,
    open: () => openDisk(index),
    seen: (at, length) => point.seen?.(index, at, length),
  }));
  const group = parser.declare(declared);
  const where: Where = { parser, disks: () => Promise.all(point.disks.map((_, index) => openDisk(index))) };
  try {
    const { volumes, locked, notes } = (await parser.ask({ op: 'volumes', group })) as VolumesRecord;
    return {
      close: () => parser.forget(group),
      locked,
      notes,
      volumes: volumes.map(({ name, type }) => {
        const at: NodePath = { group, volume: name, path: [], stream: null };
        return {
          name,
          type,
          root: async () => nodeOf(where, at, (await parser.ask({ op: 'node', ...at })) as NodeRecord) as PointDir,
        };
      }),
    };
  } catch (error) {
    parser.forget(group);
    throw error;
  }
}
