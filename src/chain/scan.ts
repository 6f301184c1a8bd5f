/** Which adapter reads a file, by its content. */
import type { Adapter, ByteSource, Confidence, Image, Keyring, Scratch, Store, StoreEntry } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';

const PROBE = 65_536;
const RANK: Record<Confidence, number> = { no: 0, maybe: 1, certain: 2 };

/** Every file of the store, but for folders that a format has so many files in that nobody should look. */
export const filesOf = (store: Store, adapters: readonly Adapter[]): AsyncIterable<StoreEntry> =>
  store.list('', folder => adapters.some(adapter => adapter.skips?.(folder) === true));

/** The adapter whose image the file belongs to, as one that is opened by another name. */
export const ownerOf = (
  adapters: readonly Adapter[],
  name: string,
  has: (name: string) => boolean,
): Adapter | undefined => adapters.find(adapter => adapter.owns?.(name, has) === true);

export interface Ends {
  readonly head: Uint8Array;
  readonly tail: Uint8Array;
}

/** Memory for the ends of one file after another. */
export const roomForEnds = (): Ends => ({ head: new Uint8Array(PROBE), tail: new Uint8Array(PROBE) });

/** The first and last 64 KiB (less when the file is shorter), in `room`. */
export async function readEnds(source: ByteSource, room = roomForEnds()): Promise<Ends> {
  const length = Math.min(PROBE, source.size);
  const head = room.head.subarray(0, length);
  await source.read(head, 0);
  if (source.size <= PROBE) return { head, tail: head };
  const tail = room.tail.subarray(0, length);
  await source.read(tail, source.size - length);
  return { head, tail };
}

/** The most confident adapter, the first one in the list among equals; null when none wants the file. */
export function pickAdapter(adapters: readonly Adapter[], ends: Ends, name: string): Adapter | null {
  let best: Adapter | null = null;
  let rank = 0;
  for (const adapter of adapters) {
    const its = RANK[adapter.probe(ends.head, ends.tail, name)];
    if (its > rank) [best, rank] = [adapter, its];
  }
  return best;
}

export interface Identified {
  readonly name: string;
  readonly adapter: Adapter;
  readonly image: Image | null;
  /** Why it could not be opened; null when `image` is there. */
  readonly problem: ImageError | null;
  /** Size and time of the file as the store lists it; empty when it was not listed. */
  readonly stamp: string;
}

/** null: no adapter claims the file. A file that is claimed and cannot be opened is an answer, not an exception. */
export async function identify(
  name: string,
  store: Store,
  adapters: readonly Adapter[],
  keys: Keyring,
  stamp = '',
  scratch?: Scratch,
  room?: Ends,
): Promise<Identified | null> {
  let adapter: Adapter | null;
  try {
    await using source = await store.open(name);
    adapter = pickAdapter(adapters, await readEnds(source, room), name);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    throw new ImageError(error.fault, error.message, { ...error.where, file: name }, { cause: error });
  }
  return adapter === null ? null : openWith(adapter, name, store, keys, stamp, scratch);
}

export async function openWith(
  adapter: Adapter,
  name: string,
  store: Store,
  keys: Keyring,
  stamp = '',
  scratch?: Scratch,
): Promise<Identified> {
  try {
    return { name, adapter, image: await adapter.open(name, store, keys, scratch), problem: null, stamp };
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    return { name, adapter, image: null, problem: error, stamp };
  }
}
