/** The files of one image. However many there are, only some of them are open at a time. */
import type { ByteSource, Bytes, Done, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { lastAtOrBefore } from '../../src/base/range.ts';

const MOST_OPEN = 32;

interface Opened {
  readonly source: Promise<ByteSource>;
  /** The source, once it is open. */
  ready: ByteSource | null;
  users: number;
}

export class Segments implements AsyncDisposable {
  readonly #store: Store;
  readonly #names: string[] = [];
  readonly #sizes: Bytes[] = [];
  readonly #starts: Bytes[] = [];
  #total: Bytes = 0;
  /** The one used last stands last. */
  readonly #open = new Map<number, Opened>();
  /** Index of that one. */
  #latest = -1;
  #closed = false;

  constructor(store: Store) {
    this.#store = store;
  }

  get count(): number {
    return this.#names.length;
  }

  /** Length of all files together. */
  get total(): Bytes {
    return this.#total;
  }

  name(index: number): string {
    return this.#names[index]!;
  }

  size(index: number): Bytes {
    return this.#sizes[index]!;
  }

  /** Where a byte lies when all files are counted through. */
  globalAt(index: number, fileAt: Bytes): Bytes {
    return this.#starts[index]! + fileAt;
  }

  /** One more file behind the ones that are known. 'not-found' when it is not there. */
  async add(name: string): Promise<void> {
    const source = await this.#store.open(name);
    this.#open.set(this.#names.length, { source: Promise.resolve(source), ready: source, users: 0 });
    this.#names.push(name);
    this.#sizes.push(source.size);
    this.#starts.push(this.#total);
    this.#total += source.size;
    await this.#closeSome();
  }

  /** Fills `into` from one file, wholly. */
  read(index: number, into: Uint8Array, fileAt: Bytes): Done {
    const opened = index === this.#latest ? this.#open.get(index) : undefined;
    if (this.#closed || opened === undefined || opened.ready === null) return this.#readFrom(index, into, fileAt);
    opened.users++;
    const free = (): void => void opened.users--;
    try {
      const waiting = opened.ready.read(into, fileAt);
      if (waiting === undefined) free();
      else return waiting.finally(free);
    } catch (error) {
      free();
      throw error;
    }
  }

  async #readFrom(index: number, into: Uint8Array, fileAt: Bytes): Promise<void> {
    if (this.#closed) throw new ImageError('io', 'the image is closed', { file: this.name(index) });
    let opened = this.#open.get(index);
    this.#open.delete(index);
    opened ??= { source: this.#reopen(index), ready: null, users: 0 };
    this.#open.set(index, opened);
    this.#latest = index;
    opened.users++;
    try {
      opened.ready = await opened.source;
      await opened.ready.read(into, fileAt);
    } finally {
      opened.users--;
      await this.#closeSome();
    }
  }

  /** All files as one, by their counted offsets; a read does not go beyond the file it begins in. */
  asOne(): ByteSource {
    return {
      name: this.name(0),
      size: this.#total,
      read: (into, at) => {
        const index = lastAtOrBefore(this.#starts, at);
        return this.read(index, into, at - this.#starts[index]!);
      },
      async [Symbol.asyncDispose]() {},
    };
  }

  async #reopen(index: number): Promise<ByteSource> {
    try {
      const source = await this.#store.open(this.name(index));
      if (source.size === this.size(index)) return source;
      await source[Symbol.asyncDispose]();
      throw new ImageError('io', 'the file has changed since the image was opened', { file: this.name(index) });
    } catch (error) {
      this.#open.delete(index);
      throw error;
    }
  }

  async #closeSome(): Promise<void> {
    for (const [index, { source, users }] of this.#open) {
      if (this.#open.size <= MOST_OPEN) return;
      if (users > 0) continue;
      this.#open.delete(index);
      await (await source)[Symbol.asyncDispose]();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    const open = [...this.#open.values()];
    this.#open.clear();
    for (const { source } of open) {
      const file = await source.catch(() => null);
      await file?.[Symbol.asyncDispose]();
    }
  }
}
