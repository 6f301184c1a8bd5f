/** One run that unpacks a file: it goes on where an earlier one was ended, and serves what is there meanwhile. */
import { randomUUID } from 'node:crypto';
import path from 'node:path';
import type { Bytes, Unpacking } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { openFileNow, removeFile, renameFile } from '../base/files.ts';
import type { LocalFile } from '../base/io.ts';
import { isZero } from '../base/range.ts';
import { type Kept, NOTHING, ownName } from './partial.ts';

/** The room is looked at again, and what is there made certain, after so much. */
const STEP: Bytes = 64 * 2 ** 20;
/** Zeros of this length become holes. */
const HOLE: Bytes = 65_536;

export interface RunSpec {
  readonly folder: string;
  readonly key: string;
  /** What an earlier run left, by its file's name, and how far it had come; null to begin anew. */
  readonly found: { readonly name: string; readonly kept: Kept } | null;
  reached(packed: Bytes): void;
  /** Throws 'no-space' when there is no room for so much more. */
  needs(bytes: Bytes, written: Bytes): void;
}

interface Waiter {
  readonly end: Bytes;
  readonly resolve: () => void;
}

export class UnpackRun {
  readonly #what: Unpacking;
  readonly #spec: RunSpec;
  readonly #file: LocalFile;
  readonly #unique: string;
  #name: string;
  /** How much from the front can be read; -1 at the end of the run, when the file is closed. */
  #ready: Bytes;
  #at: Bytes;
  #restart: Pick<Kept, 'restartPacked' | 'restartPlain'>;
  #waiters: Waiter[] = [];
  #reads = new Set<Promise<void>>();
  #checkpoint: Promise<void> | null = null;
  /** Where the last checkpoint was begun. */
  #kept: Bytes;

  /** Opens or makes the file. */
  constructor(what: Unpacking, spec: RunSpec) {
    const { folder, key, found } = spec;
    const kept = found?.kept ?? NOTHING;
    this.#what = what;
    this.#spec = spec;
    this.#unique = randomUUID().slice(0, 8);
    this.#name = ownName(key, kept, this.#unique);
    const full = path.join(folder, this.#name);
    // By renaming it becomes this program's: another one that wants to go on with it finds it gone.
    if (found !== null) renameFile(path.join(folder, found.name), full);
    this.#file = openFileNow(full, found === null ? 'create' : 'write', what.name);
    this.#ready = kept.plain;
    this.#kept = kept.plain;
    this.#at = kept.restartPlain;
    this.#restart = kept;
  }

  /** Of the file that is written. */
  get file(): string {
    return path.join(this.#spec.folder, this.#name);
  }

  /** Writes everything. The file stays when reading the compressed one failed: then it can be gone on with. */
  async writeAll(): Promise<void> {
    try {
      await this.#file.truncate(this.#ready);
      await this.#write();
      await this.#checkpoint;
      await this.#file.truncate(this.#at);
      await this.#file.sync();
    } catch (error) {
      await this.#checkpoint;
      if (!(error instanceof ImageError) || error.fault !== 'io') removeFile(this.file);
      throw error;
    } finally {
      this.#ready = -1;
      await Promise.allSettled(this.#reads);
      await this.#file[Symbol.asyncDispose]();
    }
  }

  async #write(): Promise<void> {
    const { content, most, packed, name } = this.#what;
    const { reached, needs } = this.#spec;
    const step = Math.min(STEP, most ?? STEP);
    let checked = this.#ready;
    needs(Math.max(0, packed - this.#ready), 0);
    const restart = (at: Bytes): void => {
      this.#restart = { restartPacked: at, restartPlain: this.#at };
    };
    for await (const part of content({ reached, restart }, this.#restart.restartPacked)) {
      const end = this.#at + part.length;
      if (most !== null && end > most) {
        throw new ImageError('corrupt', `more comes out than the ${most} bytes that it can hold`, { file: name });
      }
      if (end > checked) {
        needs(step, this.#at);
        checked = end + step;
      }
      await this.#put(part);
      if (this.#at === this.#ready && this.#at - this.#kept >= STEP) this.#keep();
    }
  }

  async #put(part: Uint8Array): Promise<void> {
    // What an earlier run wrote is there.
    for (let done = Math.max(0, Math.min(part.length, this.#ready - this.#at)); done < part.length; ) {
      const piece = part.subarray(done, done + HOLE);
      if (!isZero(piece)) this.#file.write(piece, this.#at + done);
      done += piece.length;
    }
    this.#at += part.length;
    if (this.#at <= this.#ready) return;
    this.#ready = this.#at;
    if (this.#file.size < this.#ready) await this.#file.truncate(this.#ready);
    const waiting = this.#waiters;
    this.#waiters = waiting.filter(({ end }) => end > this.#ready);
    for (const { end, resolve } of waiting) if (end <= this.#ready) resolve();
  }

  /** Makes certain what is there now, and says so in the file's name. One at a time, beside the run. */
  #keep(): void {
    if (this.#checkpoint !== null) return;
    this.#kept = this.#at;
    const kept = { plain: this.#at, ...this.#restart };
    const write = async (): Promise<void> => {
      await this.#file.sync();
      const name = ownName(this.#spec.key, kept, this.#unique);
      renameFile(this.file, path.join(this.#spec.folder, name));
      this.#name = name;
    };
    this.#checkpoint = write()
      // Then an interrupted run is gone on with from further ahead, or not at all.
      .catch(() => {})
      .finally(() => {
        this.#checkpoint = null;
      });
  }

  /** Whether the range is there. */
  has(end: Bytes): boolean {
    return end <= this.#ready;
  }

  /** Resolves when the range up to `end` is there; not at all when the run ends before. */
  reaches(end: Bytes): Promise<void> {
    if (this.has(end)) return Promise.resolve();
    return new Promise(resolve => this.#waiters.push({ end, resolve }));
  }

  /** Reads what is there. */
  async read(into: Uint8Array, at: Bytes): Promise<void> {
    const reading = Promise.resolve(this.#file.read(into, at));
    this.#reads.add(reading);
    try {
      await reading;
    } finally {
      this.#reads.delete(reading);
    }
  }
}
