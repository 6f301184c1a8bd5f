/**
 * A store whose machine can lose its power: writes since the last sync of a file are there or not, each by itself and in
 * part, in units of 512 bytes. Names are durable when the call that changes them has returned.
 */
import type { ByteFile, Bytes, WritableStore } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { memoryStore } from '../../src/stores/memory.ts';

const SECTOR = 512;

type Change = { readonly at: Bytes; readonly data: Uint8Array } | { readonly size: Bytes };

interface Held {
  readonly durable: Uint8Array;
  /** Since then, in order. */
  readonly changes: readonly Change[];
}

export interface LossyStore {
  readonly store: WritableStore;
  /** Operations so far. */
  readonly log: string[];
  /** What a new start finds. `pick` chooses one of n; always the last one: everything is there, as after a kill. */
  after(pick: (n: number) => number): Record<string, Uint8Array>;
}

/** A file as it comes to lie on the disk. */
class Platter {
  #bytes: Uint8Array;
  #size: Bytes;

  constructor(durable: Uint8Array) {
    this.#bytes = durable.slice();
    this.#size = durable.length;
  }

  resize(size: Bytes): void {
    if (size > this.#bytes.length) {
      const bytes = new Uint8Array(Math.max(size, this.#bytes.length * 2));
      bytes.set(this.#bytes.subarray(0, this.#size));
      this.#bytes = bytes;
    } else if (size < this.#size) this.#bytes.fill(0, size, this.#size);
    this.#size = size;
  }

  /** 0: none of it is on the disk; 1: some sectors are; 2: all of it is. */
  apply(change: Change, how: number, pick: (n: number) => number): void {
    if (how === 0) return;
    if ('size' in change) {
      this.resize(change.size);
      return;
    }
    const { at, data } = change;
    const before = this.#size;
    this.resize(Math.max(before, at + data.length));
    for (let from = 0; from < data.length; ) {
      const to = Math.min(data.length, from + SECTOR - ((at + from) % SECTOR));
      if (how === 2 || pick(2) === 1) this.#bytes.set(data.subarray(from, to), at + from);
      from = to;
    }
    if (how === 1 && pick(2) === 0) this.resize(Math.max(before, at));
  }

  get contents(): Uint8Array {
    return this.#bytes.slice(0, this.#size);
  }
}

function lie(durable: Uint8Array, changes: readonly Change[], pick: (n: number) => number): Uint8Array {
  const platter = new Platter(durable);
  for (const change of changes) platter.apply(change, pick(3), pick);
  return platter.contents;
}

/**
 * From operation `stop` on everything fails, a write of that number halfway. With `lies` a sync does nothing: the planted
 * error.
 */
export function lossyStore(files: Readonly<Record<string, Uint8Array>>, stop: number, lies = false): LossyStore {
  const inner = memoryStore(files);
  const held = new Map<string, Held>(
    Object.entries(files).map(([name, bytes]) => [name, { durable: bytes, changes: [] }]),
  );
  const log: string[] = [];
  const step = (what: string): void => {
    log.push(what);
    if (log.length > stop) throw new ImageError('io', 'planted', { file: 'planted' });
  };
  const note = (name: string, change: Change): void => {
    const { durable, changes } = held.get(name)!;
    held.set(name, { durable, changes: [...changes, change] });
  };
  const wrap = (file: ByteFile): ByteFile => {
    /** The file may be given another name while it is open. */
    let { name } = file;
    names.push((from, to) => {
      if (name === from) name = to;
    });
    return {
      name: file.name,
      get size() {
        return file.size;
      },
      read: (into, at) => file.read(into, at),
      async write(from, at) {
        if (log.length === stop) note(name, { at, data: from.slice(0, from.length >> 1) });
        step(`write ${at}`);
        note(name, { at, data: from.slice() });
        await file.write(from, at);
      },
      async truncate(size) {
        step('truncate');
        note(name, { size });
        await file.truncate(size);
      },
      async sync() {
        step('sync');
        if (!lies) held.set(name, { durable: inner.bytes(name), changes: [] });
      },
      async [Symbol.asyncDispose]() {},
    };
  };
  const names: ((from: string, to: string) => void)[] = [];
  const store: WritableStore = {
    ...inner,
    async create(name) {
      step('create');
      const file = await inner.create(name);
      held.set(name, { durable: new Uint8Array(0), changes: [] });
      return wrap(file);
    },
    async reopen(name) {
      step('reopen');
      return wrap(await inner.reopen(name));
    },
    async rename(from, to) {
      step('rename');
      await inner.rename(from, to);
      held.set(to, held.get(from)!);
      held.delete(from);
      for (const renamed of names) renamed(from, to);
    },
    async remove(name) {
      step('remove');
      await inner.remove(name);
      held.delete(name);
    },
  };
  return {
    store,
    log,
    after: pick =>
      Object.fromEntries([...held].map(([name, { durable, changes }]) => [name, lie(durable, changes, pick)])),
  };
}

/** Ways to lose what is not durable: nothing of it is there, all of it is, and some by chance. */
export function* waysToLose(chances: number, below: (n: number) => number): Generator<(n: number) => number> {
  yield () => 0;
  yield n => n - 1;
  for (let i = 0; i < chances; i++) yield below;
}
