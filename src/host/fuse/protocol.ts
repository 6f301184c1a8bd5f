/**
 * The FUSE kernel protocol, as far as it is spoken here: numbers and layouts of `include/uapi/linux/fuse.h`
 * (protocol 7.9 to 7.45). All values are in the host's byte order; u64 fields are written as two 32-bit words, low first.
 */

export const OPCODE = {
  lookup: 1,
  forget: 2,
  getattr: 3,
  setattr: 4,
  readlink: 5,
  symlink: 6,
  mknod: 8,
  mkdir: 9,
  unlink: 10,
  rmdir: 11,
  rename: 12,
  link: 13,
  open: 14,
  read: 15,
  write: 16,
  statfs: 17,
  release: 18,
  fsync: 20,
  setxattr: 21,
  getxattr: 22,
  listxattr: 23,
  removexattr: 24,
  flush: 25,
  init: 26,
  opendir: 27,
  readdir: 28,
  releasedir: 29,
  fsyncdir: 30,
  access: 34,
  create: 35,
  interrupt: 36,
  destroy: 38,
  ioctl: 39,
  batchForget: 42,
  fallocate: 43,
  readdirplus: 44,
  rename2: 45,
  lseek: 46,
  copyFileRange: 47,
  tmpfile: 51,
  copyFileRange64: 53,
} as const;

export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  EIO: 5,
  ENXIO: 6,
  EBADF: 9,
  E2BIG: 7,
  EACCES: 13,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENOTTY: 25,
  EFBIG: 27,
  ENOSPC: 28,
  EROFS: 30,
  ERANGE: 34,
  ENOSYS: 38,
  ENODATA: 61,
  EOPNOTSUPP: 95,
  ESTALE: 116,
} as const;

/** Flags of the INIT exchange, bits 0–31. */
export const INIT = {
  ASYNC_READ: 2 ** 0,
  ATOMIC_O_TRUNC: 2 ** 3,
  BIG_WRITES: 2 ** 5,
  DO_READDIRPLUS: 2 ** 13,
  READDIRPLUS_AUTO: 2 ** 14,
  ASYNC_DIO: 2 ** 15,
  PARALLEL_DIROPS: 2 ** 18,
  MAX_PAGES: 2 ** 22,
  CACHE_SYMLINKS: 2 ** 23,
  INIT_EXT: 2 ** 30,
} as const;

/** Flags of the INIT exchange, bits 32–63, as a word of their own. */
export const INIT2 = { DIRECT_IO_ALLOW_MMAP: 2 ** 4, HAS_RESEND: 2 ** 7 } as const;

export const OPENED = { DIRECT_IO: 1, KEEP_CACHE: 2, PARALLEL_DIRECT_WRITES: 64 } as const;

/** `valid` of SETATTR: which fields the caller wants to change. */
export const SET = { MODE: 1, UID: 2, GID: 4, SIZE: 8, FH: 64 } as const;

export const FALLOCATE = { KEEP_SIZE: 1, PUNCH_HOLE: 2, ZERO_RANGE: 16 } as const;
export const SEEK = { DATA: 3, HOLE: 4 } as const;

/** Open flags of Linux (asm-generic; x86, arm64, riscv). */
export const O = { ACCMODE: 3, TRUNC: 0o1000, DSYNC: 0o10000 } as const;

export const ROOT_ID = 1;
export const PAGE = 4096;
/** Longest read and write that is negotiated, and longest reply body: with its header it fits a pipe of 1 MiB, wherever in a page it begins. */
export const MAX_IO = 512 * 1024;
export const MAX_BACKGROUND = 64;
/** Newest minor version whose layouts were checked against this code. */
export const MINOR = 45;
/** Below this, attribute and entry replies have another size. */
export const OLDEST_MINOR = 9;

/** Bytes before a request's own fields: `struct fuse_in_header`. */
export const REQUEST_HEADER = 40;
/** Offset of a WRITE request's payload: header and `struct fuse_write_in`. */
export const WRITE_PAYLOAD = 80;
export const REPLY_HEADER = 16;

/** Word indexes into a request. */
export const IN = { LENGTH: 0, OPCODE: 1, UNIQUE: 2, NODE: 4, PID: 8, BODY: 10 } as const;

export const RESENT_BIT = 0x8000_0000;
export const NOTIFY_INVAL_ENTRY = 3;
export const NOTIFY_RESEND = 7;

/** `d_type` of a directory entry. */
export const ENTRY_TYPE = { unknown: 0, fifo: 1, char: 2, dir: 4, block: 6, file: 8, link: 10, socket: 12 } as const;

export const ENTRY_OUT = 128;
export const ATTR_OUT = 104;
export const DIRENT = 24;

/** The u64 at word `index`, rounded where it is beyond 2^53. */
export const getU64 = (words: Uint32Array, index: number): number => words[index]! + words[index + 1]! * 2 ** 32;

/** Any integer up to 2^53, negative ones in two's complement. */
export function putU64(words: Uint32Array, index: number, value: number): void {
  words[index] = value;
  words[index + 1] = Math.floor(value / 2 ** 32);
}

export interface Attributes {
  readonly ino: number;
  readonly size: number;
  /** Units of 512 bytes. */
  readonly blocks: number;
  readonly mtime: Date;
  /** Type and permission bits. */
  readonly mode: number;
  readonly links: number;
  readonly uid: number;
  readonly gid: number;
  /** Of a device, as Linux packs its numbers in 32 bits. */
  readonly device: number;
}

/** `struct fuse_attr`, 88 bytes at word `index`. */
export function putAttributes(words: Uint32Array, index: number, a: Attributes): void {
  const ms = a.mtime.getTime();
  const seconds = Math.floor(ms / 1000);
  const nanoseconds = (ms - seconds * 1000) * 1_000_000;
  putU64(words, index, a.ino);
  putU64(words, index + 2, a.size);
  putU64(words, index + 4, a.blocks);
  for (let i = 0; i < 3; i++) {
    putU64(words, index + 6 + 2 * i, seconds);
    words[index + 12 + i] = nanoseconds;
  }
  words[index + 15] = a.mode;
  words[index + 16] = a.links;
  words[index + 17] = a.uid;
  words[index + 18] = a.gid;
  words[index + 19] = a.device;
  words[index + 20] = PAGE;
  words[index + 21] = 0;
}

/** A cache time in seconds, split as the protocol wants it. */
const nanos = (seconds: number): number => Math.round((seconds - Math.floor(seconds)) * 1e9);

/** `struct fuse_attr_out` without its attributes, which follow at `index + 4`. */
export function putAttrHead(words: Uint32Array, index: number, seconds: number): void {
  putU64(words, index, Math.floor(seconds));
  words[index + 2] = nanos(seconds);
  words[index + 3] = 0;
}

/** `struct fuse_entry_out` without its attributes, which follow at `index + 10`. */
export function putEntryHead(words: Uint32Array, index: number, id: number, entry: number, attr: number): void {
  putU64(words, index, id);
  putU64(words, index + 2, 0);
  putU64(words, index + 4, Math.floor(entry));
  putU64(words, index + 6, Math.floor(attr));
  words[index + 8] = nanos(entry);
  words[index + 9] = nanos(attr);
}
