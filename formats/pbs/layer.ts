/** Disks of a snapshot: every chunk is a packed unit, named by its digest. */
import type { ByteSource, Bytes, Layer, LayerId } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { lastAtOrBefore } from '../../src/base/range.ts';
import { safeU64, viewOf } from '../../src/base/struct.ts';
import { type ChunkShelf, readChunk } from './chunk.ts';
import { DIGEST, INDEX_HEADER } from './structs.ts';
import { type Table, table } from './table.ts';

/** Longest chunk of a dynamic index: four times the average that the product aims at. */
export const DYNAMIC_CHUNK: Bytes = 16 * 2 ** 20;
export const DYNAMIC_ENTRY = 8 + DIGEST;

/** A chunk of an index: its place on the disk and its digest. */
export interface ChunkPlace {
  readonly at: Bytes;
  readonly length: Bytes;
  readonly digest: Uint8Array;
}

export interface IndexLayer {
  readonly layer: Layer;
  readonly chunks: number;
  /** The chunk's place; reads its part of the index where that is not in memory. */
  chunk(number: number): Promise<ChunkPlace>;
}

const digestAt = (page: Uint8Array, within: number): Uint8Array => page.subarray(within, within + DIGEST);

async function unpackChunk(shelf: ChunkShelf, place: ChunkPlace, into: Uint8Array): Promise<void> {
  await readChunk(shelf, place.digest, into.subarray(0, place.length), false);
  into.fill(0, place.length);
}

/**
 * `.fidx`: chunk i covers the i-th `chunkSize` bytes. `zeroDigest` is the digest of a chunk of zeros, which is answered
 * without looking at its file.
 */
export function fixedLayer(
  id: LayerId,
  source: ByteSource,
  size: Bytes,
  chunkSize: Bytes,
  shelf: ChunkShelf,
  zeroDigest: Uint8Array,
): IndexLayer {
  const digests = table(source, INDEX_HEADER, DIGEST, Math.ceil(size / chunkSize));
  const { perPage } = digests;
  const isZero = (page: Uint8Array, chunk: number): boolean => {
    const within = (chunk % perPage) * DIGEST;
    return page[within] === zeroDigest[0] && Buffer.compare(digestAt(page, within), zeroDigest) === 0;
  };
  const chunk = async (number: number): Promise<ChunkPlace> => {
    const page = await digests.load(number);
    const at = number * chunkSize;
    return { at, length: Math.min(chunkSize, size - at), digest: digestAt(page, (number % perPage) * DIGEST) };
  };
  const layer: Layer = {
    id,
    size,
    blockSize: chunkSize,
    locate(at, limit) {
      const first = Math.floor(at / chunkSize);
      const page = digests.page(first);
      if (page === null) return null;
      const within = at - first * chunkSize;
      if (!isZero(page, first))
        return { kind: 'packed', unit: first, within, length: Math.min(limit, chunkSize - within) };
      const last = Math.min(Math.ceil((at + limit) / chunkSize), first - (first % perPage) + page.length / DIGEST);
      let next = first + 1;
      while (next < last && isZero(page, next)) next++;
      return { kind: 'zero', length: Math.min(limit, next * chunkSize - at) };
    },
    async load(at) {
      await digests.load(Math.floor(at / chunkSize));
    },
    async unpack(unit, into) {
      await unpackChunk(shelf, await chunk(unit), into);
    },
  };
  return { layer, chunks: digests.entries, chunk };
}

/** End of a chunk from its entry at `at`; Infinity beyond 2^53, which fits nowhere. */
export function endAt(page: Uint8Array, at: number): Bytes {
  const view = viewOf(page);
  const [low, high] = [view.getUint32(at, true), view.getUint32(at + 4, true)];
  return high > 0x1f_ffff ? Number.POSITIVE_INFINITY : safeU64(high, low);
}

/** The ends in a page have to grow from where it starts to where the next one does, by no more than the longest chunk. */
function checkEnds(page: Uint8Array, first: number, from: Bytes, to: Bytes, file: string): void {
  const last = page.length - DYNAMIC_ENTRY;
  let before = from;
  for (let at = 0; at <= last; at += DYNAMIC_ENTRY) {
    const end = endAt(page, at);
    if (!(end > before && end <= before + DYNAMIC_CHUNK) || (at === last && end !== to)) {
      const where = { file, at: INDEX_HEADER + first * DYNAMIC_ENTRY + at };
      throw new ImageError('corrupt', `chunk ${first + at / DYNAMIC_ENTRY} cannot end where the index says`, where);
    }
    before = end;
  }
}

/** Where the chunks of each page begin: read once, 8 bytes per page. */
function fences(source: ByteSource, entries: Table, size: Bytes) {
  let starts: Float64Array | null = null;
  let reading: Promise<void> | null = null;
  const read = async (): Promise<void> => {
    const found = new Float64Array(Math.ceil(entries.entries / entries.perPage));
    const end = new Uint8Array(8);
    for (let page = 1; page < found.length; page++) {
      await source.read(end, INDEX_HEADER + (page * entries.perPage - 1) * DYNAMIC_ENTRY);
      found[page] = endAt(end, 0);
      if (!(found[page]! > found[page - 1]! && found[page]! < size)) {
        throw new ImageError('corrupt', 'the ends of the chunks do not grow', { file: source.name, at: INDEX_HEADER });
      }
    }
    starts = found;
  };
  return {
    now: (): Float64Array | null => starts,
    async load(): Promise<Float64Array> {
      reading ??= read().finally(() => {
        reading = null;
      });
      if (starts === null) await reading;
      return starts!;
    },
  };
}

/** `.didx` of an image: chunks of any length, each with its end. */
export function dynamicLayer(
  id: LayerId,
  source: ByteSource,
  size: Bytes,
  entries: number,
  shelf: ChunkShelf,
): IndexLayer {
  const chunks = table(source, INDEX_HEADER, DYNAMIC_ENTRY, entries, (page, first) => {
    const starts = pages.now()!;
    const number = first / chunks.perPage;
    checkEnds(page, first, starts[number]!, starts[number + 1] ?? size, source.name);
  });
  const pages = fences(source, chunks, size);
  const startOf = (page: Uint8Array, first: number, within: number, starts: Float64Array): Bytes =>
    within === 0 ? starts[first / chunks.perPage]! : endAt(page, (within - 1) * DYNAMIC_ENTRY);
  /** First entry of the page whose end lies beyond `at`. */
  const find = (page: Uint8Array, at: Bytes): number => {
    let low = 0;
    let high = page.length / DYNAMIC_ENTRY - 1;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (endAt(page, middle * DYNAMIC_ENTRY) > at) high = middle;
      else low = middle + 1;
    }
    return low;
  };
  const chunk = async (number: number): Promise<ChunkPlace> => {
    const starts = await pages.load();
    const page = await chunks.load(number);
    const within = number % chunks.perPage;
    const at = startOf(page, number - within, within, starts);
    const length = endAt(page, within * DYNAMIC_ENTRY) - at;
    return { at, length, digest: digestAt(page, within * DYNAMIC_ENTRY + 8) };
  };
  const layer: Layer = {
    id,
    size,
    blockSize: Math.min(DYNAMIC_CHUNK, size),
    locate(at, limit) {
      const starts = pages.now();
      if (starts === null) return null;
      const first = lastAtOrBefore(starts, at) * chunks.perPage;
      const page = chunks.page(first);
      if (page === null) return null;
      const within = find(page, at);
      const start = startOf(page, first, within, starts);
      const length = Math.min(limit, endAt(page, within * DYNAMIC_ENTRY) - at);
      return { kind: 'packed', unit: first + within, within: at - start, length };
    },
    async load(at) {
      const starts = await pages.load();
      await chunks.load(lastAtOrBefore(starts, at) * chunks.perPage);
    },
    async unpack(unit, into) {
      await unpackChunk(shelf, await chunk(unit), into);
    },
  };
  return { layer, chunks: entries, chunk };
}

/** A disk whose index cannot be used: every question about it is answered with the reason. */
export function brokenLayer(id: LayerId, size: Bytes, problem: ImageError): Layer {
  const fail = (): never => {
    throw problem;
  };
  return { id, size, blockSize: 65_536, locate: fail, load: async () => fail(), unpack: async () => fail() };
}
