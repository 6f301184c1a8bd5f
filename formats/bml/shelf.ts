/**
 * The `.bml` files of one store: which layers each holds, and their open sources. Images of a set share it, so that
 * a thousand layers cost neither a thousand listings nor a thousand descriptors each.
 */
import type { ByteSource, Bytes, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { readHeld } from './held.ts';
import { LayerFiles } from './layer-files.ts';
import { corrupt, hex } from './structs.ts';
import { type Head, readHead, readTail, type Tail } from './superblock.ts';

/** One file, as a place to read objects from. */
export interface SetFile {
  readonly name: string;
  readonly size: Bytes;
  readonly setId: string;
  /** Ids of the layers whose objects lie here, in hexadecimal. */
  readonly layers: ReadonlySet<string>;
  /** Sorted index of objects; `entries` 0: there is none, and hints alone decide. */
  readonly index: { readonly at: Bytes; readonly entries: number };
  read(into: Uint8Array, at: Bytes): Promise<void>;
}

/** Sources that stay open without being read. */
const IDLE_OPEN = 128;

interface Opened {
  readonly source: Promise<ByteSource>;
  busy: number;
  /** Another file has the name now: closed as soon as nobody reads. */
  detached: boolean;
}

/** A folder is not looked at again sooner than this, in ms, however many reads fail. */
const LOOK_AGAIN = 1000;

const folderOf = (name: string): string => name.slice(0, name.lastIndexOf('/') + 1);

export class Shelf {
  readonly #store: Store;
  readonly #open = new Map<string, Opened>();
  readonly #seen = new Map<string, SetFile>();
  /** By folder and set. */
  readonly #layers = new Map<string, LayerFiles>();
  /** Size and time of each listed file when it was last looked at. */
  readonly #stamps = new Map<string, string>();
  readonly #listings = new Map<string, Promise<void>>();
  readonly #looked = new Map<string, number>();
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
    this.#layers.clear();
    this.#stamps.clear();
    for (const { source } of all) await (await source.catch(() => null))?.[Symbol.asyncDispose]();
  }

  /** Runs `use` on the open file; it is closed some time after, when others are needed more. */
  async use<T>(name: string, use: (source: ByteSource) => T | Promise<T>): Promise<T> {
    let opened = this.#open.get(name);
    if (opened !== undefined) this.#open.delete(name);
    else opened = { source: this.#store.open(name), busy: 0, detached: false };
    this.#open.set(name, opened);
    opened.busy++;
    try {
      return await use(await opened.source);
    } catch (error) {
      // A source that did not open must not be kept; a read that failed may go better on a fresh one.
      await this.#close(name, opened);
      throw error;
    } finally {
      opened.busy--;
      if (opened.detached && opened.busy === 0) await (await opened.source.catch(() => null))?.[Symbol.asyncDispose]();
      if (this.#open.size > IDLE_OPEN) await this.#closeOldest();
    }
  }

  async #close(name: string, opened: Opened): Promise<void> {
    if (opened.busy > 1 || this.#open.get(name) !== opened) return;
    this.#open.delete(name);
    const source = await opened.source.catch(() => null);
    await source?.[Symbol.asyncDispose]();
  }

  async #closeOldest(): Promise<void> {
    for (const [name, opened] of this.#open) {
      if (opened.busy > 0) continue;
      this.#open.delete(name);
      await (await opened.source)[Symbol.asyncDispose]();
      return;
    }
  }

  /** Looks at a file afresh, also when it was seen before. Faults: those of its superblock and trailer. */
  async identify(name: string): Promise<{ readonly file: SetFile; readonly head: Head; readonly tail: Tail }> {
    const found = await this.use(name, async source => {
      const head = await readHead(source);
      const tail = await readTail(source);
      const layers = new Set(tail.commits.map(commit => hex(commit.layer)));
      for (const id of await readHeld(source, tail)) layers.add(id);
      const index = { at: tail.indexAt, entries: tail.indexEntries };
      return { head, tail, file: this.#setFile(source, hex(head.setId), layers, index) };
    });
    this.#drop(name);
    this.#seen.set(name, found.file);
    this.layersBeside(name, found.file.setId).add(found.file);
    return found;
  }

  #drop(name: string): void {
    const file = this.#seen.get(name);
    if (file === undefined) return;
    this.#seen.delete(name);
    this.layersBeside(name, file.setId).remove(file);
  }

  /** The files of a set that were looked at so far, in the folder of one of them. */
  layersBeside(name: string, setId: string): LayerFiles {
    const key = `${setId} ${folderOf(name)}`;
    let files = this.#layers.get(key);
    if (files === undefined) {
      files = new LayerFiles();
      this.#layers.set(key, files);
    }
    return files;
  }

  #setFile(source: ByteSource, setId: string, layers: ReadonlySet<string>, index: SetFile['index']): SetFile {
    const { name, size } = source;
    return {
      name,
      size,
      setId,
      layers,
      index,
      read: async (into, at) => {
        if (at + into.length > size) throw corrupt('the record lies past the end of the file', name, at);
        await this.use(name, now => now.read(into, at));
      },
    };
  }

  /** What has the name now may not be what had it before: the source is closed, or as soon as nobody reads it. */
  async forget(name: string): Promise<void> {
    this.#drop(name);
    const opened = this.#open.get(name);
    if (opened === undefined) return;
    this.#open.delete(name);
    opened.detached = true;
    if (opened.busy > 0) return;
    const source = await opened.source.catch(() => null);
    await source?.[Symbol.asyncDispose]();
  }

  async #tryIdentify(name: string): Promise<void> {
    try {
      await this.identify(name);
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
    }
  }

  /**
   * The files beside `beside` that hold any of the wanted layers: first by the names that they had, then by looking at
   * every `.bml` file of the folder.
   */
  async find(beside: string, setId: string, wanted: ReadonlyMap<string, string>): Promise<readonly SetFile[]> {
    const folder = folderOf(beside);
    for (const name of wanted.values()) {
      if (name !== '' && !name.includes('/') && !this.#seen.has(folder + name)) await this.#tryIdentify(folder + name);
    }
    const held = this.layersBeside(beside, setId);
    const ids = [...wanted.keys()].map(id => new Uint8Array(Buffer.from(id, 'hex')));
    if (ids.some(id => held.of(id).length === 0)) await this.#list(folder);
    return [...new Set(ids.flatMap(id => held.of(id)))];
  }

  /** Concurrent callers share one listing. */
  #list(folder: string): Promise<void> {
    let running = this.#listings.get(folder);
    if (running === undefined) {
      running = this.#look(folder).finally(() => this.#listings.delete(folder));
      this.#listings.set(folder, running);
    }
    return running;
  }

  /** The files that hold a layer now, after a look at the folder for what changed since the last one. */
  async again(beside: string, setId: string, layer: Uint8Array): Promise<readonly SetFile[]> {
    const folder = folderOf(beside);
    const now = performance.now();
    if (now - (this.#looked.get(folder) ?? -LOOK_AGAIN) >= LOOK_AGAIN) {
      this.#looked.set(folder, now);
      await this.#list(folder);
    }
    return [...this.layersBeside(beside, setId).of(layer)];
  }

  async #look(folder: string): Promise<void> {
    const listed = new Set<string>();
    for await (const entry of this.#store.list(folder.slice(0, -1))) {
      if (folderOf(entry.name) !== folder || !entry.name.endsWith('.bml')) continue;
      listed.add(entry.name);
      const stamp = `${entry.size} ${entry.modified.getTime()}`;
      if (this.#stamps.get(entry.name) === stamp) continue;
      this.#stamps.set(entry.name, stamp);
      await this.forget(entry.name);
      await this.#tryIdentify(entry.name);
    }
    for (const name of this.#seen.keys()) {
      if (folderOf(name) !== folder || listed.has(name)) continue;
      this.#stamps.delete(name);
      await this.forget(name);
    }
  }
}

const shelves = new WeakMap<Store, Shelf>();

export function shelfOf(store: Store): Shelf {
  let shelf = shelves.get(store);
  if (shelf === undefined) {
    shelf = new Shelf(store);
    shelves.set(store, shelf);
  }
  return shelf;
}
