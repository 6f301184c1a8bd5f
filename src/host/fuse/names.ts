/** Operations on names and attributes. None of them changes the tree: that goes through the command line. */
import { isUtf8 } from 'node:buffer';
import type { DirNode, Done, FileNode, Node, OpenFile } from '../../base/contracts.ts';
import { TYPE_BITS } from '../../base/file-types.ts';
import { type Entry, inodeOf } from './nodes.ts';
import {
  ATTR_OUT,
  DIRENT,
  ENTRY_OUT,
  ENTRY_TYPE,
  ERRNO,
  getU64,
  IN,
  MAX_IO,
  PAGE,
  putAttrHead,
  putAttributes,
  putEntryHead,
  putU64,
  REQUEST_HEADER,
  SET,
} from './protocol.ts';
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

/**
 * Seconds for which the kernel may answer by itself. What is out of a backup never changes. Names of clones are asked for
 * each time, since a clone can be replaced by another one of the same name; a writable file can grow.
 */
const FOREVER = 3600;
/** What an upgrade may change is known to the kernel soon after: every path into a backup leads through these names. */
const SHORTLY = 10;
const nameValid = (node: Node): number => (node.recorded !== undefined ? FOREVER : node.lasting === true ? SHORTLY : 0);
const attrValid = (node: Node): number => {
  if (node.kind === 'file' && node.writable) return 0;
  return node.recorded === undefined ? 1 : FOREVER;
};

const text = new TextDecoder();

/** Where owners are hidden, the user of the mount may read what he owns now. */
function modeOf(session: Session, node: Node): number {
  if (node.kind === 'link') return 0o777;
  const mode = node.mode % 0o10000;
  if (session.owners || node.recorded === undefined) return mode;
  return mode | (node.kind === 'dir' ? 0o500 : 0o400);
}

/** `new_encode_dev` of Linux: 8 bits of the minor number, 12 of the major one, and the rest of the minor one. */
const packed = (major: number, minor: number): number =>
  (minor % 256) + (major % 4096) * 256 + (Math.floor(minor / 256) % 4096) * 0x10_0000;

/** Puts a node's attributes at word `index` of the body. */
function attributes(session: Session, slot: Slot, index: number, path: string, node: Node): Done {
  const put = (size: number, allocated: number): void =>
    putAttributes(slot.bodyWords, index, {
      ino: inodeOf(path),
      size,
      blocks: Math.ceil(allocated / 512),
      mtime: node.mtime,
      mode: TYPE_BITS[node.kind] + modeOf(session, node),
      // One link also for directories: it tells `find` that their number of subdirectories is not known.
      links: node.kind === 'dir' ? 1 : (node.recorded?.links ?? 1),
      uid: session.owners ? (node.recorded?.uid ?? session.uid) : session.uid,
      gid: session.owners ? (node.recorded?.gid ?? session.gid) : session.gid,
      device: 'major' in node ? packed(node.major, node.minor) : 0,
    });
  if (node.kind === 'dir') return put(PAGE, PAGE);
  if ('major' in node) return put(0, 0);
  if (node.kind === 'link') return put(Buffer.byteLength(node.target), 0);
  const allocated = node.allocated();
  if (typeof allocated === 'number') return put(node.size(), allocated);
  return allocated.then(bytes => put(node.size(), bytes));
}

export const lookup: Operation = (session, slot, got) => {
  const parent = entryOf(session, slot);
  if (parent === undefined) return -ERRNO.ESTALE;
  const bytes = slot.bytes.subarray(REQUEST_HEADER, got - 1);
  if (!isUtf8(bytes)) return -ERRNO.ENOENT;
  const name = text.decode(bytes);
  const found = (node: Node | null): Answer | Promise<Answer> => {
    if (node === null) return -ERRNO.ENOENT;
    return after(attributes(session, slot, 10, `${parent.path}/${name}`, node), () => {
      give(session, slot, 0, parent, name, node);
      session.table.commit();
      return ENTRY_OUT;
    });
  };
  return after(nodeOf(session, parent), dir => (dir.kind === 'dir' ? after(dir.child(name), found) : -ERRNO.ENOTDIR));
};

/** Puts the entry's head at word `index`; its attributes are there already. */
function give(session: Session, slot: Slot, index: number, parent: Entry, name: string, node: Node): void {
  const entry = session.table.give(parent, name, node);
  putEntryHead(slot.bodyWords, index, entry.id, nameValid(node), attrValid(node));
}

export const forget: Operation = (session, slot) => {
  session.table.forget(getU64(slot.words, IN.NODE), getU64(slot.words, IN.BODY));
  return NO_REPLY;
};

export const batchForget: Operation = (session, slot, got) => {
  const first = IN.BODY + 2;
  const count = Math.min(slot.words[IN.BODY]!, Math.floor((got / 4 - first) / 4));
  for (let i = 0; i < count; i++) {
    session.table.forget(getU64(slot.words, first + 4 * i), getU64(slot.words, first + 4 * i + 2));
  }
  return NO_REPLY;
};

export const getattr: Operation = (session, slot) => {
  const entry = entryOf(session, slot);
  if (entry === undefined) return -ERRNO.ESTALE;
  return after(nodeOf(session, entry), node => attrReply(session, slot, entry, node));
};

const attrReply = (session: Session, slot: Slot, entry: Entry, node: Node): Answer | Promise<Answer> =>
  after(attributes(session, slot, 4, entry.path, node), () => {
    putAttrHead(slot.bodyWords, 0, attrValid(node));
    return ATTR_OUT;
  });

/** Sizes may grow where the file allows it; times are accepted and not kept; owner and mode stay. */
export const setattr: Operation = async (session, slot) => {
  const entry = entryOf(session, slot);
  if (entry === undefined) return -ERRNO.ESTALE;
  const valid = slot.words[IN.BODY]!;
  if ((valid & (SET.MODE | SET.UID | SET.GID)) !== 0) return -ERRNO.EPERM;
  const node = await nodeOf(session, entry);
  if ((valid & SET.SIZE) !== 0) {
    if (node.kind !== 'file') return -ERRNO.EISDIR;
    if (!node.writable) return -ERRNO.EROFS;
    const size = getU64(slot.words, IN.BODY + 4);
    const handle = (valid & SET.FH) === 0 ? undefined : session.table.handle(getU64(slot.words, IN.BODY + 2));
    const errno =
      handle === undefined
        ? await resizeNode(node, size)
        : await resize(handle.file ?? (await reopen(session, handle)), size);
    if (errno !== 0) return -errno;
  }
  return attrReply(session, slot, entry, node);
};

async function resizeNode(node: FileNode, size: number): Promise<number> {
  if (size === node.size()) return 0;
  if (size < node.size()) return ERRNO.EPERM;
  await using file = await node.open();
  return await resize(file, size);
}

/** 0 or an errno. A disk never shrinks. */
export async function resize(file: OpenFile, size: number): Promise<number> {
  const now = file.size();
  if (size === now) return 0;
  if (size < now) return ERRNO.EPERM;
  if (file.resize === undefined) return ERRNO.EFBIG;
  await file.resize(size);
  return 0;
}

export const readlink: Operation = (session, slot) => {
  const entry = entryOf(session, slot);
  if (entry === undefined) return -ERRNO.ESTALE;
  return after(nodeOf(session, entry), node => {
    if (node.kind !== 'link') return -ERRNO.EINVAL;
    // Known under this id with another target: the kernel looks the name up again, and gets another id.
    if (entry.target !== null && entry.target !== node.target) return -ERRNO.ESTALE;
    return new TextEncoder().encodeInto(node.target, slot.body).written;
  });
};

export const opendir: Operation = async (session, slot) => {
  const entry = entryOf(session, slot);
  if (entry === undefined) return -ERRNO.ESTALE;
  if ((await nodeOf(session, entry)).kind !== 'dir') return -ERRNO.ENOTDIR;
  const handle = madeBefore(session, slot) ?? session.table.open(entry, 0, uniqueOf(slot), null);
  session.table.commit();
  putU64(slot.bodyWords, 0, handle.fh);
  putU64(slot.bodyWords, 2, 0);
  return 16;
};

export const releasedir: Operation = (session, slot) => {
  const handle = handleOf(session, slot);
  if (handle !== undefined) session.table.close(handle);
  session.table.commit();
  return 0;
};

/** A name that the kernel would refuse fails the whole directory, so it is left out: `child` cannot be asked for it. */
const servable = (name: string): boolean =>
  name !== '' &&
  name !== '.' &&
  name !== '..' &&
  !name.includes('/') &&
  !name.includes('\0') &&
  name.isWellFormed() &&
  Buffer.byteLength(name) <= 255;

/** Names from the cookie on, until the reply is full. Cookies: 1 and 2 are `.` and `..`, then the names in order. */
export const readdir: Operation = (session, slot) => entries(session, slot, 0);
export const readdirplus: Operation = (session, slot) => entries(session, slot, ENTRY_OUT);

async function entries(session: Session, slot: Slot, plus: number): Promise<Answer> {
  const entry = entryOf(session, slot);
  const handle = handleOf(session, slot);
  if (entry === undefined || handle === undefined) return -ERRNO.EBADF;
  const from = getU64(slot.words, IN.BODY + 2);
  const limit = Math.min(slot.words[IN.BODY + 4]!, MAX_IO);
  const dir = await nodeOf(session, entry);
  if (dir.kind !== 'dir') return -ERRNO.ENOTDIR;
  if (handle.names === null || from === 0) handle.names = (await dir.list()).filter(({ name }) => servable(name));
  const { path } = entry;
  let used = 0;
  for (let i = from; i < handle.names.length + 2; i++) {
    const { name, kind } = i === 0 ? DOT : i === 1 ? DOT_DOT : handle.names[i - 2]!;
    const length = Buffer.byteLength(name);
    const size = plus + DIRENT + Math.ceil(length / 8) * 8;
    if (used + size > limit) break;
    const words = slot.bodyWords;
    const at = (used + plus) / 4;
    slot.body.fill(0, used, used + size);
    putU64(words, at, inodeOf(pathOf(path, name)));
    putU64(words, at + 2, i + 1);
    words[at + 4] = length;
    words[at + 5] = ENTRY_TYPE[kind];
    new TextEncoder().encodeInto(name, slot.body.subarray(used + plus + DIRENT));
    if (plus > 0 && i > 1) await known(session, slot, used / 4, entry, path, dir, name);
    used += size;
  }
  session.table.commit();
  return used;
}

const DOT = { name: '.', kind: 'dir' } as const;
const DOT_DOT = { name: '..', kind: 'dir' } as const;

/** `dir`: the folder's path. */
const pathOf = (dir: string, name: string): string =>
  name === '.' ? dir : name === '..' ? dir.slice(0, Math.max(0, dir.lastIndexOf('/'))) : `${dir}/${name}`;

/** Adds id and attributes to a name. Where they cannot be had, the name stands alone and a LOOKUP tells why. */
async function known(
  session: Session,
  slot: Slot,
  index: number,
  parent: Entry,
  path: string,
  dir: DirNode,
  name: string,
): Promise<void> {
  try {
    const node = await dir.child(name);
    if (node === null) return;
    await attributes(session, slot, index + 10, `${path}/${name}`, node);
    give(session, slot, index, parent, name, node);
  } catch {
    slot.body.fill(0, index * 4, index * 4 + ENTRY_OUT);
  }
}

/** Nominal: how much a clone can still take is known where its overlay lies, not here. */
export const statfs: Operation = (_session, slot) => {
  const words = slot.bodyWords;
  const blocks = 2 ** 40 / PAGE;
  slot.body.fill(0, 0, 80);
  for (const index of [0, 2, 4]) putU64(words, index, blocks);
  putU64(words, 6, 2 ** 32);
  putU64(words, 8, 2 ** 32);
  words[10] = PAGE;
  words[11] = 255;
  words[12] = PAGE;
  return 80;
};
