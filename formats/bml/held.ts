/**
 * What a consolidated file adds (section 11): the ids of the layers whose objects it holds, and an index that finds
 * them, since the hints in copied nodes may mean places in files that are gone.
 */
import { crc32c } from '../../src/base/checksum.ts';
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { viewOf } from '../../src/base/struct.ts';
import type { Place } from './crypto.ts';
import { corrupt, crcFits, hex, KINDS, PAGE, sealCrc } from './structs.ts';
import type { Tail } from './superblock.ts';

const INDEX_ENTRY = 48;
export const INDEX_PER_PAGE = 85;
const KEY = 32;

/** Sorts as bytes: kind, level, disk, layer, index, each with its high byte first. */
export function indexKey(place: Pick<Place, 'kind' | 'level' | 'disk' | 'layer' | 'index'>): Uint8Array {
  const key = new Uint8Array(KEY);
  const view = viewOf(key);
  view.setUint8(0, KINDS[place.kind]);
  view.setUint8(1, place.level);
  view.setUint32(4, place.disk);
  key.set(place.layer, 8);
  view.setUint32(24, Math.floor(place.index / 0x1_0000_0000));
  view.setUint32(28, place.index % 0x1_0000_0000);
  return key;
}

interface IndexSource {
  readonly name: string;
  readonly index: { readonly at: Bytes; readonly entries: number };
  read(into: Uint8Array, at: Bytes): Promise<void>;
}

async function indexPage(file: IndexSource, number: number): Promise<Uint8Array> {
  const page = new Uint8Array(PAGE);
  const at = file.index.at + number * PAGE;
  await file.read(page, at);
  if (!crcFits(page)) throw corrupt('an index page fails its checksum', file.name, at);
  return page;
}

const keyAt = (page: Uint8Array, slot: number): Uint8Array =>
  page.subarray(slot * INDEX_ENTRY, slot * INDEX_ENTRY + KEY);

/** Offset of the object in `file`; null: the index does not have it. Reads one page per halving. */
export async function lookUp(file: IndexSource, place: Place): Promise<Bytes | null> {
  const key = indexKey(place);
  let low = 0;
  let high = Math.ceil(file.index.entries / INDEX_PER_PAGE);
  while (low < high) {
    const middle = low + Math.floor((high - low) / 2);
    const page = await indexPage(file, middle);
    const count = Math.min(INDEX_PER_PAGE, file.index.entries - middle * INDEX_PER_PAGE);
    if (Buffer.compare(key, keyAt(page, 0)) < 0) high = middle;
    else if (Buffer.compare(key, keyAt(page, count - 1)) > 0) low = middle + 1;
    else return within(page, count, key);
  }
  return null;
}

function within(page: Uint8Array, count: number, key: Uint8Array): Bytes | null {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const order = Buffer.compare(key, keyAt(page, middle));
    if (order === 0) {
      const view = viewOf(page);
      const at = middle * INDEX_ENTRY + KEY;
      return view.getUint32(at + 4, true) * 0x1_0000_0000 + view.getUint32(at, true);
    }
    if (order < 0) high = middle;
    else low = middle + 1;
  }
  return null;
}

/** Index pages, one after another, for entries that come sorted by key. */
export function* indexPages(
  entries: Iterable<{ readonly key: Uint8Array; readonly at: Bytes }>,
): Generator<Uint8Array<ArrayBuffer>> {
  let page = new Uint8Array(PAGE);
  let used = 0;
  for (const { key, at } of entries) {
    page.set(key, used * INDEX_ENTRY);
    const view = viewOf(page);
    view.setUint32(used * INDEX_ENTRY + KEY, at % 0x1_0000_0000, true);
    view.setUint32(used * INDEX_ENTRY + KEY + 4, Math.floor(at / 0x1_0000_0000), true);
    if (++used < INDEX_PER_PAGE) continue;
    sealCrc(page);
    yield page;
    page = new Uint8Array(PAGE);
    used = 0;
  }
  if (used === 0) return;
  sealCrc(page);
  yield page;
}

export function buildHeld(layers: readonly Uint8Array[]): Uint8Array {
  const list = new Uint8Array(layers.length * 16 + 4);
  for (const [i, layer] of layers.entries()) list.set(layer, i * 16);
  sealCrc(list);
  return list;
}

/** Ids of the layers, in hexadecimal; none when the file holds just those of its commits. */
export async function readHeld(source: ByteSource, tail: Tail): Promise<readonly string[]> {
  if (tail.heldAt === 0) return [];
  const length = tail.held * 16 + 4;
  if (tail.heldAt + length > source.size) {
    throw corrupt(`the list of ${tail.held} held layers lies past the end of the file`, source.name, tail.heldAt);
  }
  const list = new Uint8Array(length);
  await source.read(list, tail.heldAt);
  if (viewOf(list).getUint32(length - 4, true) !== crc32c(list.subarray(0, -4))) {
    throw corrupt('the list of held layers fails its checksum', source.name, tail.heldAt);
  }
  return Array.from({ length: tail.held }, (_, i) => hex(list.subarray(i * 16, i * 16 + 16)));
}
