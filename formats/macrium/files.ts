/**
 * The image files of one store: what each says about itself, and their open sources. The points of a set share it, so
 * that a thousand of them cost neither a thousand listings nor a thousand descriptors each.
 */
import { filesIn } from '../../src/base/beside.ts';
import type { ByteSource, Bytes, Done, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { type Description, parseDescription } from './description.ts';
import { find, readFooter, readList, readPayload } from './metadata.ts';
import { corrupt } from './structs.ts';

export interface Member {
  readonly name: string;
  readonly size: Bytes;
  readonly description: Description;
  /** Digest of the description as stored: tells two files of one number apart. */
  readonly digest: string;
  readonly rootAt: Bytes;
}

/** Sources that stay open without being read. */
const IDLE_OPEN = 64;
/** Names from a history that are tried; each costs an attempt to open a file. */
const MOST_HINTS = 4096;
const MAX_DESCRIPTION = 8 * 1_048_576;

interface Opened {
  readonly source: Promise<ByteSource>;
  /** The source, once it is open. */
  ready: ByteSource | null;
  busy: number;
}

export const folderOf = (name: string): string => name.slice(0, name.lastIndexOf('/') + 1);
const extensionOf = (name: string): string => name.slice(name.lastIndexOf('.') + 1).toLowerCase();

async function describe(source: ByteSource): Promise<Member> {
  const { name, size } = source;
  const rootAt = await readFooter(source);
  const block = find(await readList(source, rootAt), '$JSON');
  if (block === undefined) throw corrupt('the file has no description', name, rootAt, '$JSON');
  const text = await readPayload(source, block, MAX_DESCRIPTION, null);
  const description = parseDescription(Buffer.from(text).toString('utf8'), name, block.at);
  return { name, size, description, digest: Buffer.from(block.md5).toString('hex'), rootAt };
}

export class Files {
  readonly #store: Store;
  readonly #open = new Map<string, Opened>();
  readonly #seen = new Map<string, Member | null>();
  /** Names in the folders that were listed. */
  readonly #listings = new Map<string, Promise<ReadonlySet<string>>>();
  #users = 0;

  constructor(store: Store) {
    this.#store = store;
  }

  retain(): void {
    this.#users++;
  }

  /** The last one closes all sources. */
  async release(): Promise<void> {
    if (--this.#users > 0) return;
    const all = [...this.#open.values()];
    this.#open.clear();
    this.#seen.clear();
    this.#listings.clear();
    for (const { source } of all) await (await source.catch(() => null))?.[Symbol.asyncDispose]();
  }

  /** A member as a source. Closing it does nothing: it is closed some time after, when others are needed more. */
  source({ name, size }: Pick<Member, 'name' | 'size'>): ByteSource {
    return {
      name,
      size,
      read: (into, at) => {
        if (at + into.length > size)
          throw corrupt(`${into.length} bytes at ${at} lie past the end of the file`, name, at);
        return this.#read(name, size, into, at);
      },
      async [Symbol.asyncDispose]() {},
    };
  }

  #read(name: string, size: Bytes, into: Uint8Array, at: Bytes): Done {
    const read = (source: ByteSource): Done => {
      // It may have been closed and opened again since it was looked at.
      if (source.size !== size) throw corrupt('the file was changed while it was in use', name, 0);
      return source.read(into, at);
    };
    const opened = this.#open.get(name);
    if (opened === undefined || opened.ready === null) return this.#use(name, read);
    const done = read(opened.ready);
    if (done === undefined) return;
    opened.busy++;
    return done.finally(() => opened.busy--);
  }

  async #use<T>(name: string, use: (source: ByteSource) => T | Promise<T>): Promise<T> {
    const opened = this.#open.get(name) ?? { source: this.#store.open(name), ready: null, busy: 0 };
    // A Map keeps insertion order: taken out and put in, it is the last to be closed.
    this.#open.delete(name);
    this.#open.set(name, opened);
    opened.busy++;
    try {
      opened.ready = await opened.source;
      return await use(opened.ready);
    } catch (error) {
      if (opened.ready === null && this.#open.get(name) === opened) this.#open.delete(name);
      throw error;
    } finally {
      opened.busy--;
      if (this.#open.size > IDLE_OPEN) await this.#closeOldest();
    }
  }

  async #closeOldest(): Promise<void> {
    for (const [name, opened] of this.#open) {
      if (opened.busy > 0) continue;
      this.#open.delete(name);
      await opened.ready?.[Symbol.asyncDispose]();
      return;
    }
  }

  /** Looks at a file afresh: what has the name now may not be what had it before. */
  async identify(name: string): Promise<Member> {
    const opened = this.#open.get(name);
    if (opened !== undefined && opened.busy === 0) {
      this.#open.delete(name);
      await opened.ready?.[Symbol.asyncDispose]();
    }
    const member = await this.#use(name, describe);
    this.#seen.set(name, member);
    return member;
  }

  /** The file when it is an image that can be described, else null. */
  async #look(name: string): Promise<Member | null> {
    const seen = this.#seen.get(name);
    if (seen !== undefined) return seen;
    try {
      return await this.identify(name);
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      this.#seen.set(name, null);
      return null;
    }
  }

  /**
   * All files of the set that `file` belongs to: those with its extension in its folder that carry its image id, and
   * those that lie there under a name from its history (a store that is a single file lists no others).
   */
  async setOf(file: Member): Promise<readonly Member[]> {
    const folder = folderOf(file.name);
    const extension = extensionOf(file.name);
    const names = new Set([file.name]);
    for (const name of await this.#list(folder, file.name)) if (extensionOf(name) === extension) names.add(name);
    for (const old of [...file.description.history.values()].slice(-MOST_HINTS)) {
      const stem = old.slice(0, old.lastIndexOf('.'));
      for (const name of [old, `${stem}.${extension}`])
        if (name !== '' && stem !== '' && extensionOf(name) === extension) names.add(folder + name);
    }
    const members: Member[] = [];
    for (const name of names) {
      const member = await this.#look(name);
      if (member?.description.imageId === file.description.imageId) members.push(member);
    }
    return members;
  }

  /** Listed once, and again when a file turns up that was not there. */
  async #list(folder: string, name: string): Promise<ReadonlySet<string>> {
    const before = await this.#listings.get(folder);
    if (before?.has(name)) return before;
    const listing = this.#namesIn(folder);
    this.#listings.set(folder, listing);
    for (const [seen, member] of this.#seen) if (member === null) this.#seen.delete(seen);
    return listing;
  }

  async #namesIn(folder: string): Promise<ReadonlySet<string>> {
    const names = new Set<string>();
    for await (const entry of filesIn(this.#store, folder.slice(0, -1))) names.add(entry.name);
    return names;
  }
}

const known = new WeakMap<Store, Files>();

export function filesOf(store: Store): Files {
  let files = known.get(store);
  if (files === undefined) {
    files = new Files(store);
    known.set(store, files);
  }
  return files;
}
