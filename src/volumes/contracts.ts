/**
 * Volumes: the file systems inside a disk, read only. A file is a list of ranges of the disk wherever the file system
 * stores it plainly, so that reading one is the same walk through the chain as reading the disk.
 *
 * Names are bytes first: where a file system's bytes are not UTF-8, each such byte is a lone surrogate U+DC80…U+DCFF in
 * the string (`names.ts`), so that no two names become one and none is lost.
 */
import type { Bytes, Done } from '../base/contracts.ts';
import type { VolumeSource } from './source.ts';

export type EntryKind = 'file' | 'dir' | 'link' | 'other';

export interface Attributes {
  readonly mtime: Date;
  /** Permission bits, 0o7777. File systems without them say what they mean: 0o644, 0o755. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly links: number;
  /** Extended attributes. Absent: it has none. */
  xattrs?(): Promise<Xattrs>;
}

/** By their full names (`user.origin`), which are text as those of files are. */
export type Xattrs = ReadonlyMap<string, Uint8Array>;

/** A name in a folder. `kind` is what the folder says, which can be out of date; the node knows. */
export interface VolumeEntry {
  readonly name: string;
  readonly kind: EntryKind;
  node(): Promise<VolumeNode>;
}

export interface VolumeDir extends Attributes {
  readonly kind: 'dir';
  /** The same for the same folder: what tells a loop. */
  readonly id: string;
  /** Everything but `.` and `..`, in the order of the folder. */
  list(): Promise<readonly VolumeEntry[]>;
  /** The node of one name, as `list` spells it, without reading all of the folder; absent where the folder has no index. null: there is none. */
  lookup?(name: string): Promise<VolumeNode | null>;
  /** Names of its alternate data streams. */
  streams?(): Promise<readonly string[]>;
  /** An alternate data stream; null: there is none of that name. */
  stream?(name: string): Promise<VolumeFile | null>;
}

export interface VolumeFile extends Attributes {
  readonly kind: 'file';
  readonly size: Bytes;
  /** Bytes that it takes up on its volume. */
  readonly allocated: Bytes;
  /** The same for all names of a file that has several. Absent: it has one, or its file system does not know. */
  readonly id?: string;
  open(): Promise<FileContent>;
  /** Names of its alternate data streams. */
  streams?(): Promise<readonly string[]>;
  stream?(name: string): Promise<VolumeFile | null>;
}

export interface VolumeLink extends Attributes {
  readonly kind: 'link';
  /** As it is stored, with `/` between names. */
  target(): Promise<string>;
}

export interface Device {
  readonly type: 'char' | 'block' | 'fifo' | 'socket';
  readonly major: number;
  readonly minor: number;
}

/** A device, pipe or socket. */
export interface VolumeOther extends Attributes {
  readonly kind: 'other';
  /** Absent: it cannot be known. */
  readonly device?: Device;
}

export type VolumeNode = VolumeDir | VolumeFile | VolumeLink | VolumeOther;

/** What lies at an offset of a file, and for how many bytes. `at` counts from the disk's start. */
export type FileRange = { readonly length: Bytes } & (
  | { readonly kind: 'zero' }
  | { readonly kind: 'disk'; readonly at: Bytes }
  | { readonly kind: 'packed' }
);

/** The content of one open file. Needs no closing: everything it holds is memory. */
export interface FileContent {
  readonly size: Bytes;
  /** 1 <= length <= limit; `at + limit` never exceeds `size`. */
  range(at: Bytes, limit: Bytes): FileRange;
  /** Fills `into`; the range lies inside the file. On an error `into` is not to be used. */
  read(into: Uint8Array, at: Bytes): Done;
}

export interface Volume {
  /** `ext4`, `ntfs`, `fat32`, … */
  readonly type: string;
  readonly label: string;
  /** What a user should know before trusting the files, one line each. */
  readonly warnings: readonly string[];
  readonly root: VolumeDir;
  /**
   * Calls `found` with stretches that hold nothing, in order, counted from the volume's start. Throws an ImageError that
   * says why where its map is in doubt: damaged, or of a file system that was not shut down. Absent: it cannot be known.
   */
  free?(found: (at: Bytes, length: Bytes) => void): Promise<void>;
}

/** One family of file systems. */
export interface VolumeReader {
  readonly name: string;
  /** null: not this file system. An ImageError: it is, and cannot be read. Constant I/O, or that of a journal. */
  open(source: VolumeSource): Promise<Volume | null>;
}
