/**
 * What the program and its parser child say to each other over Node's IPC channel (structured clone). Every request of
 * a file names it by its path, so that a child that was started anew knows as much as the one before.
 */
import type { Bytes } from '../base/contracts.ts';
import { type Fault, ImageError, type Where } from '../base/errors.ts';
import type { Device, EntryKind } from '../volumes/contracts.ts';
import type { LockedVolume } from '../volumes/volumes.ts';

export interface DiskSpec {
  readonly name: string;
  readonly size: Bytes;
  readonly sectorSize: 512 | 4096;
}

/** A node inside a volume. Names are as they are shown (`shownName`); a `stream` is an alternate data stream of it. */
export interface NodePath {
  /** Number of the disks that belong together, as they were declared. */
  readonly group: number;
  readonly volume: string;
  readonly path: readonly string[];
  readonly stream: string | null;
}

export type Work =
  | { readonly op: 'volumes'; readonly group: number }
  | ({ readonly op: 'list' } & NodePath)
  | ({ readonly op: 'node' } & NodePath)
  | ({ readonly op: 'xattrs' } & NodePath)
  | ({ readonly op: 'streams' } & NodePath)
  /** Several names of one folder at once, with up to so many `ranges` of each file. */
  | ({ readonly op: 'nodes'; readonly names: readonly string[]; readonly ranges: number } & NodePath)
  | ({ readonly op: 'ranges'; readonly from: Bytes } & NodePath)
  /** Blocks of the disks that the volume has free; an error where that is in doubt. */
  | ({ readonly op: 'unused'; readonly blockSize: Bytes } & NodePath)
  | ({ readonly op: 'read'; readonly from: Bytes; readonly length: number } & NodePath);

export interface VolumeRecord {
  readonly name: string;
  readonly type: string;
}

export interface VolumesRecord {
  readonly volumes: readonly VolumeRecord[];
  readonly locked: readonly LockedVolume[];
  /** `disk0 p3` */
  readonly unknown: readonly string[];
  readonly notes: readonly string[];
}

/** By disk, as `UnusedBlocks` has them; null: none of that disk. */
export interface UnusedRecord {
  readonly bits: readonly (Uint8Array | null)[];
}

/** Names as the file system has them. */
export interface XattrsRecord {
  readonly names: readonly string[];
  readonly values: readonly Uint8Array[];
}

export interface NodeRecord {
  readonly kind: EntryKind;
  /** Empty where a file has one name. */
  readonly id: string;
  readonly mtime: Date;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly links: number;
  /** Zero for all but files. */
  readonly size: Bytes;
  readonly allocated: Bytes;
  /** Whether it is worth asking for extended attributes, and for alternate streams. */
  readonly xattrs: boolean;
  readonly streams: boolean;
  readonly device: Device | null;
  /** Of a link. */
  readonly target: string;
  /** Of a file, where they were asked for and can be had. */
  readonly ranges: RangesRecord | null;
}

export interface ListRecord {
  /** As the file system has them. */
  readonly names: readonly string[];
  readonly kinds: readonly EntryKind[];
}

/** How a stretch of a file is stored; the numbers of `RangesRecord.table`. */
export const STORED = { zero: -1, packed: -2 } as const;
/** Numbers for each range: length, disk (or one of `STORED`), offset on that disk. */
export const RANGE_WORDS = 3;

/** Ranges of a file from `from` on, one after the other, as many as one answer holds. */
export interface RangesRecord {
  readonly size: Bytes;
  readonly table: Float64Array;
}

export interface FailureRecord {
  readonly fault: Fault;
  readonly message: string;
  readonly where: Where;
}

/** What goes over the channel; `otherwise`: the fault of an error that is none of an image. */
export const failureOf = (error: unknown, otherwise: Fault): FailureRecord =>
  error instanceof ImageError
    ? { fault: error.fault, message: error.message, where: error.where }
    : { fault: otherwise, message: error instanceof Error ? error.message : String(error), where: {} };

export type ToChild =
  /** For encrypted volumes. */
  | { readonly secrets: readonly Uint8Array[] }
  /** `skip`: stretches of the disks that are left out. */
  | { readonly declare: number; readonly disks: readonly DiskSpec[]; readonly skip: readonly string[] }
  | { readonly forget: number }
  | { readonly id: number; readonly work: Work }
  | { readonly answers: number; readonly data: Uint8Array }
  | { readonly answers: number; readonly failure: FailureRecord };

export type FromChild =
  | { readonly ready: true }
  | { readonly id: number; readonly value: unknown }
  | { readonly id: number; readonly failure: FailureRecord }
  /** A stretch of the disks that is looked into now; null: all have been. */
  | { readonly opening: string | null; readonly group: number }
  /** Bytes of a disk that it needs. */
  | {
      readonly needs: number;
      readonly group: number;
      readonly disk: number;
      readonly at: Bytes;
      readonly length: number;
    };
