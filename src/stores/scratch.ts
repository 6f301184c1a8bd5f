/**
 * Scratch space in a local folder. A compressed file is unpacked under a name that says who writes it, and renamed when
 * all of it is there: what a program that was killed left behind is known for what it is, and removed.
 */
import { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import type { ByteSource, Bytes, Scratch, Unpacking } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import {
  makeFolder,
  namesIn,
  openFileNow,
  pidNamespace,
  removeFile,
  renameFile,
  spaceNow,
  startOf,
} from '../base/files.ts';
import { type LocalFile, openFile } from '../base/io.ts';
import { isZero } from '../base/range.ts';

export interface ScratchSpec {
  /** Made when something is unpacked first. */
  readonly folder: string;
  /** Bytes that everything in the folder may take; null: what its file system has free, but for a reserve. */
  readonly most: Bytes | null;
  /** Whether what is unpacked stays for the next program. */
  readonly keep: boolean;
  /** How to give more room, for messages. */
  readonly hint: string;
  progress?(name: string, done: Bytes, total: Bytes): void;
}

/** What is being unpacked, and how much of the compressed file was read. */
export interface Unpacked {
  readonly name: string;
  readonly done: Bytes;
  readonly total: Bytes;
}

export interface LocalScratch extends Scratch, AsyncDisposable {
  /** What is being unpacked now. */
  running(): readonly Unpacked[];
}

/** Left free for the rest of the system. */
const RESERVE: Bytes = 2 ** 30;
/** The room is looked at again after so much. */
const STEP: Bytes = 64 * 2 ** 20;
/** Zeros of this length become holes. */
const HOLE: Bytes = 65_536;
const DONE = '.unpacked';
const PART = '.part';

const mib = (bytes: Bytes): string => `${Math.ceil(bytes / 2 ** 20)} MiB`;
const digits = (text: string): string => text.replaceAll(/\D/g, '');

/** `<key>.<namespace>-<pid>-<start>.part`. */
const ownName = (key: string): string =>
  `${key}.${digits(pidNamespace())}-${process.pid}-${startOf(process.pid) ?? 0}${PART}`;

/** Whether nobody writes it any more; one of another pid namespace may still be written. */
function isAbandoned(name: string): boolean {
  const [, namespace, pid, start] = /\.(\d+)-(\d+)-(\d+)\.part$/.exec(name) ?? [];
  return namespace === digits(pidNamespace()) && startOf(Number(pid)) !== start;
}

const allocated = (file: string): Bytes => (fs.statSync(file, { throwIfNoEntry: false })?.blocks ?? 0) * 512;

export function localScratch(spec: ScratchSpec): LocalScratch {
  const { folder } = spec;
  const coming = new Map<string, Promise<void>>();
  const running = new Map<string, Unpacked>();
  /** Files that this program made, or reads. */
  const used = new Set<string>();
  const made = new Set<string>();
  const full = (name: string): string => path.join(folder, name);

  const removeAbandoned = (): void => {
    for (const name of namesIn(folder)) if (name.endsWith(PART) && isAbandoned(name)) removeFile(full(name));
  };

  /** Bytes that may still be written; what has not been used for longest makes room first. */
  const room = (wanted: Bytes): Bytes => {
    const old = namesIn(folder)
      .filter(name => name.endsWith(DONE) && !used.has(name))
      .map(name => ({ name, time: fs.statSync(full(name), { throwIfNoEntry: false })?.mtimeMs ?? 0 }))
      .toSorted((a, b) => b.time - a.time);
    for (;;) {
      const taken = namesIn(folder).reduce((sum, name) => sum + allocated(full(name)), 0);
      const free = spaceNow(folder).free - RESERVE;
      const left = spec.most === null ? free : Math.min(spec.most - taken, free);
      const oldest = left < wanted ? old.pop() : undefined;
      if (oldest === undefined) return left;
      removeFile(full(oldest.name));
    }
  };

  const tooSmall = ({ name, most }: Unpacking, written: Bytes): ImageError => {
    const needs = most === null ? 'an unknown length' : `up to ${mib(most)}`;
    const limit = spec.most === null ? `what ${folder} has free` : `the limit of ${mib(spec.most)} for ${folder}`;
    const message = `unpacking it takes ${needs}, more than ${limit} (${mib(written)} were unpacked)`;
    return new ImageError('no-space', message, { file: name }, { hint: spec.hint });
  };

  const writeAll = async (what: Unpacking, file: LocalFile): Promise<void> => {
    let at = 0;
    let checked = 0;
    const step = Math.min(STEP, what.most ?? STEP);
    const reached = (done: Bytes): void => {
      running.set(what.version, { name: what.name, done, total: what.packed });
      spec.progress?.(what.name, done, what.packed);
    };
    if (room(what.packed) < what.packed) throw tooSmall(what, 0);
    for await (const part of what.content(reached)) {
      if (what.most !== null && at + part.length > what.most) {
        const message = `more comes out than the ${what.most} bytes that it can hold`;
        throw new ImageError('corrupt', message, { file: what.name });
      }
      if (at + part.length > checked) {
        if (room(step) < step) throw tooSmall(what, at);
        checked = at + part.length + step;
      }
      for (let done = 0; done < part.length; done += HOLE) {
        const piece = part.subarray(done, done + HOLE);
        if (!isZero(piece)) file.write(piece, at + done);
      }
      at += part.length;
    }
    await file.truncate(at);
    await file.sync();
  };

  const unpack = async (what: Unpacking, name: string): Promise<void> => {
    makeFolder(folder);
    removeAbandoned();
    const partial = full(ownName(`${name}-${randomUUID().slice(0, 8)}`));
    const file = openFileNow(partial, 'create', what.name);
    try {
      await writeAll(what, file);
      renameFile(partial, full(name));
      made.add(name);
    } catch (error) {
      removeFile(partial);
      throw error;
    } finally {
      running.delete(what.version);
      await file[Symbol.asyncDispose]();
    }
  };

  const openDone = async (name: string, shown: string): Promise<ByteSource | null> => {
    try {
      const source = await openFile(full(name), 'read', shown);
      const now = new Date();
      fs.utimesSync(full(name), now, now);
      used.add(name);
      return source;
    } catch (error) {
      if (error instanceof ImageError && error.fault === 'not-found') return null;
      throw error;
    }
  };

  return {
    running: () => [...running.values()],
    async unpacked(what) {
      const name = `${what.version.slice(0, 40)}${DONE}`;
      for (;;) {
        const source = await openDone(name, what.name);
        if (source !== null) return source;
        const run = coming.get(name) ?? unpack(what, name).finally(() => coming.delete(name));
        coming.set(name, run);
        await run;
      }
    },
    async [Symbol.asyncDispose]() {
      if (!spec.keep) for (const name of made) removeFile(full(name));
    },
  };
}
