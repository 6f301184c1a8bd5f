/**
 * Who builds a file or changes a folder. The name of an unfinished file says it, `NAME.OWNER.partial`, so that what a
 * killed program left behind is told from work under way, and nobody deletes layers on which a backup is being built.
 */
import { createHash } from 'node:crypto';
import os from 'node:os';
import type { ByteFile, Store, WritableStore } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { bootId, pidNamespace, startOf } from '../../src/base/files.ts';

export const PARTIAL = '.partial';

/** 'writes': adds one file. 'alone': changes or removes files that others build on, so nobody else may be at work. */
export type Mode = 'writes' | 'alone';

interface Owner {
  readonly mode: Mode;
  readonly machine: string;
  readonly boot: string;
  readonly namespace: string;
  readonly pid: number;
  readonly start: string;
  /** Tells the works of one program apart. */
  readonly number: number;
}

const short = (text: string): string => createHash('sha256').update(text).digest('hex').slice(0, 8);

let works = 0;
/** What this program is at, by owner text: its own name alone does not say that a work is still under way. */
const underWay = new Set<string>();

function newOwner(mode: Mode): Owner {
  const start = startOf(process.pid);
  if (start === null) throw new ImageError('unsupported', 'cannot read /proc, which says who is at work', {});
  const namespace = pidNamespace().replace(/\D/g, '');
  const machine = short(os.hostname());
  return { mode, machine, boot: short(bootId()), namespace, pid: process.pid, start, number: ++works };
}

const textOf = (o: Owner): string =>
  [o.mode === 'alone' ? 'a' : 'w', o.machine, o.boot, o.namespace, o.pid, o.start, o.number].join('-');

const NAMED = /^(.*)\.(([aw])-([0-9a-f]{8})-([0-9a-f]{8})-(\d{1,20})-(\d{1,10})-(\d{1,20})-(\d{1,15}))\.partial$/s;

interface Work {
  /** The unfinished file, and the name that it is going to have. */
  readonly partial: string;
  readonly name: string;
  readonly text: string;
  readonly owner: Owner;
}

function workOf(partial: string): Work | null {
  const match = NAMED.exec(partial);
  if (match === null) return null;
  const [, name, text, mode, machine, boot, namespace, pid, start, number] = match;
  const owner: Owner = {
    mode: mode === 'a' ? 'alone' : 'writes',
    machine: machine!,
    boot: boot!,
    namespace: namespace!,
    pid: Number(pid),
    start: start!,
    number: Number(number),
  };
  return { partial, name: name!, text: text!, owner };
}

/** Whether the program is still at it: 'unknown' where its pid cannot be looked up from here. */
function alive({ owner, text }: Work, self: Owner): boolean | 'unknown' {
  if (owner.machine !== self.machine) return 'unknown';
  if (owner.boot !== self.boot) return false;
  if (owner.namespace !== self.namespace) return 'unknown';
  if (owner.pid === self.pid && owner.start === self.start) return underWay.has(text);
  return startOf(owner.pid) === owner.start;
}

function busy(work: Work, state: true | 'unknown'): ImageError {
  const what =
    work.owner.mode === 'alone' ? 'files of this folder are being consolidated or changed' : 'a layer is being written';
  const doubt = state === 'unknown' ? ' on another machine or in another container, it seems' : '';
  const hint = `wait for it; if that program has ended, remove ${work.partial}`;
  return new ImageError(
    'busy',
    `${what} by the program with pid ${work.owner.pid}${doubt}`,
    { file: work.partial },
    { hint },
  );
}

const folderOf = (name: string): string => name.slice(0, name.lastIndexOf('/') + 1);

async function worksIn(store: Store, folder: string): Promise<Work[]> {
  const found: Work[] = [];
  for await (const { name } of store.list(folder.slice(0, -1))) {
    const work = folderOf(name) === folder ? workOf(name) : null;
    if (work !== null) found.push(work);
  }
  return found;
}

export async function removeQuietly(store: WritableStore, name: string): Promise<void> {
  try {
    await store.remove(name);
  } catch (error) {
    if (!(error instanceof ImageError && error.fault === 'not-found')) throw error;
  }
}

export interface Claim {
  /** The unfinished file. */
  readonly partial: string;
  readonly file: ByteFile;
  /** Unfinished layers of programs that have ended, for one who writes; anybody else has them removed. */
  readonly left: readonly string[];
  /** One of them takes the place of the own file. False: somebody was faster. */
  takeOver(left: string): Promise<boolean>;
  /** The work is over; the file has its name, or is to go. */
  end(remove: boolean): Promise<void>;
}

/**
 * Makes the unfinished file of `name`, and refuses ('busy') when somebody else is at the same name, or when either works
 * 'alone'. Every claimant makes its file first and looks around afterwards: of two at the same moment at least one sees the
 * other. What dead programs left is removed, but for layers when a layer is to be written.
 */
export async function claim(store: WritableStore, name: string, mode: Mode): Promise<Claim> {
  const self = newOwner(mode);
  const text = textOf(self);
  const partial = `${name}.${text}${PARTIAL}`;
  underWay.add(text);
  let file: ByteFile | null = null;
  const left: string[] = [];
  const takeOver = async (name: string): Promise<boolean> => {
    try {
      await store.rename(name, partial);
    } catch (error) {
      if (error instanceof ImageError && error.fault === 'not-found') return false;
      throw error;
    }
    await file?.[Symbol.asyncDispose]();
    file = await store.reopen(partial);
    return true;
  };
  const end = async (remove: boolean): Promise<void> => {
    try {
      await file?.[Symbol.asyncDispose]();
      if (remove) await removeQuietly(store, partial);
    } finally {
      underWay.delete(text);
    }
  };
  try {
    file = await store.create(partial);
    for (const work of await worksIn(store, folderOf(name))) {
      if (work.partial === partial) continue;
      const state = alive(work, self);
      if (state === false) {
        if (mode === 'writes' && work.owner.mode === 'writes') left.push(work.partial);
        else await removeQuietly(store, work.partial);
      } else if (mode === 'alone' || work.owner.mode === 'alone' || work.name === name) throw busy(work, state);
    }
    return {
      partial,
      get file() {
        return file!;
      },
      left,
      takeOver,
      end,
    };
  } catch (error) {
    await end(file !== null);
    throw error;
  }
}
