/** Stores that show their files cut, altered or counted; the files themselves stay as they are. */
import type { ByteSource, Bytes, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';

type Change = (source: ByteSource) => ByteSource;

function through(store: Store, change: Change): Store {
  return { ...store, open: async name => change(await store.open(name)) };
}

/** One file ends early. */
export const truncated = (store: Store, name: string, size: Bytes): Store =>
  through(store, source =>
    source.name !== name
      ? source
      : {
          name,
          size,
          read(into, at) {
            if (at + into.length > size) throw new ImageError('corrupt', 'the file ends early', { file: name, at });
            return source.read(into, at);
          },
          [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
        },
  );

/** One byte of one file is another one. */
export const flipped = (store: Store, name: string, flipAt: Bytes, mask: number): Store =>
  through(store, source =>
    source.name !== name
      ? source
      : {
          name,
          size: source.size,
          async read(into, at) {
            await source.read(into, at);
            if (flipAt >= at && flipAt < at + into.length) into[flipAt - at]! ^= mask;
          },
          [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
        },
  );

export interface Counted {
  readonly store: Store;
  /** Sources that are open now. */
  open(): number;
  reads(): number;
}

/** Counts what is opened and read, and makes every read take a turn. */
export function counted(store: Store): Counted {
  let open = 0;
  let reads = 0;
  const count: Change = source => {
    let closed = false;
    open++;
    return {
      name: source.name,
      size: source.size,
      async read(into, at) {
        if (closed) throw new Error(`${source.name} is read after it was closed`);
        reads++;
        await new Promise<void>(resolve => setImmediate(resolve));
        await source.read(into, at);
      },
      async [Symbol.asyncDispose]() {
        if (!closed) open--;
        closed = true;
        await source[Symbol.asyncDispose]();
      },
    };
  };
  return { store: through(store, count), open: () => open, reads: () => reads };
}
