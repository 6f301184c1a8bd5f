/**
 * The contracts everything is built on. One question runs through all of them: what lies at offset X,
 * and for how many bytes does that answer hold?
 *
 * Two conventions:
 * - `Done`: the work may be finished when the call returns (nothing returned) or later (a promise). A caller
 *   that can wait uses `await`; the serving loop answers at once when nothing was returned.
 * - `locate` and `extent` are synchronous and answer from metadata in memory. `null` means that this metadata is
 *   not resident: `await load(at, limit)` and ask again.
 */
import type { ImageError } from './errors.ts';

export type * from './nodes.ts';

/** A byte offset or length. Safe integers only: 2^53 bytes is 8 PiB. */
export type Bytes = number;
export type Done = void | Promise<void>;

// ── storage: bytes at rest, wherever they rest ────────────────────────────────

export interface ByteSource extends AsyncDisposable {
  /** Name in its store, for error messages. */
  readonly name: string;
  readonly size: Bytes;
  /** Changes when the file is replaced or written. Absent where the store cannot tell. */
  readonly version?: string;
  /** Fills `into` from `at`, wholly; a short read is an ImageError. `into` belongs to the call until it is done. */
  read(into: Uint8Array, at: Bytes): Done;
  /** Holes of a sparse file, where they are known: 'zero' reads as zeros and takes no space. 1 <= length <= limit. */
  extent?(at: Bytes, limit: Bytes): Extent;
  /**
   * Puts bytes from `at` into a pipe without taking them into this program's memory (splice(2)), where that needs no waiting
   * as far as is known. How many went in; less than `length`: they are to be read, and the pipe is to be emptied.
   */
  splice?(pipe: number, at: Bytes, length: Bytes): Bytes;
}

/** Bytes that lie in one source as they are. */
export interface Place {
  readonly source: ByteSource;
  readonly at: Bytes;
}

export interface ByteFile extends ByteSource {
  /** Writes all of `from`, growing the file when needed. `from` belongs to the call until it is done. */
  write(from: Uint8Array, at: Bytes): Done;
  truncate(size: Bytes): Promise<void>;
  /** Resolves when everything written before the call is durable. */
  sync(): Promise<void>;
}

export interface StoreEntry {
  readonly name: string;
  readonly size: Bytes;
  readonly modified: Date;
}

/** One place where backups live. Names are relative, `/`-separated, and never lead outside. Never writes. */
export interface Store extends AsyncDisposable {
  /** For messages: the path or URL that the user gave. */
  readonly label: string;
  /**
   * Every regular file below `prefix` (a folder name, '' for all), in code-point order. Symbolic links are not followed.
   * Folders that `skips` names are not looked into.
   */
  list(prefix?: string, skips?: (folder: string) => boolean): AsyncIterable<StoreEntry>;
  /** Where `list` shows one file alone: those of its folder, for formats of several files. */
  beside?(folder: string): AsyncIterable<StoreEntry>;
  /** A missing name, or one that leads outside, is an ImageError 'not-found'. */
  open(name: string): Promise<ByteSource>;
}

export interface WritableStore extends Store {
  /** Fails with 'exists' when there is a file of that name. */
  create(name: string): Promise<ByteFile>;
  /** An existing file. */
  reopen(name: string): Promise<ByteFile>;
  /** Durable when it resolves; replaces `to`. */
  rename(from: string, to: string): Promise<void>;
  remove(name: string): Promise<void>;
}

/** What is compressed as a whole, and how to unpack it. */
export interface Unpacking {
  /** Of the compressed file, for messages. */
  readonly name: string;
  /** Changes with the compressed file. */
  readonly version: string;
  /** Length of the compressed file. */
  readonly packed: Bytes;
  /** More than this never comes out of a sound file; null where nothing says. */
  readonly most: Bytes | null;
  /** What comes out, part by part, from the start of the file or from a `restart` on. */
  content(told: UnpackingTold, from: Bytes): AsyncIterable<Uint8Array>;
}

export interface UnpackingTold {
  /** How much of the compressed file was read. */
  reached(packed: Bytes): void;
  /** What comes next can be had by itself: `content` from this place of the compressed file on gives it. */
  restart(packed: Bytes): void;
}

/** Room for what has no random access: compressed files are unpacked into it when they are first read, once. */
export interface Scratch {
  /**
   * The unpacked file. Concurrent calls share one run; what was not unpacked to its end is not there. 'corrupt' when more
   * than `most` comes out, 'no-space' when the room does not suffice.
   */
  unpacked(what: Unpacking): Promise<ByteSource>;
  /**
   * The unpacked file while it is coming: reads of what is there are served, others wait, and errors of the run are
   * theirs. `size` is `most` (2^53 - 1 for null) until all is there. Only for content with checksums of its own: those of
   * the compressed file are known to hold at the end.
   */
  growing(what: Unpacking): ByteSource;
}

// ── layer: one disk in one image of a chain ──────────────────────────────────

export type LayerId = string & { readonly __brand: 'LayerId' };

/** What lies at an offset, and for how many bytes that answer holds. */
export type Location = { readonly length: Bytes } & (
  | { readonly kind: 'absent' }
  | { readonly kind: 'zero' }
  | { readonly kind: 'plain'; readonly source: ByteSource; readonly at: Bytes }
  | { readonly kind: 'packed'; readonly unit: number; readonly within: Bytes }
);

export interface Layer {
  readonly id: LayerId;
  readonly size: Bytes;
  /** Length of one unpacked unit, and the usual unit of allocation. */
  readonly blockSize: Bytes;
  /** 1 <= length <= limit; `at + limit` never exceeds `size`. `null`: call `load` first. Does not wait and does no I/O. */
  locate(at: Bytes, limit: Bytes): Location | null;
  /** Makes `locate(at, …)` answer for at least the first byte. Concurrent calls share one read. */
  load(at: Bytes, limit: Bytes): Promise<void>;
  /** true while the first `load` has a whole file to unpack: who wants no more than an estimate does not ask. */
  deferred?(): boolean;
  /** Decrypts, checks and decompresses one unit into `into` (blockSize long; past the disk's end zeros). Never partly: on an error `into` is not to be used. */
  unpack(unit: number, into: Uint8Array): Promise<void>;
  /**
   * Whether a range holds the same as in another layer of this format, by the metadata of both: for formats whose layers
   * are complete by themselves and share what did not change. `same: false` may be a doubt. null: the two have nothing to
   * do with each other. 1 <= length <= limit.
   */
  compare?(other: Layer, at: Bytes, limit: Bytes): Promise<{ readonly same: boolean; readonly length: Bytes } | null>;
}

// ── adapter: one backup image type ──────────────────────────────────────────────────

export type Confidence = 'no' | 'maybe' | 'certain';

export interface Keyring {
  /** Secrets to try, in the user's order; empty when there are none (the image is then locked, not broken). */
  secrets(): Promise<readonly Uint8Array[]>;
}

/** How an image names the image below it. Names are resolved inside the store only, by the core. */
export type ParentRef =
  | { readonly by: 'id'; readonly id: LayerId; readonly names: readonly string[] }
  | { readonly by: 'name'; readonly name: string; readonly format: string | null };

export interface ImageDisk {
  /** `disk0`, `disk1`, … in the backup's own order. */
  readonly name: string;
  readonly size: Bytes;
  readonly sectorSize: 512 | 4096;
  /** Bytes that this image stores for the disk, after compression. */
  readonly stored: Bytes;
  /** null while the image is locked or broken. */
  readonly layer: Layer | null;
}

export type PointType = 'full' | 'incremental' | 'differential' | 'snapshot';

/** What one image file says about one restore point. */
export interface ImagePoint {
  readonly id: LayerId;
  /** The image whose disks lie under these; null when these disks are complete by themselves. */
  readonly parent: ParentRef | null;
  /** Set and point name that the backup itself records; null: the core names them after the file. */
  readonly set: string | null;
  readonly time: Date | null;
  readonly type: PointType;
  readonly disks: readonly ImageDisk[];
  /** Changes whenever the stored content does. A clone is bound to it. */
  readonly identity: string;
  /** true: `identity` covers every byte that is read. Otherwise the core adds the file's size and time to it. */
  readonly sealed?: boolean;
  /** The point that this one was made on, where `parent` is null because the disks are complete by themselves. */
  readonly builtOn?: LayerId | null;
  /** Why it cannot be read: 'locked', 'wrong-key', 'broken-chain', 'corrupt', 'unsupported'. */
  readonly problem: ImageError | null;
}

export interface Problem {
  readonly fault: string;
  readonly message: string;
  readonly file: string;
  readonly offset: Bytes;
  readonly disk?: string;
  readonly block?: number;
}

export interface VerifyRun {
  /** 1 checksums, 2 structure too, 3 every block too (needs the key). */
  readonly level: 1 | 2 | 3;
  found(problem: Problem): void;
  progress(bytesDone: Bytes, bytesTotal: Bytes): void;
  readonly signal: AbortSignal;
}

export interface Verified {
  /** Units as the format counts them. */
  readonly checked: number;
  readonly bytes: Bytes;
  /** Everything that reading this image's disks would read was read and checked: nothing is gained by reading it again. */
  readonly whole?: boolean;
}

/** One opened image file, and everything it says. Points are in the order of the file, oldest first. */
export interface Image extends AsyncDisposable {
  readonly adapter: string;
  readonly name: string;
  readonly encrypted: boolean;
  /** Where the format has several: what a layer on this one, or a full beside it, is encrypted with. */
  readonly cipher?: LayerCipher;
  readonly points: readonly ImagePoint[];
  /** Oddities that do not stop reading, one line each. */
  readonly warnings: readonly string[];
  /** What else the file holds (bitmaps, other snapshots), one line each. */
  readonly notes?: readonly string[];
  /** Checks the file by itself, without following the chain. Absent: the format carries nothing to check. */
  verify?(run: VerifyRun): Promise<Verified>;
}

export interface LayerSpec {
  readonly set: string;
  readonly time: Date;
  readonly type: PointType;
  readonly disks: readonly { readonly name: string; readonly size: Bytes; readonly sectorSize: 512 | 4096 }[];
  readonly blockSize: Bytes;
  /** The opened image that holds the parent point, and which of its points; null for a full. */
  readonly parent: { readonly image: Image; readonly point: ImagePoint } | null;
  /** Secret that unlocks the layer; null: not encrypted. */
  readonly secret: Uint8Array | null;
  /** zstd level; 0 stores blocks as they are. */
  readonly compression: number;
  /** Of a full with a secret, where the format has several; a child has its parent's. */
  readonly cipher?: LayerCipher;
}

/**
 * GCM: every block compressed and authenticated by itself. XTS: sectors as LUKS has them, each by itself and as long as it
 * was, so that a point can become a LUKS image without its key.
 */
export type LayerCipher = 'aes-256-gcm' | 'aes-256-xts';

export interface LayerWriter extends AsyncDisposable {
  /**
   * Puts one block, in any order; the last one of a block wins. `data` is blockSize long (the last block of a disk may
   * be shorter) and may be reused once the promise resolves. 'zero' hides the parent, 'absent' lets it show.
   */
  write(disk: number, block: number, data: Uint8Array | 'zero' | 'absent'): Promise<void>;
  /** Bytes that went into the file so far. */
  readonly stored: Bytes;
  /** Zeros are stored like data: a full that writes them all is done when it commits, and a parent that has them is as good. */
  readonly dense?: boolean;
  /** Of them what an earlier, killed run left; blocks that are the same still are not stored again. */
  readonly found?: Bytes;
  /** Durable and visible when it resolves. Without it the image never existed. */
  commit(): Promise<LayerId>;
}

export interface Adapter {
  readonly name: string;
  /** For people: "QEMU copy-on-write". */
  readonly title: string;
  readonly extensions: readonly string[];
  readonly supports: {
    readonly differencing: boolean;
    readonly encryption: boolean;
    readonly compression: boolean;
    readonly write: boolean;
  };
  /** Looks at the first and last bytes (up to 64 KiB each) and at nothing else. */
  probe(head: Uint8Array, tail: Uint8Array, name: string): Confidence;
  /**
   * Reads identity and the top of the metadata: constant I/O whatever the size. Never follows a parent. Without `scratch`
   * what is compressed as a whole is listed, and cannot be read.
   */
  open(name: string, store: Store, keys: Keyring, scratch?: Scratch): Promise<Image>;
  /**
   * For formats of many files: the file belongs to an image that is opened by another name. It is neither opened by
   * itself nor of an unknown format. By the name alone; `has` says whether the repository has a file of that name.
   */
  owns?(name: string, has: (name: string) => boolean): boolean;
  /** For formats of very many files: nothing in this folder is an image by itself, so it is not listed. */
  skips?(folder: string): boolean;
  /** Present where `supports.write`. */
  create?(name: string, store: WritableStore, spec: LayerSpec): Promise<LayerWriter>;
}

// ── disk: what a guest sees ─────────────────────────────────────────────────────────

export interface Extent {
  readonly kind: 'data' | 'zero';
  readonly length: Bytes;
}

/** Where data lies, and where a disk is known to read as zeros. */
export interface Extents {
  readonly size: Bytes;
  readonly sectorSize: 512 | 4096;
  /** 1 <= length <= limit, as long as is cheap to know. `null`: call `load` first. */
  extent(at: Bytes, limit: Bytes): Extent | null;
  load(at: Bytes, limit: Bytes): Promise<void>;
  /** As in `Layer`. */
  deferred?(): boolean;
}

export interface Disk extends Extents, AsyncDisposable {
  /** Stable across mounts; views derive their UUIDs from it. */
  readonly id: string;
  /** Fills `into` from `at`; the range lies inside the disk. On an error `into` is not to be used. */
  read(into: Uint8Array, at: Bytes): Done;
  /** Where all of a range lies as it is; null: not in one place, or not known without waiting. Does no I/O. */
  plain?(at: Bytes, length: Bytes): Place | null;
}

export interface WritableDisk extends Disk {
  /** All of `from` has reached the host's kernel when this is done: it survives a kill of this process. `from` belongs to the call until then. */
  write(from: Uint8Array, at: Bytes): Done;
  /** The range reads as zeros afterwards, whatever the base says. */
  zero(at: Bytes, length: Bytes): Done;
  /** Everything done before the call is durable when it resolves. */
  flush(): Promise<void>;
}

// ── view: a file that does not exist ────────────────────────────────────────────────

export type Piece =
  | { readonly kind: 'disk'; readonly length: Bytes; readonly at: Bytes }
  | { readonly kind: 'zero'; readonly length: Bytes }
  | {
      readonly kind: 'made';
      readonly length: Bytes;
      /** Fills all of `into` with the piece's bytes from `at` (relative to the piece's start). */
      fill(into: Uint8Array, at: Bytes): Done;
    };

/** `from`: file offset at which the piece starts. */
export type PlacedPiece = Piece & { readonly from: Bytes };

export interface VirtualFile {
  /** Appended to the disk's name: `.raw`, `.qcow2`, `-flat.vmdk`. */
  readonly suffix: string;
  readonly size: Bytes;
  /** The piece that holds `at`, 0 <= at < size. 'disk' pieces may reach past the disk's end: zeros there. */
  pieceAt(at: Bytes): PlacedPiece;
}

export interface LayoutSpec {
  /** Identity layout, everything allocated, for a hypervisor to write to; otherwise compact: holes stay holes. */
  readonly writable: boolean;
  /** Name of the file without suffix, for formats that refer to themselves. */
  readonly name: string;
}

export interface DiskFormat {
  readonly name: 'raw' | 'vhd' | 'vhdx' | 'qcow2' | 'vmdk' | 'vdi';
  readonly title: string;
  /** Pure: the same disk gives the same bytes on every mount. Refuses a size beyond the format's limit with 'too-big', naming an alternative. */
  layout(disk: Extents & { readonly id: string }, spec: LayoutSpec): readonly VirtualFile[];
}
