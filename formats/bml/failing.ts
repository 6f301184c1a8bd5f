/** For tests: a store that stops at its N-th operation. */
import type { ByteFile, WritableStore } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';

export interface Failing {
  readonly store: WritableStore;
  /** What was done, in order. */
  readonly log: string[];
}

/** Operation `stop` fails, a write of it halfway; with `dead` all later ones fail too, as after a kill. */
export function failing(inner: WritableStore, stop: number, dead: boolean): Failing {
  const log: string[] = [];
  const step = (what: string): boolean => {
    log.push(what);
    return log.length - 1 === stop || (dead && log.length - 1 > stop);
  };
  const fail = (): never => {
    throw new ImageError('io', 'planted', { file: 'planted' });
  };
  const wrap = (file: ByteFile): ByteFile => ({
    name: file.name,
    get size() {
      return file.size;
    },
    read: (into, at) => file.read(into, at),
    async write(from, at) {
      const broken = step(`write ${at}`);
      await file.write(broken ? from.subarray(0, from.length >> 1) : from, at);
      if (broken) fail();
    },
    truncate: size => file.truncate(size),
    async sync() {
      if (step('sync')) fail();
    },
    async [Symbol.asyncDispose]() {},
  });
  const store: WritableStore = {
    label: inner.label,
    list: prefix => inner.list(prefix),
    open: name => inner.open(name),
    async create(name) {
      if (step('create')) fail();
      return wrap(await inner.create(name));
    },
    async reopen(name) {
      if (step('reopen')) fail();
      return wrap(await inner.reopen(name));
    },
    async rename(from, to) {
      if (step('rename')) fail();
      await inner.rename(from, to);
    },
    async remove(name) {
      if (step('remove')) fail();
      await inner.remove(name);
    },
    async [Symbol.asyncDispose]() {},
  };
  return { store, log };
}
