/**
 * The block index of one partition, read in pages as it is needed: with 30 bytes per 64 KiB it is far too long to be
 * held, or even to be read when a backup is opened.
 */
import { createHash } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { memorySource } from '../../src/base/assemble.ts';
import { ABSENT, type Blocks, PACKED, ZERO } from '../../src/base/block-layer.ts';
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { type Pages, pages } from '../../src/base/pages.ts';
import { lastAtOrBefore } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import type { MetadataBlock } from './metadata.ts';
import { BLOCK_NUMBER, corrupt, DELTA_ELEMENT, ELEMENT, type Element, elementAt, lengthAt } from './structs.ts';

const PER_PAGE = 1024;
/** Half a megabyte per partition and file: sets have hundreds of files. */
const RESIDENT_PAGES = 16;
const CHUNK = 1_048_576;
/** An index up to this length is checked before its first answer; a longer one while it answers. */
const CHECKED_FIRST = 67_108_864;
/** So many elements out of order are sorted in memory. */
const MOST_UNSORTED = 1_048_576;
const MOST_RESERVED = 65_536;

/** Where the elements of a partition lie in the file that indexes it. */
export interface IndexPlace {
  readonly source: ByteSource;
  readonly block: MetadataBlock;
  readonly delta: boolean;
  readonly reserved: { readonly at: Bytes; readonly count: number };
  readonly elements: { readonly at: Bytes; readonly count: number };
  /** Where the next list starts, as this is the last block of its own. */
  readonly end: Bytes;
}

/**
 * Reads the two counts of an index and checks that they fill its payload. For a partition without blocks the second
 * count is written, but neither counted in the payload's length nor covered by its MD5.
 */
export async function indexPlace(source: ByteSource, block: MetadataBlock, delta: boolean): Promise<IndexPlace> {
  const file = source.name;
  const { payloadAt, length } = block;
  if ((block.flags & ~1) !== 0)
    throw new ImageError('unsupported', '$INDEX is compressed or encrypted', { file, at: block.at, field: 'flags' });
  const count = async (within: Bytes): Promise<number> => {
    if (within > length || payloadAt + within + 4 > source.size)
      throw corrupt('an index is cut short', file, payloadAt, 'index_count');
    const raw = new Uint8Array(4);
    await source.read(raw, payloadAt + within);
    return viewOf(raw).getUint32(0, true);
  };
  const reserved = await count(0);
  const second = 4 + reserved * ELEMENT;
  const blocks = await count(second);
  const empty = length === second && blocks === 0;
  if (!empty && second + 4 + blocks * (delta ? DELTA_ELEMENT : ELEMENT) !== length) {
    const message = `an index of ${length} bytes cannot have ${reserved} and ${blocks} elements`;
    throw corrupt(message, file, payloadAt + second, 'index_count');
  }
  if (reserved > MOST_RESERVED)
    throw new ImageError('unsupported', `${reserved} blocks of reserved sectors`, { file, at: payloadAt });
  return {
    source,
    block,
    delta,
    reserved: { at: payloadAt + 4, count: reserved },
    elements: { at: payloadAt + second + 4, count: blocks },
    end: payloadAt + Math.max(length, second + 4),
  };
}

/** Passes the whole payload of the index to `see` (with the offset in the file), then checks its MD5. */
async function readThrough(
  { source, block }: IndexPlace,
  signal: AbortSignal,
  see: (chunk: Uint8Array, fileAt: Bytes) => void,
): Promise<void> {
  const hash = createHash('md5');
  const buffer = new Uint8Array(Math.min(CHUNK, block.length));
  for (let done = 0; done < block.length; done += buffer.length) {
    const chunk = buffer.subarray(0, Math.min(buffer.length, block.length - done));
    await source.read(chunk, block.payloadAt + done);
    hash.update(chunk);
    see(chunk, block.payloadAt + done);
    // The thread also serves guests: they get their turn between two chunks.
    await nextTurn();
    signal.throwIfAborted();
  }
  if (!hash.digest().equals(block.md5)) throw corrupt('$INDEX fails its MD5', source.name, block.payloadAt);
}

/** Checks an index by itself. */
export const checkIndex = (place: IndexPlace, signal: AbortSignal): Promise<void> =>
  readThrough(place, signal, () => {});

/** Elements of a file in pages; `size` bytes each. */
class Elements {
  readonly count: number;
  readonly #source: ByteSource;
  readonly #at: Bytes;
  readonly #size: number;
  readonly #pages: Pages;

  constructor(source: ByteSource, at: Bytes, count: number, size: number) {
    this.count = count;
    this.#source = source;
    this.#at = at;
    this.#size = size;
    this.#pages = pages(source, RESIDENT_PAGES);
  }

  #pageAt(page: number): Bytes {
    return this.#at + page * PER_PAGE * this.#size;
  }

  /** The page with the element, its first element at 0; null when it has to be loaded. */
  page(page: number): DataView | null {
    const raw = this.#pages.resident(this.#pageAt(page));
    return raw === null ? null : viewOf(raw);
  }

  async load(page: number): Promise<DataView> {
    const at = this.#pageAt(page);
    const length = Math.min(PER_PAGE, this.count - page * PER_PAGE) * this.#size;
    return viewOf(await this.#pages.load(at, length));
  }

  async element(index: number): Promise<Element> {
    const view = await this.load(Math.floor(index / PER_PAGE));
    const fileAt = this.#at + index * this.#size;
    return elementAt(view, (index % PER_PAGE) * this.#size, this.#source.name, fileAt);
  }
}

/** What the index says about each block, and the elements of those that are stored. */
export interface BlockIndex extends Blocks {
  element(block: number): Promise<Element>;
}

const neverBad = (): ImageError => new ImageError('corrupt', 'the index makes no sense');

interface Checking {
  /** Waits for a short check; starts a long one. Throws what either found. */
  passed(): Promise<void>;
  /** Throws what a long check has found by now. */
  sound(): void;
}

/** The check of an index that runs beside its use: before the first answer, or while it answers when it is long. */
function checking(place: IndexPlace, signal: AbortSignal): Checking {
  const long = place.block.length > CHECKED_FIRST;
  let running: Promise<void> | null = null;
  let failure: { readonly error: unknown } | null = null;
  const sound = (): void => {
    if (failure !== null) throw failure.error;
  };
  const failed = (error: unknown): void => {
    // What failed for a moment is tried again by the next reader, if there is one that waits.
    running = null;
    if (!long) throw error;
    failure = { error };
  };
  return {
    sound,
    async passed() {
      sound();
      running ??= checkIndex(place, signal).catch(failed);
      if (!long) await running;
    },
  };
}

/** Element i is block i. */
export function fullIndex(place: IndexPlace, signal: AbortSignal): BlockIndex {
  const elements = new Elements(place.source, place.elements.at, place.elements.count, ELEMENT);
  const check = checking(place, signal);
  return {
    at(block) {
      check.sound();
      const page = elements.page(Math.floor(block / PER_PAGE));
      return page === null ? null : lengthAt(page, (block % PER_PAGE) * ELEMENT) === 0 ? ZERO : PACKED;
    },
    async load(block) {
      await check.passed();
      await elements.load(Math.floor(block / PER_PAGE));
    },
    fault: neverBad,
    async element(block) {
      await check.passed();
      return elements.element(block);
    },
  };
}

interface Sorted {
  readonly elements: Elements;
  /** Block number of the first element of each page. */
  readonly fences: Uint32Array;
}

const blockAt = (view: DataView, index: number): number => view.getUint32(index * DELTA_ELEMENT + BLOCK_NUMBER, true);

/** Elements in ascending order of their blocks; of several for one block the last one in the file counts. */
function sorted(raw: Uint8Array): Uint8Array {
  const view = viewOf(raw);
  const order = Uint32Array.from({ length: raw.length / DELTA_ELEMENT }, (_, i) => i);
  order.sort((a, b) => blockAt(view, a) - blockAt(view, b) || a - b);
  const out = new Uint8Array(raw.length);
  let used = 0;
  for (const [i, from] of order.entries()) {
    if (i + 1 < order.length && blockAt(view, order[i + 1]!) === blockAt(view, from)) continue;
    out.set(raw.subarray(from * DELTA_ELEMENT, (from + 1) * DELTA_ELEMENT), used);
    used += DELTA_ELEMENT;
  }
  return out.subarray(0, used);
}

/** Looks through a delta index once: where each page starts, and whether the order can be relied on. */
async function prepare(place: IndexPlace, blocks: number, signal: AbortSignal): Promise<Sorted> {
  const { source, elements } = place;
  const fences = new Uint32Array(Math.ceil(elements.count / PER_PAGE));
  let ascending = true;
  let last = -1;
  let index = 0;
  // The number's four bytes may lie in two chunks.
  let number = 0;
  await readThrough(place, signal, (chunk, fileAt) => {
    const within = elements.at + index * DELTA_ELEMENT + BLOCK_NUMBER - fileAt;
    for (let at = within; index < elements.count && at < chunk.length; at += DELTA_ELEMENT) {
      for (let i = Math.max(0, -at); i < 4 && at + i < chunk.length; i++) number += chunk[at + i]! * 256 ** i;
      if (at + 4 > chunk.length) break;
      if (number >= blocks)
        throw corrupt(`a delta index names block ${number} of ${blocks}`, source.name, fileAt + at, 'block_index');
      if (index % PER_PAGE === 0) fences[index / PER_PAGE] = number;
      if (number <= last) ascending = false;
      last = number;
      number = 0;
      index++;
    }
  });
  if (ascending) return { elements: new Elements(source, elements.at, elements.count, DELTA_ELEMENT), fences };
  if (elements.count > MOST_UNSORTED) {
    const message = `a delta index of ${elements.count} blocks is not in their order`;
    throw new ImageError('unsupported', message, { file: source.name, at: elements.at });
  }
  const raw = new Uint8Array(elements.count * DELTA_ELEMENT);
  await source.read(raw, elements.at);
  const inOrder = sorted(raw);
  const count = inOrder.length / DELTA_ELEMENT;
  const view = viewOf(inOrder);
  return {
    elements: new Elements(memorySource(source.name, inOrder), 0, count, DELTA_ELEMENT),
    fences: Uint32Array.from({ length: Math.ceil(count / PER_PAGE) }, (_, page) => blockAt(view, page * PER_PAGE)),
  };
}

/** First element of the page whose block is at or above `block`; `count` when there is none. */
function lowerBound(page: DataView, count: number, block: number): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = low + Math.floor((high - low) / 2);
    if (blockAt(page, middle) < block) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * Blocks that changed. `blocks` is how many the partition has, `inherited` how many its parent knows: behind these
 * there is nothing below.
 */
export function deltaIndex(place: IndexPlace, blocks: number, inherited: number, signal: AbortSignal): BlockIndex {
  let ready: Sorted | null = null;
  let preparing: Promise<Sorted> | null = null;
  const prepared = async (): Promise<Sorted> => {
    if (ready !== null) return ready;
    preparing ??= prepare(place, blocks, signal).finally(() => {
      preparing = null;
    });
    ready = await preparing;
    return ready;
  };
  const pageOf = (fences: Uint32Array, block: number): number => Math.max(0, lastAtOrBefore(fences, block));
  const onPage = ({ elements }: Sorted, page: number): number => Math.min(PER_PAGE, elements.count - page * PER_PAGE);
  const unstored = (block: number): typeof ABSENT | typeof ZERO => (block < inherited ? ABSENT : ZERO);
  return {
    at(block) {
      if (ready === null) return null;
      if (ready.elements.count === 0) return unstored(block);
      const number = pageOf(ready.fences, block);
      const page = ready.elements.page(number);
      if (page === null) return null;
      const index = lowerBound(page, onPage(ready, number), block);
      if (index === onPage(ready, number) || blockAt(page, index) !== block) return unstored(block);
      return lengthAt(page, index * DELTA_ELEMENT) === 0 ? ZERO : PACKED;
    },
    next(block) {
      const border = block < inherited ? Math.min(inherited, blocks) : blocks;
      if (ready === null) return block + 1;
      if (ready.elements.count === 0) return border;
      const number = pageOf(ready.fences, block);
      const page = ready.elements.page(number);
      if (page === null) return block + 1;
      const count = onPage(ready, number);
      const index = lowerBound(page, count, block);
      if (index < count) return blockAt(page, index) === block ? block + 1 : Math.min(border, blockAt(page, index));
      return Math.min(border, ready.fences[number + 1] ?? blocks);
    },
    async load(block) {
      const { elements, fences } = await prepared();
      if (elements.count > 0) await elements.load(pageOf(fences, block));
    },
    fault: neverBad,
    async element(block) {
      const { elements, fences } = await prepared();
      const number = pageOf(fences, block);
      const page = elements.count > 0 ? await elements.load(number) : null;
      const index = page === null ? 0 : lowerBound(page, Math.min(PER_PAGE, elements.count - number * PER_PAGE), block);
      const found = page !== null && number * PER_PAGE + index < elements.count && blockAt(page, index) === block;
      if (!found) throw new ImageError('out-of-range', `block ${block} is not stored`, { file: place.source.name });
      return elements.element(number * PER_PAGE + index);
    },
  };
}

/** The elements of reserved sectors, all of them. */
export async function reservedElements({ source, reserved }: IndexPlace): Promise<readonly Element[]> {
  const raw = new Uint8Array(reserved.count * ELEMENT);
  await source.read(raw, reserved.at);
  const view = viewOf(raw);
  return Array.from({ length: reserved.count }, (_, i) =>
    elementAt(view, i * ELEMENT, source.name, reserved.at + i * ELEMENT),
  );
}
