/** What is mounted, and by whom it is served. */
import type { Bytes, Done, Place } from './contracts.ts';

export type Node = DirNode | FileNode | LinkNode | SpecialNode;

/** What a node out of a backup has beside the rest; a node without it belongs to whoever mounts. */
export interface Recorded {
  readonly uid: number;
  readonly gid: number;
  /** Names that the file has. */
  readonly links: number;
}

/** Extended attributes by the bytes of their full names as latin1. */
export type Xattrs = ReadonlyMap<string, Uint8Array>;

/** What nodes of backups may have beside. */
export interface Described {
  /** Its name stands for it as long as this process serves, and mostly for the next one too. */
  readonly lasting?: boolean;
  /** Absent: there are none. Not asked for names that `mayHave` says are never there. */
  xattrs?(): Promise<Xattrs>;
  mayHave?(name: string): boolean;
}

/** A device, pipe or socket; the mount makes it harmless. */
export interface SpecialNode extends Described {
  readonly kind: 'char' | 'block' | 'fifo' | 'socket';
  readonly recorded: Recorded;
  readonly mtime: Date;
  readonly mode: number;
  readonly major: number;
  readonly minor: number;
}

export interface DirNode extends Described {
  readonly kind: 'dir';
  /** It is the same for as long as the mount lives, and so are its names. */
  readonly recorded?: Recorded;
  readonly mtime: Date;
  /** Permission bits, 0o555 for most; of a node out of a backup 0o7777. */
  readonly mode: number;
  /** 'unknown': asking for the node tells. */
  list(): Promise<readonly { readonly name: string; readonly kind: Node['kind'] | 'unknown' }[]>;
  /** At once where it is known: programs ask for one name after the other. */
  child(name: string): Node | null | Promise<Node | null>;
}

export interface FileNode extends Described {
  readonly kind: 'file';
  /** It is the same for as long as the mount lives. */
  readonly recorded?: Recorded;
  readonly mtime: Date;
  readonly mode: number;
  /** Now; a writable view can grow. */
  size(): Bytes;
  /** Bytes that are not holes, for st_blocks; may be a close estimate while metadata is not loaded. */
  allocated(): Bytes | Promise<Bytes>;
  readonly writable: boolean;
  open(): Promise<OpenFile>;
}

export interface LinkNode extends Described {
  readonly kind: 'link';
  readonly recorded?: Recorded;
  readonly mtime: Date;
  readonly target: string;
}

export interface OpenFile extends AsyncDisposable {
  size(): Bytes;
  /** Fills `into`; the host has clipped the range to the size. */
  read(into: Uint8Array, at: Bytes): Done;
  /** As in `Disk`. */
  plain?(at: Bytes, length: Bytes): Place | null;
  /** Present on writable files. May grow the file, or refuse that with 'no-space' or 'too-big'. */
  write?(from: Uint8Array, at: Bytes): Done;
  /** Punch hole and zero range: zeros afterwards. */
  zero?(at: Bytes, length: Bytes): Done;
  /** Larger only: growth, where the format allows it. */
  resize?(size: Bytes): Done;
  flush?(): Promise<void>;
  /** First data (or hole) at or after `at`; null: none until the end. The end counts as a hole. */
  seek(at: Bytes, want: 'data' | 'hole'): Bytes | null | Promise<Bytes | null>;
}

export interface Mounted extends AsyncDisposable {
  /** Resolves when the kernel has let go of the mount, however that came about. */
  readonly ended: Promise<void>;
}

export interface MountOptions {
  readonly fsname: string;
  readonly allowOther: boolean;
  readonly extra: readonly string[];
}

export interface Host {
  readonly name: 'fuse' | 'fuse-native';
  /** Serves `root` at the empty directory `at`. Resolves when the tree can be read. */
  mount(root: DirNode, at: string, options: MountOptions): Promise<Mounted>;
}
