/**
 * One program per overlay. The lock is a file that names its holder by pid and start time within one boot of the
 * machine, so that the lock of a program that was killed is known for what it is and taken over.
 */
import path from 'node:path';
import { ImageError } from '../base/errors.ts';
import {
  bootId,
  makeFolder,
  pidNamespace,
  readSmallFile,
  removeFile,
  renameFile,
  startOf,
  writeNew,
} from '../base/files.ts';
import { isZero } from '../base/range.ts';

export interface FolderLock {
  release(): void;
}

interface Holder {
  readonly pid: number;
  readonly start: string;
  readonly boot: string;
  readonly namespace: string;
}

const MAX_LOCK = 4096;
/** A takeover of a takeover needs a kill in just that moment each time; so many in a row is something else. */
const MAX_DEPTH = 5;

const textOf = (holder: Holder): string =>
  `pid ${holder.pid}\nstart ${holder.start}\nboot ${holder.boot}\nnamespace ${holder.namespace}\n`;

function parse(content: Uint8Array): Holder | null {
  const text = new TextDecoder().decode(content);
  const match = /^pid (\d{1,10})\nstart (\d{1,20})\nboot ([0-9a-f-]{1,64})\nnamespace ([\w:[\]]{1,64})\n$/.exec(text);
  if (match === null) return null;
  return { pid: Number(match[1]), start: match[2]!, boot: match[3]!, namespace: match[4]! };
}

const nameOf = (holder: Holder): string => `${holder.pid}-${holder.start}`;

function ownIdentity(): Holder {
  const start = startOf(process.pid);
  if (start === null) throw new ImageError('unsupported', 'cannot read /proc, which locks need', { file: '/proc' });
  return { pid: process.pid, start, boot: bootId(), namespace: pidNamespace() };
}

/** Whether the holder can still write: 'unknown' where its pid cannot be looked up from here. */
function alive(holder: Holder, self: Holder): boolean | 'unknown' {
  if (holder.boot !== self.boot) return false;
  if (holder.namespace !== self.namespace) return 'unknown';
  return startOf(holder.pid) === holder.start;
}

function busy(file: string, holder: Holder | null, state: true | 'unknown'): ImageError {
  const who = holder === null ? 'by a program that left no readable name' : `by the program with pid ${holder.pid}`;
  const doubt = state === 'unknown' ? ', which cannot be seen from here' : '';
  return new ImageError('busy', `in use ${who}${doubt}`, { file }, { hint: `if it has ended, remove ${file}` });
}

/**
 * Takes `file`, or throws 'busy'. A stale lock is replaced by whoever holds the lock on *that* holder's replacement, so
 * that of two programs that find it stale only one takes over, and neither removes the other's fresh lock.
 */
function take(file: string, self: Holder, depth: number): void {
  for (let round = 0; round < 3; round++) {
    if (writeNew(file, textOf(self))) return;
    const content = readSmallFile(file, MAX_LOCK);
    if (content === null) continue;
    const holder = parse(content);
    // A power loss leaves the name without its content; a program that runs wrote both at once.
    const state = holder === null ? !isZero(content) && 'unknown' : alive(holder, self);
    if (state !== false || depth === MAX_DEPTH) throw busy(file, holder, state === false ? 'unknown' : state);
    const takeover = `${file}~${holder === null ? 'empty' : nameOf(holder)}`;
    take(takeover, self, depth + 1);
    try {
      const now = readSmallFile(file, MAX_LOCK);
      if (now === null || Buffer.compare(now, content) !== 0) continue;
      const mine = `${file}.mine-${nameOf(self)}`;
      removeFile(mine);
      writeNew(mine, textOf(self));
      renameFile(mine, file);
      return;
    } finally {
      removeFile(takeover);
    }
  }
  throw busy(file, null, true);
}

/** Locks a folder for this program, for as long as it runs or until `release`. Held already, by itself too: 'busy'. */
export function lockFolder(folder: string, name = 'lock'): FolderLock {
  makeFolder(folder);
  const file = path.join(folder, name);
  const self = ownIdentity();
  take(file, self, 0);
  let held = true;
  return {
    release() {
      // Somebody may have removed the file by hand, and another program be its holder now.
      const content = held ? readSmallFile(file, MAX_LOCK) : null;
      held = false;
      if (content !== null && new TextDecoder().decode(content) === textOf(self)) removeFile(file);
    },
  };
}
