/**
 * Scratch space in a local folder. A compressed file is unpacked under a name that says who writes it and how far that has
 * come, and renamed when all of it is there. What a program that was killed left behind is gone on with.
 */
import fs from 'node:fs';
import path from 'node:path';
import type { ByteSource, Bytes, Scratch, Unpacking } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { makeFolder, namesIn, removeFile, renameFile, spaceNow } from '../base/files.ts';
import { openFile } from '../base/io.ts';
import { isAbandoned, isPartial, isResumable, type Kept, keptOf } from './partial.ts';
import { UnpackRun } from './unpack-run.ts';

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
  /** Whether anything is: then the event loop has to turn, also while nobody waits for it. */
  working(): boolean;
}

/** Left free for the rest of the system. */
const RESERVE: Bytes = 2 ** 30;
const DONE = '.unpacked';

const mib = (bytes: Bytes): string => `${Math.ceil(bytes / 2 ** 20)} MiB`;

const allocated = (file: string): Bytes => (fs.statSync(file, { throwIfNoEntry: false })?.blocks ?? 0) * 512;

/** A run, and the end of it. */
interface Coming {
  readonly run: UnpackRun;
  readonly ended: Promise<void>;
}

export function localScratch(spec: ScratchSpec): LocalScratch {
  const { folder } = spec;
  const coming = new Map<string, Coming>();
  const running = new Map<string, Unpacked>();
  /** Files that this program made, or reads. */
  const used = new Set<string>();
  const made = new Set<string>();
  /** Of runs that failed because the compressed file could not be read. */
  const failed = new Set<string>();
  const full = (name: string): string => path.join(folder, name);
  const isLeft = (name: string): boolean => isPartial(name) && (isAbandoned(name) || failed.has(name));

  /** Bytes that may still be written; what has not been used for longest makes room first. */
  const room = (wanted: Bytes): Bytes => {
    const old = namesIn(folder)
      .filter(name => (name.endsWith(DONE) && !used.has(name)) || isLeft(name))
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

  /** What an earlier run left that had come furthest; what nobody can go on with is removed. */
  const leftOf = (key: string): { readonly name: string; readonly kept: Kept } | null => {
    let best: { readonly name: string; readonly kept: Kept } | null = null;
    for (const name of namesIn(folder).filter(isLeft)) {
      const kept = keptOf(name, key);
      if (kept !== null && (best === null || kept.plain > best.kept.plain)) best = { name, kept };
      else if (kept === null && !isResumable(name)) removeFile(full(name));
    }
    return best;
  };

  const start = (what: Unpacking, key: string): Coming => {
    makeFolder(folder);
    const run = new UnpackRun(what, {
      folder,
      key,
      found: leftOf(key),
      reached(done) {
        running.set(what.version, { name: what.name, done, total: what.packed });
        spec.progress?.(what.name, done, what.packed);
      },
      needs(bytes, written) {
        if (room(bytes) < bytes) throw tooSmall(what, written);
      },
    });
    const finish = async (): Promise<void> => {
      try {
        await run.writeAll();
        renameFile(run.file, full(key + DONE));
        made.add(key + DONE);
      } catch (error) {
        failed.add(path.basename(run.file));
        throw error;
      } finally {
        running.delete(what.version);
        coming.delete(key);
      }
    };
    const ended = finish();
    ended.catch(() => {});
    const begun = { run, ended };
    coming.set(key, begun);
    return begun;
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

  const keyOf = ({ version }: Unpacking): string => version.slice(0, 40);

  const unpacked = async (what: Unpacking): Promise<ByteSource> => {
    const key = keyOf(what);
    for (;;) {
      const source = await openDone(key + DONE, what.name);
      if (source !== null) return source;
      await (coming.get(key) ?? start(what, key)).ended;
    }
  };

  const growing = (what: Unpacking): ByteSource => {
    const key = keyOf(what);
    let done: ByteSource | null = null;
    const readComing = async (into: Uint8Array, at: Bytes): Promise<void> => {
      const end = at + into.length;
      let now = coming.get(key);
      if (now === undefined) {
        done ??= await openDone(key + DONE, what.name);
        if (done !== null) return await done.read(into, at);
        now = coming.get(key) ?? start(what, key);
      }
      if (!now.run.has(end)) await Promise.race([now.run.reaches(end), now.ended]);
      return now.run.has(end) && coming.get(key) === now ? now.run.read(into, at) : readComing(into, at);
    };
    return {
      name: what.name,
      get size() {
        return done?.size ?? what.most ?? Number.MAX_SAFE_INTEGER;
      },
      read: (into, at) => (done === null ? readComing(into, at) : done.read(into, at)),
      async [Symbol.asyncDispose]() {
        await done?.[Symbol.asyncDispose]();
      },
    };
  };

  return {
    running: () => [...running.values()],
    working: () => coming.size > 0,
    unpacked,
    growing,
    async [Symbol.asyncDispose]() {
      if (!spec.keep) for (const name of made) removeFile(full(name));
    },
  };
}
