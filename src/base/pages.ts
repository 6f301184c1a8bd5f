/** Metadata of an image read in parts as it is needed, in bounded memory. */
import type { ByteSource, Bytes } from './contracts.ts';

/** Parts of a file that were read once and are kept, the least recently used going first. */
export interface Pages {
  /** The part that starts at `at`, or null when it has to be loaded. */
  resident(at: Bytes): Uint8Array | null;
  /** Reads `length` bytes at `at`. Concurrent calls for one part share the read. */
  load(at: Bytes, length: number): Promise<Uint8Array>;
}

/** At most `capacity` parts stay in memory. */
export function pages(source: ByteSource, capacity: number): Pages {
  const kept = new Map<Bytes, Uint8Array>();
  const coming = new Map<Bytes, Promise<Uint8Array>>();
  // The part asked for last is asked for again by the next read as a rule; it needs no bookkeeping then.
  let lastAt = -1;
  let last: Uint8Array | null = null;

  const keep = (at: Bytes, page: Uint8Array): void => {
    kept.delete(at);
    kept.set(at, page);
    if (kept.size > capacity) {
      const oldest = kept.keys().next();
      if (oldest.done !== true) kept.delete(oldest.value);
    }
    lastAt = at;
    last = page;
  };
  const fetchPage = async (at: Bytes, length: number): Promise<Uint8Array> => {
    const page = new Uint8Array(length);
    await source.read(page, at);
    keep(at, page);
    return page;
  };
  return {
    resident(at) {
      if (at === lastAt) return last;
      const page = kept.get(at);
      if (page === undefined) return null;
      keep(at, page);
      return page;
    },
    load(at, length) {
      const page = kept.get(at);
      if (page !== undefined) return Promise.resolve(page);
      const shared = coming.get(at);
      if (shared !== undefined) return shared;
      const reading = fetchPage(at, length).finally(() => coming.delete(at));
      coming.set(at, reading);
      return reading;
    },
  };
}
