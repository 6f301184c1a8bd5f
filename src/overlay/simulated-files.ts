/**
 * Overlay files in memory that behave as a kernel and a disk do: for tests of kills, power losses and failing calls.
 *
 * A kill leaves everything that was written. A power loss leaves, for each 512-byte sector by itself, any version since
 * the last sync of its file, and of a file's lengths since then any one: what lies behind it is gone. A planned fault makes one call fail, or write a part and then fail.
 */
import type { Bytes } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { roundDown } from '../base/range.ts';
import type { OverlayFile, OverlayFiles } from './files.ts';

const SECTOR = 512;

interface SimulatedFile {
  /** What a read gives: the kernel's memory. */
  readonly now: Map<number, Uint8Array>;
  /** Per sector written since the last sync: what the disk had, and every version since. */
  unsynced: Map<number, Uint8Array[]>;
  size: Bytes;
  /** Its length at the last sync, and every one since. */
  sizes: Bytes[];
  /** The folder was synced since the file was made: before that, a power loss may take it away. */
  named: boolean;
}

export interface Fault {
  /** Which call, counted from 1 over all calls that can fail. */
  readonly call: number;
  readonly code: 'EIO' | 'ENOSPC';
  /** A write does this part of its bytes before it fails. */
  readonly part?: number;
  /** How many calls in a row fail, the first one in part; one when missing. */
  readonly times?: number;
}

export interface Call {
  readonly what: 'read' | 'write' | 'lengthen' | 'sync' | 'syncNames' | 'open' | 'replace' | 'rename' | 'remove';
  readonly name: string;
  readonly at?: Bytes;
  readonly length?: Bytes;
}

/** What goes wrong, for a machine through all its restarts. */
export interface Plan {
  /** Calls so far that can fail. */
  calls: number;
  fault: Fault | null;
  /** Whether the planned fault has come. */
  faulted: boolean;
  /** Called before each call that can fail; may throw. */
  before: ((call: Call) => void) | null;
  /** What the file system says about its space. */
  space: { readonly free: Bytes; readonly total: Bytes };
  /** Planted error: a write or sync for which this is true says that it was done, and was not. */
  lies: ((call: Call) => boolean) | null;
  /** Planted error: each write to a file of this name is held back until the call after the next one. */
  late: string | null;
}

const PLENTY = { free: 2 ** 50, total: 2 ** 50 };

const nothingWrong = (): Plan => ({
  calls: 0,
  fault: null,
  faulted: false,
  before: null,
  space: PLENTY,
  lies: null,
  late: null,
});

export interface SimulatedFiles extends OverlayFiles {
  readonly plan: Plan;
  /** The same files as a run after a power loss finds them; `pick` chooses a version out of `n`. */
  afterPowerLoss(pick: (n: number) => number, plan?: Plan): SimulatedFiles;
  /** The same files as a run after a kill finds them. */
  afterKill(plan?: Plan): SimulatedFiles;
}

const NOTHING = new Uint8Array(SECTOR);

function readInto(file: SimulatedFile, into: Uint8Array, at: Bytes): void {
  for (let done = 0; done < into.length; ) {
    const sector = Math.floor((at + done) / SECTOR);
    const within = (at + done) % SECTOR;
    const n = Math.min(SECTOR - within, into.length - done);
    into.set((file.now.get(sector) ?? NOTHING).subarray(within, within + n), done);
    done += n;
  }
}

function writeInto(file: SimulatedFile, from: Uint8Array, at: Bytes): void {
  for (let done = 0; done < from.length; ) {
    const sector = Math.floor((at + done) / SECTOR);
    const within = (at + done) % SECTOR;
    const n = Math.min(SECTOR - within, from.length - done);
    const old = file.now.get(sector) ?? NOTHING;
    const next = old.slice();
    next.set(from.subarray(done, done + n), within);
    const versions = file.unsynced.get(sector);
    if (versions === undefined) file.unsynced.set(sector, [old, next]);
    else versions.push(next);
    file.now.set(sector, next);
    done += n;
  }
  enlarge(file, at + from.length);
}

function enlarge(file: SimulatedFile, size: Bytes): void {
  if (size <= file.size) return;
  file.size = size;
  file.sizes.push(size);
}

/** Counts the calls of one run, and makes them go wrong as planned. */
class Calls {
  readonly plan: Plan;
  #heldBack: { readonly since: number; apply(): void } | null = null;

  constructor(plan: Plan) {
    this.plan = plan;
  }

  meet(call: Call, partly?: (part: number) => void): void {
    const { plan } = this;
    plan.calls++;
    plan.before?.(call);
    if (this.#heldBack !== null && plan.calls > this.#heldBack.since + 1) this.#release();
    const { fault } = plan;
    if (fault === null || plan.calls < fault.call || plan.calls >= fault.call + (fault.times ?? 1)) return;
    plan.faulted = true;
    if (fault.part !== undefined && plan.calls === fault.call) partly?.(fault.part);
    if (fault.code === 'ENOSPC') throw new ImageError('no-space', 'no space left', { file: call.name });
    throw new ImageError('io', 'I/O failed (EIO)', { file: call.name });
  }

  holdBack(apply: () => void): void {
    this.#release();
    this.#heldBack = { since: this.plan.calls, apply };
  }

  #release(): void {
    this.#heldBack?.apply();
    this.#heldBack = null;
  }
}

function opened(name: string, file: SimulatedFile, calls: Calls): OverlayFile {
  const { plan } = calls;
  const readNow = (into: Uint8Array, at: Bytes): void => {
    calls.meet({ what: 'read', name, at, length: into.length });
    if (at + into.length > file.size) throw new ImageError('corrupt', 'the file ends early', { file: name, at });
    readInto(file, into, at);
  };
  return {
    name,
    get size() {
      return file.size;
    },
    read: readNow,
    readNow,
    write(from, at) {
      const call = { what: 'write', name, at, length: from.length } as const;
      calls.meet(call, part => {
        // A sector is written or not; the few bytes of a map may end anywhere.
        const unit = from.length < SECTOR ? 1 : SECTOR;
        writeInto(file, from.subarray(0, roundDown(from.length * part, unit)), at);
      });
      if (plan.lies?.(call)) return;
      if (plan.late === name) {
        const copy = from.slice();
        calls.holdBack(() => writeInto(file, copy, at));
        enlarge(file, at + from.length);
      } else writeInto(file, from, at);
    },
    async lengthen(size) {
      calls.meet({ what: 'lengthen', name });
      enlarge(file, size);
    },
    async sync() {
      const call = { what: 'sync', name } as const;
      if (plan.lies?.(call)) return;
      // What is written while the sync goes on is not covered by it.
      const covered = new Map([...file.unsynced].map(([sector, versions]) => [sector, versions.length]));
      const lengths = file.sizes.length;
      await new Promise(resolve => setImmediate(resolve));
      calls.meet(call);
      for (const [sector, count] of covered) {
        const versions = file.unsynced.get(sector)!;
        if (versions.length === count) file.unsynced.delete(sector);
        else versions.splice(0, count - 1);
      }
      file.sizes.splice(0, lengths - 1);
    },
    punch(at, length) {
      const inside = Math.min(length, file.size - at);
      if (inside > 0) writeInto(file, new Uint8Array(inside), at);
    },
    allocated: () => file.now.size * SECTOR,
    close: async () => {},
  };
}

type Folder = Map<string, SimulatedFile>;

const empty = (named: boolean): SimulatedFile => ({ now: new Map(), unsynced: new Map(), size: 0, sizes: [0], named });

function killed(folder: Folder): Folder {
  const after: Folder = new Map();
  for (const [name, file] of folder) {
    const unsynced = new Map([...file.unsynced].map(([sector, versions]) => [sector, [...versions]]));
    after.set(name, { ...file, now: new Map(file.now), unsynced, sizes: [...file.sizes] });
  }
  return after;
}

function lost(folder: Folder, pick: (n: number) => number): Folder {
  const after: Folder = new Map();
  for (const [name, file] of folder) {
    if (!file.named && pick(2) === 0) continue;
    const now = new Map(file.now);
    for (const [sector, versions] of file.unsynced) now.set(sector, versions[pick(versions.length)]!);
    const size = file.sizes[pick(file.sizes.length)]!;
    for (const [sector, content] of now) {
      if (sector * SECTOR >= size) now.delete(sector);
      else if ((sector + 1) * SECTOR > size) now.set(sector, content.slice().fill(0, size - sector * SECTOR));
    }
    after.set(name, { now, unsynced: new Map(), size, sizes: [size], named: true });
  }
  return after;
}

export function simulatedFiles(plan = nothingWrong(), folder: Folder = new Map()): SimulatedFiles {
  const calls = new Calls(plan);
  return {
    folder: 'simulated',
    plan,
    names: () => [...folder.keys()],
    space: () => plan.space,
    open(name, mode) {
      calls.meet({ what: 'open', name });
      if (mode === 'create') {
        if (folder.has(name)) throw new ImageError('exists', 'the file exists already', { file: name });
        folder.set(name, empty(false));
      }
      const file = folder.get(name);
      if (file === undefined) throw new ImageError('not-found', 'no such file', { file: name });
      return opened(name, file, calls);
    },
    readSmall(name, limit) {
      const file = folder.get(name);
      if (file === undefined) return null;
      const content = new Uint8Array(Math.min(limit, file.size));
      readInto(file, content, 0);
      return content;
    },
    async replace(name, content) {
      calls.meet({ what: 'replace', name });
      const file = empty(true);
      writeInto(file, content, 0);
      file.unsynced.clear();
      file.sizes = [file.size];
      folder.set(name, file);
    },
    rename(from, to) {
      calls.meet({ what: 'rename', name: from });
      folder.set(to, folder.get(from)!);
      folder.delete(from);
    },
    remove(name) {
      calls.meet({ what: 'remove', name });
      folder.delete(name);
    },
    async syncNames() {
      calls.meet({ what: 'syncNames', name: '' });
      for (const file of folder.values()) file.named = true;
    },
    afterKill: nextPlan => simulatedFiles(nextPlan, killed(folder)),
    afterPowerLoss: (pick, nextPlan) => simulatedFiles(nextPlan, lost(folder, pick)),
  };
}
