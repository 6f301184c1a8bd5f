/**
 * The other host: the optional package `fuse-native` (libfuse 2.9), for users who may run `fusermount` but not mount(2).
 * Linux only, since mounts are found in mountinfo. It runs on the main thread only; requests are 128 KiB at most; holes are not reported (no LSEEK) and
 * cannot be punched (no FALLOCATE).
 *
 * On Debian: the package brings a prebuilt binding for x64 with its own libfuse 2. Root needs nothing else; an ordinary
 * user needs `fusermount` (package fuse3 or fuse), for `allow_other` also `user_allow_other` in /etc/fuse.conf.
 */
import type { DirNode, FileNode, Host, Mounted, MountOptions, Node, OpenFile } from '../base/contracts.ts';
import { errnoOf, ImageError } from '../base/errors.ts';
import { TYPE_BITS } from '../base/file-types.ts';
import { mountArgument, mountpoint, mountsOf, sourceName, unmount } from './fuse/mount.ts';
import { resize } from './fuse/names.ts';
import { ERRNO, O, PAGE } from './fuse/protocol.ts';

/** The part of the package's interface that is used (its README, version 2.2.6). */
interface FuseInstance {
  mount(done: (error: Error | null) => void): void;
  unmount(done: (error: Error | null) => void): void;
}
interface FuseClass {
  new (
    at: string,
    operations: Readonly<Record<string, unknown>>,
    options: Readonly<Record<string, unknown>>,
  ): FuseInstance;
  unmount(at: string, done: (error: Error | null) => void): void;
}

/** Result of an operation: 0 or a count, or a negative errno; then what else the operation returns. */
type Callback = (result: number, value?: unknown) => void;

/** How often in ms it is checked whether somebody else has unmounted; the package does not say. */
const WATCH = 250;

async function load(): Promise<FuseClass> {
  // A name that the compiler does not follow: the package is optional and has no types.
  const name: string = 'fuse-native';
  try {
    const loaded: { default: FuseClass } = await import(name);
    return loaded.default;
  } catch (cause) {
    const hint = 'npm install fuse-native (prebuilt for x64; elsewhere it needs a compiler and libfuse 2)';
    throw new ImageError('unsupported', 'the package fuse-native cannot be loaded', {}, { cause, hint });
  }
}

interface Opened {
  readonly file: OpenFile;
  /** Opened with O_SYNC or O_DSYNC: each write is durable before it is answered. */
  readonly durable: boolean;
}

/** Calls `work` and answers exactly once, whatever happens. */
function answer(work: () => Promise<readonly [result: number, value?: unknown]>, done: Callback): void {
  work().then(
    ([result, value]) => done(result, value),
    error => done(-errnoOf(error)),
  );
}

const refuse =
  (errno: number) =>
  (...args: unknown[]): void =>
    (args.at(-1) as Callback)(-errno);

async function find(root: DirNode, at: string): Promise<Node> {
  let node: Node = root;
  for (const name of at.split('/')) {
    if (name === '') continue;
    const next: Node | null = node.kind === 'dir' ? await node.child(name) : null;
    if (next === null) throw new ImageError('not-found', 'not in the tree', { file: at });
    node = next;
  }
  return node;
}

async function statOf(node: Node): Promise<Record<string, unknown>> {
  const size = node.kind === 'file' ? node.size() : node.kind === 'link' ? Buffer.byteLength(node.target) : PAGE;
  const blocks = node.kind === 'file' ? Math.ceil((await node.allocated()) / 512) : 0;
  const mode = TYPE_BITS[node.kind] + (node.kind === 'link' ? 0o777 : node.mode % 0o10000);
  const { mtime } = node;
  // The kernel checks permissions here: an ordinary user could not read the files of others.
  const own = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
  const { uid, gid } = own.uid === 0 ? (node.recorded ?? own) : own;
  const nlink = node.kind === 'dir' ? 1 : (node.recorded?.links ?? 1);
  return { mode, uid, gid, size, blocks, blksize: PAGE, nlink, mtime, atime: mtime, ctime: mtime };
}

/** Operations on names. Nothing in the tree is made, renamed or removed through the mount. */
function nameOperations(root: DirNode): Record<string, unknown> {
  const names = ['create', 'mknod', 'mkdir', 'unlink', 'rmdir', 'rename', 'link', 'symlink'];
  return {
    ...Object.fromEntries(names.map(name => [name, refuse(ERRNO.EROFS)])),
    chmod: refuse(ERRNO.EPERM),
    chown: refuse(ERRNO.EPERM),
    setxattr: refuse(ERRNO.EOPNOTSUPP),
    utimens: (_at: string, _a: Date, _m: Date, done: Callback) => done(0),
    statfs: (_at: string, done: Callback) => {
      const blocks = 2 ** 40 / PAGE;
      const counts = { blocks, bfree: blocks, bavail: blocks, files: 2 ** 31, ffree: 2 ** 31, favail: 2 ** 31 };
      done(0, { bsize: PAGE, frsize: PAGE, ...counts, namemax: 255 });
    },
    getattr: (at: string, done: Callback) => answer(async () => [0, await statOf(await find(root, at))], done),
    readdir: (at: string, done: Callback) =>
      answer(async () => {
        const dir = await find(root, at);
        return dir.kind === 'dir' ? [0, (await dir.list()).map(entry => entry.name)] : [-ERRNO.ENOTDIR];
      }, done),
    readlink: (at: string, done: Callback) =>
      answer(async () => {
        const node = await find(root, at);
        return node.kind === 'link' ? [0, node.target] : [-ERRNO.EINVAL];
      }, done),
  };
}

async function openNode(root: DirNode, at: string, flags: number): Promise<OpenFile | number> {
  const node = await find(root, at);
  if (node.kind !== 'file') return -ERRNO.EISDIR;
  if (!node.writable && (flags & O.ACCMODE) !== 0) return -ERRNO.EROFS;
  return node.open();
}

async function truncate(node: FileNode, size: number): Promise<number> {
  if (!node.writable) return -ERRNO.EROFS;
  await using file = await node.open();
  return -(await resize(file, size));
}

/** Operations on open files. File handles begin with 1: the package does not pass on a 0. */
function fileOperations(root: DirNode, opened: Map<number, Opened>): Record<string, unknown> {
  let last = 0;
  const use = (fh: number): Opened => {
    const found = opened.get(fh);
    if (found === undefined) throw new ImageError('io', 'a file handle that was never given out');
    return found;
  };
  return {
    open: (at: string, flags: number, done: Callback) =>
      answer(async () => {
        const file = await openNode(root, at, flags);
        if (typeof file === 'number') return [file];
        opened.set(++last, { file, durable: (flags & O.DSYNC) !== 0 });
        return [0, last];
      }, done),
    read: (_at: string, fh: number, into: Uint8Array, length: number, at: number, done: Callback) =>
      answer(async () => {
        const { file } = use(fh);
        const clipped = Math.min(length, Math.max(0, file.size() - at));
        if (clipped > 0) await file.read(into.subarray(0, clipped), at);
        return [clipped];
      }, done),
    write: (_at: string, fh: number, from: Uint8Array, length: number, at: number, done: Callback) =>
      answer(async () => {
        const { file, durable } = use(fh);
        if (file.write === undefined) return [-ERRNO.EROFS];
        await file.write(from.subarray(0, length), at);
        if (durable) await file.flush?.();
        return [length];
      }, done),
    fsync: (_at: string, _data: boolean, fh: number, done: Callback) =>
      answer(async () => {
        await use(fh).file.flush?.();
        return [0];
      }, done),
    flush: (_at: string, _fh: number, done: Callback) => done(0),
    truncate: (at: string, size: number, done: Callback) =>
      answer(async () => {
        const node = await find(root, at);
        return [node.kind === 'file' ? await truncate(node, size) : -ERRNO.EISDIR];
      }, done),
    ftruncate: (_at: string, fh: number, size: number, done: Callback) =>
      answer(async () => [-(await resize(use(fh).file, size))], done),
    release: (_at: string, fh: number, done: Callback) =>
      answer(async () => {
        const { file } = use(fh);
        opened.delete(fh);
        await file[Symbol.asyncDispose]();
        return [0];
      }, done),
  };
}

/** What libfuse takes. The package joins options by commas and checks none: the last one carries those it does not know. */
function libraryOptions(options: MountOptions): Record<string, unknown> {
  mountArgument(options);
  const name = sourceName(options.fsname).replace(/[\\,]/g, '\\$&');
  return {
    allowOther: options.allowOther,
    defaultPermissions: true,
    subtype: 'bootmount',
    // A slow store is not an error: the default turns 15 seconds into an I/O error in the guest.
    timeout: false,
    fsname: [name, 'big_writes', ...options.extra, 'nosuid', 'nodev', 'noexec'].join(','),
  };
}

export const fuseNativeHost: Host = {
  name: 'fuse-native',
  async mount(root, at, options): Promise<Mounted> {
    const full = mountpoint(at);
    const Fuse = await load();
    const opened = new Map<number, Opened>();
    const operations = { ...nameOperations(root), ...fileOperations(root, opened) };
    const fuse = new Fuse(full, operations, libraryOptions(options));
    await new Promise<void>((resolve, reject) => {
      fuse.mount(error => {
        if (error === null || error === undefined) return resolve();
        const hint = 'an ordinary user needs fusermount and access to /dev/fuse';
        reject(
          new ImageError(
            'unsupported',
            `libfuse did not mount: ${error.message}`,
            { file: at },
            { cause: error, hint },
          ),
        );
      });
    });
    const ended = watch(Fuse, fuse, full, opened);
    return {
      ended,
      async [Symbol.asyncDispose]() {
        if (mountsOf(full).length > 0) await unmount(full);
        await ended;
      },
    };
  },
};

/** Resolves when the mount is gone and every file is closed. */
async function watch(Fuse: FuseClass, fuse: FuseInstance, at: string, opened: Map<number, Opened>): Promise<void> {
  await new Promise<void>(resolve => {
    const timer = setInterval(() => {
      if (mountsOf(at).length > 0) return;
      clearInterval(timer);
      resolve();
    }, WATCH);
  });
  // Its own way of unmounting would now fail, and it lets go of the event loop only after it.
  Fuse.unmount = (_at, done) => done(null);
  await new Promise<void>(resolve => fuse.unmount(() => resolve()));
  for (const { file } of opened.values()) await file[Symbol.asyncDispose]();
  opened.clear();
}
