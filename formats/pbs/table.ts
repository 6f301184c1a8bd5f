/** The digests of an index, read by pages as they are needed; a disk of 16 TiB has 128 MiB of them. */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';

const PAGE_ENTRIES = 1024;
/** So many pages stay in memory: 64 GiB of disk in chunks of 4 MiB each way around what is being read. */
const MOST_PAGES = 32;

export interface Table {
  readonly entries: number;
  readonly entrySize: Bytes;
  readonly perPage: number;
  /** The page that holds the entry, or null when it has to be loaded. */
  page(entry: number): Uint8Array | null;
  /** Concurrent calls for one page share the read. */
  load(entry: number): Promise<Uint8Array>;
}

/** A table of `entries` entries from `tableAt` on. `check` throws where a page that was read makes no sense. */
export function table(
  source: ByteSource,
  tableAt: Bytes,
  entrySize: Bytes,
  entries: number,
  check: (page: Uint8Array, first: number) => void = () => {},
): Table {
  const kept = new Map<number, Uint8Array>();
  const coming = new Map<number, Promise<Uint8Array>>();
  let lastNumber = -1;
  let last: Uint8Array | null = null;
  const pageOf = (entry: number): number => Math.floor(entry / PAGE_ENTRIES);

  const keep = (number: number, page: Uint8Array): void => {
    kept.delete(number);
    kept.set(number, page);
    if (kept.size > MOST_PAGES) kept.delete(kept.keys().next().value!);
    lastNumber = number;
    last = page;
  };
  const read = async (number: number): Promise<Uint8Array> => {
    const first = number * PAGE_ENTRIES;
    const page = new Uint8Array(Math.min(PAGE_ENTRIES, entries - first) * entrySize);
    await source.read(page, tableAt + first * entrySize);
    check(page, first);
    keep(number, page);
    return page;
  };
  return {
    entries,
    entrySize,
    perPage: PAGE_ENTRIES,
    page(entry) {
      const number = pageOf(entry);
      if (number === lastNumber) return last;
      const page = kept.get(number);
      if (page === undefined) return null;
      keep(number, page);
      return page;
    },
    load(entry) {
      const number = pageOf(entry);
      const page = kept.get(number);
      if (page !== undefined) return Promise.resolve(page);
      let reading = coming.get(number);
      if (reading === undefined) {
        reading = read(number).finally(() => coming.delete(number));
        coming.set(number, reading);
      }
      return reading;
    },
  };
}
