/** Operations on open files. READ and WRITE answer without a promise when the tree did. */
import type { OpenFile } from '../../base/contracts.ts';
import { resize } from './names.ts';
import { type Handle, stateOf } from './nodes.ts';
import { ERRNO, FALLOCATE, getU64, IN, O, OPENED, putU64, SEEK, WRITE_PAYLOAD } from './protocol.ts';
import {
  type Answer,
  after,
  entryOf,
  handleOf,
  madeBefore,
  NO_REPLY,
  nodeOf,
  type Operation,
  reopen,
  type Session,
  uniqueOf,
} from './session.ts';
import type { Slot } from './slot.ts';
import { LEAST_SPLICED } from './splice.ts';

/** `struct fuse_read_in` and `fuse_write_in`: the same fields in the same places. */
const OFFSET = IN.BODY + 2;
const SIZE = IN.BODY + 4;
const FLAGS = IN.BODY + 8;

/** Runs `operation` again once the file of a handle from an earlier process is open. */
const again = (session: Session, slot: Slot, got: number, handle: Handle, operation: Operation): Promise<Answer> =>
  reopen(session, handle).then(() => operation(session, slot, got));

export const read: Operation = (session, slot, got) => {
  const handle = handleOf(session, slot);
  if (handle === undefined) return -ERRNO.EBADF;
  if (handle.file === null) return again(session, slot, got, handle, read);
  const at = getU64(slot.words, OFFSET);
  const length = Math.min(slot.words[SIZE]!, slot.longest, Math.max(0, handle.file.size() - at));
  if (length === 0) return 0;
  if (length >= LEAST_SPLICED && session.pipe !== null) {
    const place = handle.file.plain?.(at, length) ?? null;
    if (place !== null && session.pipe.send(slot, place, length)) return NO_REPLY;
  }
  const done = handle.file.read(slot.into(length), at);
  return done === undefined ? length : done.then(() => length);
};

export const write: Operation = (session, slot, got) => {
  const handle = handleOf(session, slot);
  if (handle === undefined) return -ERRNO.EBADF;
  const file = handle.file;
  if (file === null) return again(session, slot, got, handle, write);
  if (file.write === undefined) return -ERRNO.EROFS;
  const length = slot.words[SIZE]!;
  if (length > got - WRITE_PAYLOAD) return -ERRNO.EINVAL;
  const at = getU64(slot.words, OFFSET);
  const durable = (slot.words[FLAGS]! & O.DSYNC) !== 0;
  const done = length === 0 ? undefined : file.write(slot.payload(length), at);
  if (durable)
    return Promise.resolve(done)
      .then(() => file.flush?.())
      .then(() => written(slot, length));
  return done === undefined ? written(slot, length) : done.then(() => written(slot, length));
};

function written(slot: Slot, length: number): Answer {
  putU64(slot.bodyWords, 0, length);
  return 8;
}

export const open: Operation = async (session, slot) => {
  const entry = entryOf(session, slot);
  if (entry === undefined) return -ERRNO.ESTALE;
  const flags = slot.words[IN.BODY]!;
  const node = await nodeOf(session, entry);
  if (node.kind !== 'file') return node.kind === 'dir' ? -ERRNO.EISDIR : -ERRNO.EINVAL;
  if (!node.writable && ((flags & O.ACCMODE) !== 0 || (flags & O.TRUNC) !== 0)) return -ERRNO.EROFS;
  if ((flags & O.TRUNC) !== 0 && node.size() > 0) return -ERRNO.EPERM;
  let handle = madeBefore(session, slot);
  if (handle === undefined) {
    const file = await node.open();
    handle = session.table.open(entry, flags, uniqueOf(slot), file);
    try {
      session.table.commit();
    } catch (error) {
      session.table.close(handle);
      await file[Symbol.asyncDispose]();
      throw error;
    }
  }
  let opened = OPENED.DIRECT_IO + OPENED.PARALLEL_DIRECT_WRITES;
  if (!node.writable) {
    // Pages of an earlier open are good only while the file is what it was then.
    const state = stateOf(node);
    opened = entry.cached === state ? OPENED.KEEP_CACHE : 0;
    entry.cached = state;
  }
  putU64(slot.bodyWords, 0, handle.fh);
  slot.bodyWords[2] = opened;
  slot.bodyWords[3] = 0;
  return 16;
};

export const release: Operation = async (session, slot) => {
  const handle = handleOf(session, slot);
  if (handle === undefined) return 0;
  session.table.close(handle);
  await handle.opening?.catch(() => undefined);
  await handle.file?.[Symbol.asyncDispose]();
  session.table.commit();
  return 0;
};

/** Either flavour, FSYNC and FDATASYNC: everything that was answered before is durable. */
export const fsync: Operation = async (session, slot) => {
  const handle = handleOf(session, slot);
  if (handle === undefined) return -ERRNO.EBADF;
  await (handle.file ?? (await reopen(session, handle))).flush?.();
  return 0;
};

export const fallocate: Operation = async (session, slot) => {
  const handle = handleOf(session, slot);
  if (handle === undefined) return -ERRNO.EBADF;
  const file = handle.file ?? (await reopen(session, handle));
  const at = getU64(slot.words, OFFSET);
  const length = getU64(slot.words, OFFSET + 2);
  const mode = slot.words[OFFSET + 4]!;
  const keepSize = (mode & FALLOCATE.KEEP_SIZE) !== 0;
  const what = mode & ~FALLOCATE.KEEP_SIZE;
  if (what !== 0 && what !== FALLOCATE.ZERO_RANGE && !(what === FALLOCATE.PUNCH_HOLE && keepSize)) {
    return -ERRNO.EOPNOTSUPP;
  }
  if (file.write === undefined) return -ERRNO.EROFS;
  if (!keepSize && at + length > file.size()) {
    const errno = await resize(file, at + length);
    if (errno !== 0) return -errno;
  }
  return what === 0 ? 0 : zero(file, at, Math.min(length, file.size() - at));
};

async function zero(file: OpenFile, at: number, length: number): Promise<Answer> {
  if (file.zero === undefined) return -ERRNO.EOPNOTSUPP;
  if (length > 0) await file.zero(at, length);
  return 0;
}

/** Answers at once when the tree does: programs that copy disks ask for every hole. */
export const lseek: Operation = (session, slot, got) => {
  const handle = handleOf(session, slot);
  if (handle === undefined) return -ERRNO.EBADF;
  const file = handle.file;
  if (file === null) return again(session, slot, got, handle, lseek);
  const at = getU64(slot.words, OFFSET);
  const whence = slot.words[OFFSET + 2]!;
  if (whence !== SEEK.DATA && whence !== SEEK.HOLE) return -ERRNO.EINVAL;
  if (at >= file.size()) return -ERRNO.ENXIO;
  const found = file.seek(at, whence === SEEK.DATA ? 'data' : 'hole');
  return after(found, place => {
    if (place === null && whence === SEEK.DATA) return -ERRNO.ENXIO;
    putU64(slot.bodyWords, 0, place ?? file.size());
    return 8;
  });
};
