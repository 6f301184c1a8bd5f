/** Metadata of an image read in parts as it is needed, in bounded memory. */
import type { ByteSource, Bytes } from './contracts.ts';
import { Recent } from './recent.ts';
import { type Holder, METADATA } from './shared-budget.ts';

/** Parts of a file that were read once and are kept, the least recently used going first. */
export interface Pages {
  /** The part that starts at `at`, or null when it has to be loaded. */
  resident(at: Bytes): Uint8Array | null;
  /** Reads `length` bytes at `at`. Concurrent calls for one part share the read. */
  load(at: Bytes, length: number): Promise<Uint8Array>;
}

/** Pages by number or offset, in the order of their use: so many at most, and fewer when all images together have too many. */
export class RecentPages<P extends { readonly byteLength: Bytes }> implements Holder {
  readonly #pages = new Recent<number, P>();
  readonly #capacity: number;
  readonly #took: (bytes: Bytes) => void;

  constructor(capacity: number, together = METADATA) {
    this.#capacity = capacity;
    this.#took = together.join(this);
  }

  get size(): number {
    return this.#pages.size;
  }

  get(key: number): P | null {
    return this.#pages.use(key) ?? null;
  }

  /** In place of what has the key now. */
  put(key: number, page: P): void {
    const before = this.#pages.delete(key);
    if (before !== undefined) this.#took(-before.byteLength);
    else if (this.size >= this.#capacity) this.#took(-this.dropOldest());
    this.#pages.put(key, page);
    this.#took(page.byteLength);
  }

  dropOldest(): Bytes {
    return this.#pages.takeOldest()?.value.byteLength ?? 0;
  }
}

/** At most `capacity` parts stay in memory, and fewer when all images together have too many. */
export function pages(source: ByteSource, capacity: number, together = METADATA): Pages {
  const kept = new RecentPages<Uint8Array>(capacity, together);
  const coming = new Map<Bytes, Promise<Uint8Array>>();
  const fetchPage = async (at: Bytes, length: number): Promise<Uint8Array> => {
    const page = new Uint8Array(length);
    await source.read(page, at);
    kept.put(at, page);
    return page;
  };
  return {
    resident: at => kept.get(at),
    load(at, length) {
      const page = kept.get(at);
      if (page !== null) return Promise.resolve(page);
      const shared = coming.get(at);
      if (shared !== undefined) return shared;
      const reading = fetchPage(at, length).finally(() => coming.delete(at));
      coming.set(at, reading);
      return reading;
    },
  };
}
