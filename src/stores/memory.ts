import type { ByteFile, Bytes, WritableStore } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { checkOffset } from '../base/full-io.ts';

interface Held {
  data: Uint8Array;
  size: Bytes;
  modified: Date;
}

function memoryFile(name: string, held: Held): ByteFile {
  return {
    name,
    get size() {
      return held.size;
    },
    read(into, at) {
      checkOffset(at, into.length, name);
      if (at + into.length > held.size) {
        throw new ImageError('corrupt', `the file ends early: ${Math.max(0, held.size - at)} of ${into.length} bytes`, {
          file: name,
          at,
        });
      }
      into.set(held.data.subarray(at, at + into.length));
    },
    write(from, at) {
      checkOffset(at, from.length, name);
      const end = at + from.length;
      if (end > held.data.length) {
        const grown = new Uint8Array(Math.max(end, held.data.length * 2, 4096));
        grown.set(held.data.subarray(0, held.size));
        held.data = grown;
      }
      held.data.set(from, at);
      held.size = Math.max(held.size, end);
      held.modified = new Date();
    },
    async truncate(size) {
      checkOffset(size, 0, name);
      const data = new Uint8Array(size);
      data.set(held.data.subarray(0, Math.min(size, held.size)));
      held.data = data;
      held.size = size;
    },
    async sync() {},
    async [Symbol.asyncDispose]() {},
  };
}

/** Every folder below `prefix` that the name lies in. */
const foldersOf = (name: string, prefix: string): readonly string[] =>
  name
    .split('/')
    .map((_, depth, parts) => parts.slice(0, depth).join('/'))
    .filter(folder => folder.length > prefix.length);

export interface MemoryStore extends WritableStore {
  /** The bytes of a file, for tests that look at or damage them. A copy. */
  bytes(name: string): Uint8Array;
  put(name: string, data: Uint8Array): void;
}

/** A store in memory, for tests and for scratch. */
export function memoryStore(files: Readonly<Record<string, Uint8Array>> = {}): MemoryStore {
  const all = new Map<string, Held>();
  const get = (name: string): Held => {
    const held = all.get(name);
    if (held === undefined) throw new ImageError('not-found', 'no such file in the repository', { file: name });
    return held;
  };
  const put = (name: string, data: Uint8Array): void => {
    all.set(name, { data: data.slice(), size: data.length, modified: new Date() });
  };
  for (const [name, data] of Object.entries(files)) put(name, data);
  return {
    label: 'memory',
    async *list(prefix = '', skips = () => false) {
      for (const [name, held] of [...all].sort(([a], [b]) => (a < b ? -1 : 1))) {
        const below = prefix === '' || name.startsWith(`${prefix}/`);
        if (below && !foldersOf(name, prefix).some(skips)) yield { name, size: held.size, modified: held.modified };
      }
    },
    open: async name => memoryFile(name, get(name)),
    async create(name) {
      if (all.has(name)) throw new ImageError('exists', 'the file exists already', { file: name });
      put(name, new Uint8Array(0));
      return memoryFile(name, get(name));
    },
    reopen: async name => memoryFile(name, get(name)),
    async rename(from, to) {
      all.set(to, get(from));
      all.delete(from);
    },
    async remove(name) {
      get(name);
      all.delete(name);
    },
    bytes: name => get(name).data.slice(0, get(name).size),
    put,
    async [Symbol.asyncDispose]() {},
  };
}
