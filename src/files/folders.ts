/** Names in folders of a volume, found by how they are shown. */
import { Recent } from '../base/recent.ts';
import type { VolumeDir, VolumeEntry, VolumeNode } from '../volumes/contracts.ts';
import { shownName } from '../volumes/names.ts';

/** The most recently used of so many. */
export class LastUsed<T> {
  readonly #kept = new Recent<string, T>();
  readonly #most: number;

  constructor(most: number) {
    this.#most = most;
  }

  get(key: string): T | undefined {
    return this.#kept.use(key);
  }

  set(key: string, value: T): void {
    this.#kept.put(key, value);
    if (this.#kept.size > this.#most) this.#kept.takeOldest();
  }

  delete(key: string): void {
    this.#kept.delete(key);
  }
}

type Listing = ReadonlyMap<string, VolumeEntry>;

/** Entries of folders that stay in memory, of all folders together. */
const ENTRIES_KEPT = 131_072;

/** Folders that were listed of late: whoever lists one asks for its names next. */
class Listings {
  readonly #kept = new Map<VolumeDir, Promise<Listing>>();
  readonly #sizes = new Map<VolumeDir, number>();
  #entries = 0;

  get(dir: VolumeDir): Promise<Listing> {
    const kept = this.#kept.get(dir);
    if (kept !== undefined) {
      this.#kept.delete(dir);
      this.#kept.set(dir, kept);
      return kept;
    }
    const reading = listed(dir);
    this.#kept.set(dir, reading);
    reading.then(
      listing => {
        // In the largest folders a name is looked up by the folder's own index, where there is one.
        if (listing.size > ENTRIES_KEPT && dir.lookup !== undefined) this.#kept.delete(dir);
        else this.#count(dir, listing.size + 1);
      },
      () => this.#kept.delete(dir),
    );
    return reading;
  }

  has(dir: VolumeDir): boolean {
    return this.#kept.has(dir);
  }

  #count(dir: VolumeDir, entries: number): void {
    if (!this.#kept.has(dir)) return;
    this.#sizes.set(dir, entries);
    this.#entries += entries;
    for (const oldest of this.#kept.keys()) {
      if (this.#entries <= ENTRIES_KEPT || oldest === dir) break;
      this.#entries -= this.#sizes.get(oldest) ?? 0;
      this.#sizes.delete(oldest);
      this.#kept.delete(oldest);
    }
  }
}

async function listed(dir: VolumeDir): Promise<Listing> {
  const found = new Map<string, VolumeEntry>();
  for (const entry of await dir.list()) {
    const name = shownName(entry.name);
    if (!found.has(name)) found.set(name, entry);
  }
  return found;
}

const listings = new Listings();

/** Every entry once, by the name it is shown under. */
export const entriesOf = (dir: VolumeDir): Promise<Listing> => listings.get(dir);

/** What `shownName` writes for something else, or may have cut. */
const ESCAPED = /\\x|\\u/;
const CUT = /~[0-9a-f]{8}$/;

/**
 * null: there is none of that name. A name that is shown as it is is looked for by the folder's index; for others, and where
 * there is none, the folder is listed.
 */
export async function childOf(dir: VolumeDir, shown: string): Promise<VolumeNode | null> {
  const plain = !ESCAPED.test(shown) && !CUT.test(shown);
  if (plain && dir.lookup !== undefined && !listings.has(dir)) return dir.lookup(shown);
  return (await (await entriesOf(dir)).get(shown)?.node()) ?? null;
}
