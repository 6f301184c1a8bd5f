/** A small tree in memory that host tests look at from outside, and knobs for what is to go wrong. */
import fs from 'node:fs';
import type { DirNode, Done, FileNode, LinkNode, Node, OpenFile } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { readFullNow, syncData, writeFullNow } from '../../src/base/full-io.ts';

export const MiB = 1024 * 1024;
export const DISK_SIZE = 64 * MiB;
export const PATTERN_SIZE = 48 * MiB + 1234;
/** `sparse.raw` has data in every fourth of these, beginning with the second. */
export const REGION = MiB;
export const MTIME = new Date('2001-02-03T04:05:06.789Z');

export type Fault = 'none' | 'shared-buffer';

export interface TreeOptions {
  /** Writes finish later, in another order, and `from` is looked at only then. */
  readonly asyncWrites: boolean;
  readonly fault: Fault;
  /** A file that holds the writable disk, so that it outlives the process. */
  readonly backing?: string;
  said(event: string): void;
}

/** Fills `into` with the content of the pattern file: the word at 4k is k times an odd number. */
export function pattern(into: Uint8Array, at: number): void {
  for (let i = 0; i < into.length; i++) {
    const word = Math.imul(Math.floor((at + i) / 4) + 1, 0x9e3779b1) >>> 0;
    into[i] = word >>> (8 * ((at + i) % 4));
  }
}

const dir = (children: Readonly<Record<string, Node>>): DirNode => ({
  kind: 'dir',
  mtime: MTIME,
  mode: 0o555,
  list: async () => Object.entries(children).map(([name, node]) => ({ name, kind: node.kind })),
  child: async name => (Object.hasOwn(children, name) ? children[name]! : null),
});

const link = (target: string): LinkNode => ({ kind: 'link', mtime: MTIME, target });

const dataFrom = (
  at: number,
  want: 'data' | 'hole',
  isData: (region: number) => boolean,
  size: number,
): number | null => {
  for (let region = Math.floor(at / REGION); region * REGION < size; region++) {
    if (isData(region) === (want === 'data')) return Math.max(at, region * REGION);
  }
  return null;
};

/** A read-only file; `read` may be slow or fail. */
function readOnly(
  size: number,
  read: (into: Uint8Array, at: number) => Done,
  isData = (_: number): boolean => true,
): FileNode {
  const file: OpenFile = {
    size: () => size,
    read,
    seek: (at, want) => dataFrom(at, want, isData, size),
    async [Symbol.asyncDispose]() {},
  };
  let allocated = 0;
  for (let region = 0; region * REGION < size; region++) if (isData(region)) allocated += REGION;
  return {
    kind: 'file',
    mtime: MTIME,
    mode: 0o444,
    size: () => size,
    allocated: () => Math.min(allocated, size),
    writable: false,
    open: async () => file,
  };
}

/** A writable disk in a file: what was answered is in the host's kernel. */
function backedDisk(path: string): FileNode {
  const fd = fs.openSync(path, 'r+');
  const size = fs.fstatSync(fd).size;
  const file: OpenFile = {
    size: () => size,
    read: (into, at) => readFullNow(fd, into, at, path),
    write: (from, at) => writeFullNow(fd, from, at, path),
    flush: () => syncData(fd, path),
    seek: (at, want) => (want === 'data' ? at : null),
    async [Symbol.asyncDispose]() {},
  };
  return {
    kind: 'file',
    mtime: MTIME,
    mode: 0o644,
    size: () => size,
    allocated: () => size,
    writable: true,
    open: async () => file,
  };
}

function disk(options: TreeOptions): FileNode {
  const memory = new Uint8Array(DISK_SIZE);
  const scratch = new Uint8Array(MiB);
  let size = DISK_SIZE / 2;
  let turn = 0;
  const later = (work: () => void): Promise<void> =>
    new Promise(resolve => {
      const done = (): void => {
        work();
        resolve();
      };
      if (turn++ % 3 === 0) setTimeout(done, 1);
      else setImmediate(done);
    });
  const file: OpenFile = {
    size: () => size,
    read: (into, at) => into.set(memory.subarray(at, at + into.length)),
    write(from, at) {
      if (at + from.length > size) throw new ImageError('no-space', 'the disk is full');
      if (options.fault === 'shared-buffer') {
        const shared = scratch.subarray(0, from.length);
        shared.set(from);
        return later(() => memory.set(shared, at));
      }
      if (options.asyncWrites) return later(() => memory.set(from, at));
      memory.set(from, at);
    },
    zero: (at, length) => {
      options.said(`zero ${at} ${length}`);
      memory.fill(0, at, at + length);
    },
    resize: to => {
      if (to > DISK_SIZE) throw new ImageError('too-big', 'past the limit');
      size = to;
    },
    flush: async () => options.said('flush'),
    seek: (at, want) => (want === 'data' ? at : null),
    async [Symbol.asyncDispose]() {
      options.said('closed');
    },
  };
  return {
    kind: 'file',
    mtime: MTIME,
    mode: 0o644,
    size: () => size,
    allocated: async () => size,
    writable: true,
    open: async () => file,
  };
}

const after = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms));

export function memoryTree(options: TreeOptions): DirNode {
  let failures = 0;
  return dir({
    'hello.txt': readOnly(6, (into, at) => into.set(Buffer.from('hello\n').subarray(at, at + into.length))),
    'pattern.raw': readOnly(PATTERN_SIZE, pattern),
    'sparse.raw': readOnly(
      16 * MiB,
      into => void into.fill(7),
      region => region % 4 === 1,
    ),
    'hole.raw': readOnly(
      4 * MiB,
      into => void into.fill(0),
      () => false,
    ),
    'slow.raw': readOnly(MiB, async (into, at) => {
      await after(150);
      pattern(into, at);
    }),
    'async.raw': readOnly(PATTERN_SIZE, async (into, at) => {
      await null;
      pattern(into, at);
    }),
    'bad.raw': readOnly(8 * MiB, (into, at) => {
      into.fill(1);
      if (at < 4 * MiB) return;
      options.said(`failed ${++failures}`);
      throw new ImageError('corrupt', 'damaged on purpose', { at });
    }),
    'rejected.raw': readOnly(4 * MiB, async () => {
      throw new ImageError('locked', 'no key');
    }),
    'disk.raw': options.backing === undefined ? disk(options) : backedDisk(options.backing),
    'Übergröße – файл.txt': readOnly(1, into => void into.fill(33)),
    link: link('sub/deeper/pattern.raw'),
    sub: dir({ deeper: dir({ 'pattern.raw': readOnly(PATTERN_SIZE, pattern), up: link('../..') }) }),
    many: dir(
      Object.fromEntries(Array.from({ length: 3000 }, (_, i) => [`file-${i}`, readOnly(i, into => void into.fill(1))])),
    ),
  });
}
