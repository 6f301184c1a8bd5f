/**
 * Loaded into the processes of a mount before their own code (`node --import`): plants an error into their file access,
 * or measures how long the worker lets its callers wait. The program itself knows nothing of it.
 */
import fs from 'node:fs';
import path from 'node:path';

const FUSE = 3;
const isWorker = process.argv[1]?.endsWith('worker.ts') === true;

type WriteSync = (fd: number, from: Uint8Array, offset: number, length: number, at: number | null) => number;
type ReadSync = (fd: number, into: Uint8Array, offset: number, length: number, at: number | null) => number;
const access = fs as unknown as { writeSync: WriteSync; readSync: ReadSync; openSync: typeof fs.openSync };
const { writeSync, readSync, openSync } = access;

/** What a descriptor was opened as: the last part of the path. */
const names = new Map<number, string>();

function everyNth(n: number): () => boolean {
  let count = 0;
  return () => ++count % n === 0;
}

function seeRoom(): void {
  const { statfsSync } = fs;
  (fs as unknown as Record<string, unknown>).statfsSync = (at: string) => {
    const told = statfsSync(at);
    return { ...told, bavail: told.blocks * 1000 };
  };
}

const plants: Readonly<Record<string, () => void>> = {
  /** One write in 500 takes the bytes of the one before it: what a buffer that two requests share does. */
  'stale-payload'() {
    const due = everyNth(500);
    let before: Uint8Array | null = null;
    access.writeSync = (fd, from, offset, length, at) => {
      if (names.get(fd) !== 'data' || length < 4096) return writeSync(fd, from, offset, length, at);
      const now = from.slice(offset, offset + length);
      if (due() && before !== null) now.set(before.subarray(0, Math.min(length, before.length)));
      before = now;
      return writeSync(fd, now, 0, length, at);
    };
  },
  /** One write to the data in 20 is said to be done and is not. */
  'lost-write'() {
    const due = everyNth(20);
    access.writeSync = (fd, from, offset, length, at) =>
      names.get(fd) === 'data' && due() ? length : writeSync(fd, from, offset, length, at);
  },
  /** One change of the map in 20 is said to be done and is not: a block that only memory knows. */
  'lost-mark'() {
    const due = everyNth(20);
    access.writeSync = (fd, from, offset, length, at) =>
      names.get(fd)?.startsWith('recent') === true && length < 256 && (at ?? 0) > 4096 && due()
        ? length
        : writeSync(fd, from, offset, length, at);
  },
  /** The kernel is not asked to repeat what an earlier worker did not answer. */
  'no-resend'() {
    access.writeSync = (fd, from, offset, length, at) =>
      fd === FUSE && new DataView(from.buffer, from.byteOffset).getUint32(4, true) === 7
        ? from.length
        : writeSync(fd, from, offset, length, at);
  },
  /** The INIT answer does not let the kernel send requests of one file side by side. */
  'one-at-a-time'() {
    const ASYNC_DIO = 1 << 15;
    let done = false;
    access.writeSync = (fd, from, offset, length, at) => {
      if (fd === FUSE && !done && length >= 16 + 64) {
        // struct fuse_out_header, then struct fuse_init_out: flags are its fourth word.
        const view = new DataView(from.buffer, from.byteOffset + offset);
        view.setUint32(16 + 12, view.getUint32(16 + 12, true) & ~ASYNC_DIO, true);
        done = true;
      }
      return writeSync(fd, from, offset, length, at);
    };
  },
  /** Offsets into the data are cut to 32 bits. */
  'offset-32'() {
    access.writeSync = (fd, from, offset, length, at) =>
      writeSync(fd, from, offset, length, names.get(fd)?.startsWith('data') === true && at !== null ? at >>> 0 : at);
    access.readSync = (fd, into, offset, length, at) =>
      readSync(fd, into, offset, length, names.get(fd)?.startsWith('data') === true && at !== null ? at >>> 0 : at);
  },
  /** The file system below is used to its end. */
  'no-room': seeRoom,
  /** A full disk is not noticed. */
  'full-disk-unseen'() {
    seeRoom();
    access.writeSync = (fd, from, offset, length, at) => {
      try {
        return writeSync(fd, from, offset, length, at);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOSPC' && names.get(fd) === 'data') return length;
        throw error;
      }
    };
  },
  /** A sync that failed is said to have been done. */
  'sync-unseen'() {
    const { fdatasync } = fs;
    (fs as unknown as Record<string, unknown>).fdatasync = (fd: number, done: (error: null) => void) =>
      fdatasync(fd, () => done(null));
  },
  /** One request in 50 holds up the thread for 60 ms. */
  'slow-thread'() {
    const due = everyNth(50);
    const never = new Int32Array(new SharedArrayBuffer(4));
    access.writeSync = (fd, from, offset, length, at) => {
      if (fd === FUSE && due()) Atomics.wait(never, 0, 0, 60);
      return writeSync(fd, from, offset, length, at);
    };
  },
};

const plant = process.env.SOAK_PLANT;
if (isWorker && plant !== undefined) {
  access.openSync = (file, flags, mode) => {
    const fd = openSync(file, flags, mode);
    names.set(fd, path.basename(String(file)));
    return fd;
  };
  plants[plant]!();
}

if (isWorker && process.env.SOAK_DELAYS !== undefined) {
  const { measureDelays } = await import('./delays.ts');
  measureDelays(process.env.SOAK_DELAYS);
}
