/**
 * What Node cannot do by itself, through the optional package `koffi`: finding and making holes, taking a descriptor from
 * another program, reading only what is in memory, passing bytes on without reading them, looking at a descriptor without
 * reading it, placing a thread, telling where bytes lie, calling zlib without an object for each stream. Without it sparse
 * files are read whole, long answers are copied once more, space is given back later, ordinary users cannot mount, a mount
 * whose machine is busy takes its disks for slow, restores go through the page cache, and a request at a time is served at
 * the speed of wake-ups.
 */
import fs from 'node:fs';
import { createRequire } from 'node:module';
import type { Bytes } from './contracts.ts';

const POLLIN = 1;
const RWF_NOWAIT = 8;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const ENXIO = 6;
const EOPNOTSUPP = 95;
/** `cpu_set_t`, in bytes. */
const CPU_MASK = 128;
const KEEP_SIZE = 1;
const KEEP_SIZE_PUNCH_HOLE = 3;

export interface Native {
  /** First data (hole) at or after `at`, inside the file; null: none until its end, or the file system does not say. */
  seek(fd: number, at: Bytes, want: 'data' | 'hole'): Bytes | null | 'unknown';
  /** Sets an extended attribute of an open file, or of what a path names, a link included; false: refused. */
  setXattr(at: number | string, name: Uint8Array, value: Uint8Array): boolean;
  /** Makes a device, pipe or socket: mode and type as in mknod(2); false: refused. Never follows or replaces what is there. */
  makeNode(path: string, mode: number, major: number, minor: number): boolean;
  /** Gives the range's blocks back to the file system; false when it cannot. It reads as zeros then. */
  punch(fd: number, at: Bytes, length: Bytes): boolean;
  /** Gives the range blocks that read as zeros until they are written; false when it cannot. The file grows no longer. */
  allocate(fd: number, at: Bytes, length: Bytes): boolean;
  /**
   * Calls `send` with one end of a new socket, for a program that passes a descriptor through it (unix(7), SCM_RIGHTS) and
   * has ended when `send` returns. The descriptor; null: `send` says false, or none came.
   */
  passDescriptor(send: (socket: number) => boolean): number | null;
  /** Fills `into` if that takes no waiting for a device, or a part of it; the number of bytes, -1: none, null: the file system does not say. */
  readNow(fd: number, into: Uint8Array, at: Bytes): number | null;
  /** zlib of this program (zlib.h); null where it does not show it. */
  readonly zlib: NativeZlib | null;
  /** A new file in memory, all of it a hole; null: there is no such thing here. */
  memoryFile(length: Bytes): number | null;
  /** A new pipe that holds so many pages at once; null: the kernel grants less. */
  pipe(capacity: Bytes): Pipe | null;
  /** splice(2): from a place of a file, or (null) from a pipe, into a pipe or a device; as far as there is room. How much went over. */
  splice(from: number, at: Bytes | null, into: number, length: Bytes): number;
  /** A function that waits so many ms (-1: without end) until the descriptor can be read: poll(2)'s events, 0: none. */
  poller(fd: number): (ms: number) => number;
  /** The processors that a thread (0: this one) may run on, a bit for each, the lowest of the first byte for number 0. */
  processors(thread: number): Uint8Array | null;
  /** Lets a thread run on these processors only; false: refused. */
  confine(thread: number, processors: Uint8Array): boolean;
  /** Where the bytes lie in memory. */
  address(bytes: Uint8Array): number;
}

/** Descriptors to write into and to read from. */
export interface Pipe {
  readonly input: number;
  readonly output: number;
}

/** A function of a library. `async` calls it on a pool thread: what it is given stays the caller's to keep alive. */
export interface Foreign {
  (...args: unknown[]): number;
  async(...args: [...unknown[], (error: Error | null, result: number) => void]): void;
}

export interface NativeZlib {
  adler32(data: Uint8Array): number;
}

/** The part of the package's interface that is used. */
export interface Koffi {
  /** null: the program itself. */
  load(library: string | null): { func(prototype: string): Foreign };
  struct(name: string, fields: Readonly<Record<string, string>>): unknown;
  errno(): number;
}

const AF_UNIX = 1;
const SOCK_STREAM_CLOEXEC = 0o2000001;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_DONTWAIT_CMSG_CLOEXEC = 0x4000_0040;
/** `struct cmsghdr` on 64-bit Linux: length (8 bytes), level (4), type (4), then the descriptor. */
const CMSG = { level: 8, type: 12, descriptor: 16, length: 20 } as const;

function descriptors(koffi: Koffi, libc: ReturnType<Koffi['load']>): Native['passDescriptor'] {
  koffi.struct('iovec', { base: 'void *', length: 'size_t' });
  koffi.struct('msghdr', {
    name: 'void *',
    nameLength: 'uint32_t',
    iov: 'iovec *',
    iovLength: 'size_t',
    control: 'void *',
    controlLength: 'size_t',
    flags: 'int',
  });
  const socketpair = libc.func('int socketpair(int, int, int, _Out_ int *)');
  const recvmsg = libc.func('int64_t recvmsg(int, _Inout_ msghdr *, int)');
  const receive = (socket: number): number | null => {
    const data = Buffer.alloc(16);
    const control = Buffer.alloc(64);
    const message = {
      name: null,
      nameLength: 0,
      iov: [{ base: data, length: data.length }],
      iovLength: 1,
      control,
      controlLength: control.length,
      flags: 0,
    };
    if (recvmsg(socket, message, MSG_DONTWAIT_CMSG_CLOEXEC) < 0) return null;
    if (message.controlLength < CMSG.length || control.readInt32LE(CMSG.level) !== SOL_SOCKET) return null;
    return control.readInt32LE(CMSG.type) === SCM_RIGHTS ? control.readInt32LE(CMSG.descriptor) : null;
  };
  return send => {
    const ends = [0, 0];
    if (socketpair(AF_UNIX, SOCK_STREAM_CLOEXEC, 0, ends) !== 0) return null;
    try {
      return send(ends[1]!) ? receive(ends[0]!) : null;
    } finally {
      for (const fd of ends) fs.closeSync(fd);
    }
  };
}

const CLOEXEC = 0o2000000;
const F_SETPIPE_SZ = 1031;
const SPLICE_F_NONBLOCK = 2;
const MFD_CLOEXEC = 1;

function pipes(libc: ReturnType<Koffi['load']>): Pick<Native, 'memoryFile' | 'pipe' | 'splice'> {
  const pipe2 = libc.func('int pipe2(_Out_ int *, int)');
  const fcntl = libc.func('int fcntl(int, int, int)');
  const splice = libc.func('int64_t splice(int, void *, int, void *, size_t, unsigned int)');
  const memfdCreate = libc.func('int memfd_create(const char *, unsigned int)');
  const ftruncate = libc.func('int ftruncate(int, int64_t)');
  const place = new Uint32Array(2);
  return {
    memoryFile(length) {
      const fd = memfdCreate('bootmount', MFD_CLOEXEC);
      if (fd < 0) return null;
      if (ftruncate(fd, length) === 0) return fd;
      fs.closeSync(fd);
      return null;
    },
    pipe(capacity) {
      const ends = [0, 0];
      if (pipe2(ends, CLOEXEC) !== 0) return null;
      if (fcntl(ends[1]!, F_SETPIPE_SZ, capacity) >= capacity) return { input: ends[1]!, output: ends[0]! };
      for (const fd of ends) fs.closeSync(fd);
      return null;
    },
    splice(from, at, into, length) {
      if (at !== null) {
        place[0] = at % 2 ** 32;
        place[1] = Math.floor(at / 2 ** 32);
      }
      let [done, moved] = [0, 0];
      do {
        // With `place` the kernel goes on from where it was.
        moved = splice(from, at === null ? null : place, into, null, length - done, SPLICE_F_NONBLOCK);
        done += Math.max(0, moved);
      } while (moved > 0 && done < length);
      return done;
    },
  };
}

/** null: not installed, or not Linux. */
export function koffi(): Koffi | null {
  if (process.platform !== 'linux') return null;
  try {
    return createRequire(import.meta.url)('koffi') as Koffi;
  } catch {
    return null;
  }
}

/** Node has zlib inside, and shows it to its addons. */
function openZlib(ffi: Koffi): NativeZlib | null {
  try {
    const program = ffi.load(null);
    const adler32 = program.func('unsigned long adler32(unsigned long, void *, unsigned int)');
    return { adler32: data => Number(adler32(1, data, data.length)) };
  } catch {
    return null;
  }
}

function open(): Native | null {
  const ffi = koffi();
  if (ffi === null) return null;
  try {
    const libc = ffi.load('libc.so.6');
    const lseek = libc.func('int64_t lseek(int, int64_t, int)');
    const fallocate = libc.func('int fallocate(int, int, int64_t, int64_t)');
    const passDescriptor = descriptors(ffi, libc);
    const lsetxattr = libc.func('int lsetxattr(const char *, void *, void *, size_t, int)');
    const fsetxattr = libc.func('int fsetxattr(int, void *, void *, size_t, int)');
    const mknod = libc.func('int mknod(const char *, unsigned int, uint64_t)');
    const poll = libc.func('int poll(void *, unsigned long, int)');
    const getAffinity = libc.func('int sched_getaffinity(int, size_t, _Out_ void *)');
    const setAffinity = libc.func('int sched_setaffinity(int, size_t, void *)');
    // Copying nothing, it gives back where it would have copied to.
    const memmove = libc.func('int64_t memmove(void *, void *, size_t)');
    const preadv2 = libc.func('int64_t preadv2(int, iovec *, int, int64_t, int)');
    return {
      seek(fd, at, want) {
        const found = lseek(fd, at, want === 'data' ? SEEK_DATA : SEEK_HOLE);
        if (found >= 0) return found;
        return ffi.errno() === ENXIO ? null : 'unknown';
      },
      setXattr(at, name, value) {
        const key = Buffer.concat([name, Buffer.of(0)]);
        const set = typeof at === 'number' ? fsetxattr : lsetxattr;
        return set(at, key, value, value.length, 0) === 0;
      },
      makeNode(path, mode, major, minor) {
        // As glibc packs them (gnu_dev_makedev): the low halves first, then the high ones.
        const low = (minor % 256) + (major % 4096) * 256 + (Math.floor(minor / 256) % 4096) * 2 ** 20;
        return mknod(path, mode, low + Math.floor(minor / 2 ** 20) * 2 ** 32) === 0;
      },
      punch: (fd, at, length) => fallocate(fd, KEEP_SIZE_PUNCH_HOLE, at, length) === 0,
      allocate: (fd, at, length) => fallocate(fd, KEEP_SIZE, at, length) === 0,
      passDescriptor,
      zlib: openZlib(ffi),
      readNow(fd, into, at) {
        const got = preadv2(fd, [{ base: into, length: into.length }], 1, at, RWF_NOWAIT);
        return got < 0 && ffi.errno() === EOPNOTSUPP ? null : got;
      },
      poller(fd) {
        // struct pollfd: descriptor, events, returned events.
        const asked = Buffer.alloc(8);
        asked.writeInt32LE(fd, 0);
        asked.writeInt16LE(POLLIN, 4);
        return ms => (poll(asked, 1, ms) > 0 ? asked.readInt16LE(6) : 0);
      },
      ...pipes(libc),
      processors(thread) {
        const mask = new Uint8Array(CPU_MASK);
        return getAffinity(thread, mask.length, mask) === 0 ? mask : null;
      },
      confine: (thread, processors) => setAffinity(thread, processors.length, processors) === 0,
      address: bytes => memmove(bytes, bytes, 0),
    };
  } catch {
    return null;
  }
}

let opened: Native | null | undefined;

/** null: not to be had here. */
export function native(): Native | null {
  if (opened === undefined) opened = open();
  return opened;
}
