import type { ByteSource, Bytes, Store } from './contracts.ts';

/**
 * A file that is opened when it is first read: some repositories have more of them than can be open.
 * `size` is what the caller knows it to be.
 */
export function lazySource(store: Store, name: string, size: Bytes): ByteSource {
  let opened: ByteSource | null = null;
  let opening: Promise<ByteSource> | null = null;
  let closed = false;
  const open = async (): Promise<ByteSource> => {
    const source = await store.open(name);
    if (closed) await source[Symbol.asyncDispose]();
    else opened = source;
    return source;
  };
  return {
    name,
    size,
    read(into, at) {
      if (opened !== null) return opened.read(into, at);
      opening ??= open().finally(() => {
        opening = null;
      });
      return opening.then(source => source.read(into, at));
    },
    async [Symbol.asyncDispose]() {
      closed = true;
      await opening?.catch(() => null);
      await opened?.[Symbol.asyncDispose]();
      opened = null;
    },
  };
}

/** Makes something once, when it is first asked for; a failure is not kept. */
export function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => {
    made ??= make().catch(error => {
      made = undefined;
      throw error;
    });
    return made;
  };
}
