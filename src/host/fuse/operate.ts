/** Which operation answers which request. */

import { fallocate, fsync, lseek, open, read, release, write } from './files.ts';
import {
  batchForget,
  forget,
  getattr,
  lookup,
  opendir,
  readdir,
  readdirplus,
  readlink,
  releasedir,
  setattr,
  statfs,
} from './names.ts';
import { ERRNO, IN, INIT, INIT2, MAX_BACKGROUND, MAX_IO, MINOR, OLDEST_MINOR, OPCODE, PAGE } from './protocol.ts';
import { type Answer, NO_REPLY, type Operation, type Session } from './session.ts';
import type { Slot } from './slot.ts';
import { getxattr, listxattr } from './xattrs.ts';

const errno =
  (code: keyof typeof ERRNO): Operation =>
  () =>
    -ERRNO[code];
const ok: Operation = () => 0;

const flagNames = [
  'ASYNC_READ',
  'ATOMIC_O_TRUNC',
  'BIG_WRITES',
  'DO_READDIRPLUS',
  'READDIRPLUS_AUTO',
  'ASYNC_DIO',
  'PARALLEL_DIROPS',
  'MAX_PAGES',
  'CACHE_SYMLINKS',
  'INIT_EXT',
] as const;
/** Targets of links stay with the kernel as long as their node does, so another target is another node (`nodes.ts`). */
const WANTED = flagNames.reduce((sum, name) => sum + INIT[name], 0);

/**
 * Agrees on version and features. Never the write-back cache: the kernel would acknowledge a write before it is here.
 * No lock flags: the kernel then keeps locks by itself, which is what QEMU's need.
 */
const init: Operation = (session, slot) => {
  const { words, bodyWords: out } = slot;
  const [major, minor, readahead, flags] = [
    words[IN.BODY]!,
    words[IN.BODY + 1]!,
    words[IN.BODY + 2]!,
    words[IN.BODY + 3]!,
  ];
  const flags2 = (flags & INIT.INIT_EXT) === 0 ? 0 : words[IN.BODY + 4]!;
  slot.body.fill(0, 0, 64);
  out[0] = 7;
  // A newer major asks again with ours when it sees this.
  if (major > 7) return 24;
  if (major < 7 || minor < OLDEST_MINOR) return -ERRNO.EOPNOTSUPP;
  const pages = (flags & INIT.MAX_PAGES) !== 0;
  const maxIo = pages ? MAX_IO : 32 * PAGE;
  out[1] = Math.min(minor, MINOR);
  out[2] = readahead;
  out[3] = flags & WANTED;
  out[4] = MAX_BACKGROUND + MAX_BACKGROUND * 0.75 * 2 ** 16;
  out[5] = maxIo;
  out[6] = 1;
  out[7] = pages ? MAX_IO / PAGE : 0;
  out[8] = flags2 & (INIT2.DIRECT_IO_ALLOW_MMAP | INIT2.HAS_RESEND);
  const connection = { minor: out[1], resend: (flags2 & INIT2.HAS_RESEND) !== 0, maxIo };
  session.table.connection = connection;
  session.table.commit();
  session.onInit(connection);
  return minor < 23 ? 24 : 64;
};

/**
 * Never ENOSYS for FALLOCATE, LSEEK and extended attributes: the kernel would not ask again for the life of the mount.
 */
const OPERATIONS = new Map<number, Operation>([
  [OPCODE.read, read],
  [OPCODE.write, write],
  [OPCODE.lookup, lookup],
  [OPCODE.forget, forget],
  [OPCODE.batchForget, batchForget],
  [OPCODE.getattr, getattr],
  [OPCODE.setattr, setattr],
  [OPCODE.readlink, readlink],
  [OPCODE.open, open],
  [OPCODE.release, release],
  [OPCODE.fsync, fsync],
  [OPCODE.fallocate, fallocate],
  [OPCODE.lseek, lseek],
  [OPCODE.opendir, opendir],
  [OPCODE.readdir, readdir],
  [OPCODE.readdirplus, readdirplus],
  [OPCODE.releasedir, releasedir],
  [OPCODE.statfs, statfs],
  [OPCODE.init, init],
  [OPCODE.destroy, ok],
  [OPCODE.flush, ok],
  [OPCODE.fsyncdir, ok],
  [OPCODE.access, ok],
  [OPCODE.interrupt, () => NO_REPLY],
  [OPCODE.getxattr, getxattr],
  [OPCODE.listxattr, listxattr],
  [OPCODE.setxattr, errno('EOPNOTSUPP')],
  [OPCODE.removexattr, errno('EOPNOTSUPP')],
  [OPCODE.ioctl, errno('ENOTTY')],
  // The caller then copies by reading and writing.
  [OPCODE.copyFileRange, errno('EOPNOTSUPP')],
  [OPCODE.copyFileRange64, errno('EOPNOTSUPP')],
  ...(['create', 'mknod', 'mkdir', 'unlink', 'rmdir', 'rename', 'rename2', 'symlink', 'link', 'tmpfile'] as const).map(
    (name): [number, Operation] => [OPCODE[name], errno('EROFS')],
  ),
]);

/** Answers the request in `slot`, `got` bytes long. May throw, or reject. */
export function operate(session: Session, slot: Slot, got: number): Answer | Promise<Answer> {
  const opcode = slot.words[IN.OPCODE]!;
  if (opcode === OPCODE.read) return read(session, slot, got);
  if (opcode === OPCODE.write) return write(session, slot, got);
  const operation = OPERATIONS.get(opcode);
  return operation === undefined ? -ERRNO.ENOSYS : operation(session, slot, got);
}
