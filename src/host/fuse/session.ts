/** What the operations share: the tree, the table of what the kernel knows of it, and how they answer. */
import type { DirNode, Node, OpenFile } from '../../base/contracts.ts';
import { ImageError } from '../../base/errors.ts';
import type { Connection } from './journal.ts';
import type { Entry, Handle, Table } from './nodes.ts';
import { getU64, IN, OPCODE, RESENT_BIT } from './protocol.ts';
import type { Slot } from './slot.ts';
import type { ReplyPipe } from './splice.ts';

/** Length of the body that was put into the slot, or a negative errno as the kernel counts them, or `NO_REPLY`. */
export type Answer = number;
export const NO_REPLY: Answer = Number.NEGATIVE_INFINITY;

export interface Session {
  readonly root: DirNode;
  readonly table: Table;
  /** Owner of everything in the tree that no backup gives another. */
  readonly uid: number;
  readonly gid: number;
  /** Whether files out of a backup are shown with their own owners. */
  readonly owners: boolean;
  /** For long reads of what lies in a file as it is; null: they go through this program's memory. */
  readonly pipe: Pick<ReplyPipe, 'send' | 'close'> | null;
  onInit(connection: Connection): void;
}

export type Operation = (session: Session, slot: Slot, got: number) => Answer | Promise<Answer>;

export const entryOf = (session: Session, slot: Slot): Entry | undefined =>
  session.table.entry(getU64(slot.words, IN.NODE));

/** The handle in a request's first field, where `struct fuse_read_in` and most others have it. */
export const handleOf = (session: Session, slot: Slot): Handle | undefined =>
  session.table.handle(getU64(slot.words, IN.BODY));

/** The request's id as text. A request that is sent again has the same, but for its highest bit. */
export const uniqueOf = (slot: Slot): string =>
  `${slot.words[IN.UNIQUE]!.toString(16)}.${(slot.words[IN.UNIQUE + 1]! % 2 ** 31).toString(16)}`;

/** A request in words, for a message. */
export function describe(session: Session, slot: Slot): string {
  const opcode = slot.words[IN.OPCODE]!;
  const name = Object.entries(OPCODE).find(([, code]) => code === opcode)?.[0] ?? `request ${opcode}`;
  const file = entryOf(session, slot)?.path ?? '';
  const ranged = opcode === OPCODE.read || opcode === OPCODE.write;
  // Handle, offset, size: the first fields of both.
  const range = ranged ? `, ${slot.words[IN.BODY + 4]} bytes at ${getU64(slot.words, IN.BODY + 2)}` : '';
  return `${name} ${file === '' ? '/' : file}${range}`;
}

/** The handle that an OPEN has made already, when this is the same OPEN sent again. */
export const madeBefore = (session: Session, slot: Slot): Handle | undefined =>
  slot.words[IN.UNIQUE + 1]! < RESENT_BIT ? undefined : session.table.madeBy(uniqueOf(slot));

const gone = (path: string): ImageError => new ImageError('not-found', 'no longer in the tree', { file: path });

/** Goes on at once with what is there: only what has to be waited for costs a turn of the event loop. */
export const after = <T, R>(value: T | Promise<T>, next: (value: T) => R | Promise<R>): R | Promise<R> =>
  value instanceof Promise ? value.then(next) : next(value);

/** The node behind an entry. After a take-over it is found again by its name. */
export function nodeOf(session: Session, entry: Entry): Node | Promise<Node> {
  return entry.node ?? walk(session, entry);
}

async function walk(session: Session, entry: Entry): Promise<Node> {
  const dir = entry.parent === null ? session.root : await nodeOf(session, entry.parent);
  const node = dir.kind === 'dir' ? await dir.child(entry.name) : null;
  if (node === null) throw gone(entry.path);
  session.table.found(entry, node);
  return node;
}

/** Opens the file of a handle that an earlier process opened. Concurrent requests share one attempt. */
export function reopen(session: Session, handle: Handle): Promise<OpenFile> {
  handle.opening ??= (async () => {
    try {
      const entry = session.table.entry(handle.id);
      if (entry === undefined) throw gone(`#${handle.id}`);
      const node = await nodeOf(session, entry);
      if (node.kind !== 'file') throw gone(entry.path);
      handle.file = await node.open();
      return handle.file;
    } finally {
      handle.opening = null;
    }
  })();
  return handle.opening;
}
