import type { Bytes, DirNode, FileNode, LinkNode, Node } from '../base/contracts.ts';

/** A folder whose entries are looked up anew at every call; names come in the map's order. */
export function folder(mtime: Date, entries: () => ReadonlyMap<string, Node>): DirNode {
  return {
    kind: 'dir',
    mtime,
    mode: 0o555,
    list: async () => [...entries()].map(([name, { kind }]) => ({ name, kind })),
    child: async name => entries().get(name) ?? null,
  };
}

/** A small read-only file whose text is made when it is opened. */
export function textFile(mtime: Date, text: () => string): FileNode {
  const bytes = (): Uint8Array => new TextEncoder().encode(text());
  return {
    kind: 'file',
    mtime,
    mode: 0o444,
    writable: false,
    size: () => bytes().length,
    allocated: () => bytes().length,
    open: async () => {
      const content = bytes();
      return {
        size: () => content.length,
        read: (into: Uint8Array, at: Bytes) => into.set(content.subarray(at, at + into.length)),
        seek: (at: Bytes, want) => (want === 'data' ? at : content.length),
        async [Symbol.asyncDispose]() {},
      };
    },
  };
}

export const jsonFile = (mtime: Date, value: () => unknown): FileNode =>
  textFile(mtime, () => `${JSON.stringify(value(), null, 2)}\n`);

export const link = (mtime: Date, target: string): LinkNode => ({ kind: 'link', mtime, target });
