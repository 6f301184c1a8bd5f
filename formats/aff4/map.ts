/** A map: which range of the disk lies where in which stream. It is read through once, and then in parts as needed. */
import { crc32 } from 'node:zlib';
import { memorySource } from '../../src/base/assemble.ts';
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { pages } from '../../src/base/pages.ts';
import { lastAtOrBefore } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import { DEFLATED, MAP_ENTRY } from './structs.ts';
import type { Target } from './targets.ts';
import type { Volume } from './volume.ts';
import { contentAt, corrupt, type Member, readMember } from './zip.ts';

const PER_PAGE = 2340;
const PAGE: Bytes = PER_PAGE * MAP_ENTRY;
const MOST_PAGES = 64;
const LONGEST_DEFLATED: Bytes = 16 * 2 ** 20;
/** Pages that are read before others get their turn. */
const TURN = 64;
const WORD = 2 ** 32;
const LARGEST_WORD = 0x1f_ffff;

/** A range of the disk; of a gap, `target` is -1 and `targetAt` the range's own start. */
export interface Mapped {
  readonly start: Bytes;
  readonly end: Bytes;
  readonly targetAt: Bytes;
  readonly target: number;
}

export interface DiskMap {
  /** The range that holds `at`; null: it has to be loaded. */
  at(at: Bytes): Mapped | null;
  load(at: Bytes): Promise<void>;
}

interface Place {
  readonly source: ByteSource;
  readonly at: Bytes;
  readonly size: Bytes;
}

async function placeOf({ archive, source, file }: Volume, member: Member): Promise<Place> {
  if (member.size % MAP_ENTRY !== 0) throw corrupt(`a map of ${member.size} bytes`, file, member.headerAt);
  if (member.method === DEFLATED) {
    const whole = await readMember(archive, member, LONGEST_DEFLATED);
    return { source: memorySource(file, whole), at: 0, size: whole.length };
  }
  return { source, at: await contentAt(archive, member), size: member.size };
}

const wordAt = (view: DataView, at: number): Bytes =>
  view.getUint32(at + 4, true) > LARGEST_WORD
    ? Number.POSITIVE_INFINITY
    : view.getUint32(at + 4, true) * WORD + view.getUint32(at, true);

function rangeAt(view: DataView, at: number): Mapped {
  const start = wordAt(view, at);
  const end = start + wordAt(view, at + 8);
  return { start, end, targetAt: wordAt(view, at + 16), target: view.getUint32(at + 24, true) };
}

function wrongWith({ start, end, targetAt, target }: Mapped, before: Bytes, size: Bytes, targets: readonly Target[]) {
  if (!(end > start) || end > size) return 'leaves the disk';
  if (start < before) return 'does not lie behind the one before it';
  const found = targets[target];
  if (found === undefined) return 'leads to no stream';
  const most = found.kind === 'stream' ? found.stream.size : Number.MAX_SAFE_INTEGER;
  return targetAt + (end - start) > most ? 'leaves its stream' : null;
}

/**
 * Where each page begins. 'corrupt' where entries are out of order or lead nowhere, or the checksum does not hold: a map
 * that is wrong would show wrong bytes.
 */
async function pageStarts(volume: Volume, member: Member, place: Place, size: Bytes, targets: readonly Target[]) {
  const { source, at: from } = place;
  const { file } = volume;
  const starts = new Float64Array(Math.ceil(place.size / PAGE));
  const whole = new Uint8Array(Math.min(PAGE, place.size));
  let crc = 0;
  let before = 0;
  for (let page = 0; page < starts.length; page++) {
    const raw = whole.subarray(0, Math.min(PAGE, place.size - page * PAGE));
    await source.read(raw, from + page * PAGE);
    crc = crc32(raw, crc);
    const view = viewOf(raw);
    for (let at = 0; at < raw.length; at += MAP_ENTRY) {
      const range = rangeAt(view, at);
      const wrong = wrongWith(range, before, size, targets);
      if (wrong !== null) throw corrupt(`an entry of the map ${wrong}`, file, from + page * PAGE + at);
      if (at === 0) starts[page] = range.start;
      before = range.end;
    }
    if (page % TURN === TURN - 1) await new Promise<void>(resolve => setImmediate(resolve));
  }
  if (member.method !== DEFLATED && crc !== member.crc) {
    throw corrupt('the checksum of the map does not hold', file, member.headerAt);
  }
  return starts;
}

export async function readMap(
  volume: Volume,
  member: Member,
  size: Bytes,
  targets: readonly Target[],
): Promise<DiskMap> {
  const place = await placeOf(volume, member);
  const starts = await pageStarts(volume, member, place, size, targets);
  const kept = pages(place.source, MOST_PAGES);
  const lengthOf = (page: number): Bytes => Math.min(PAGE, place.size - page * PAGE);
  const gap = (start: Bytes, end: Bytes): Mapped => ({ start, end, targetAt: start, target: -1 });
  return {
    at(at) {
      const page = lastAtOrBefore(starts, at);
      if (page < 0) return gap(0, starts[0] ?? size);
      const raw = kept.resident(place.at + page * PAGE);
      if (raw === null) return null;
      const view = viewOf(raw);
      let low = 0;
      let high = raw.length / MAP_ENTRY - 1;
      while (low < high) {
        const middle = low + Math.ceil((high - low) / 2);
        if (wordAt(view, middle * MAP_ENTRY) <= at) low = middle;
        else high = middle - 1;
      }
      const range = rangeAt(view, low * MAP_ENTRY);
      if (at < range.end) return range;
      const next = (low + 1) * MAP_ENTRY;
      return gap(range.end, next < raw.length ? wordAt(view, next) : (starts[page + 1] ?? size));
    },
    async load(at) {
      const page = lastAtOrBefore(starts, at);
      if (page >= 0) await kept.load(place.at + page * PAGE, lengthOf(page));
    },
  };
}

/** A disk whose content is one stream, without a map. */
export const wholeStream = (size: Bytes): DiskMap => ({
  at: () => ({ start: 0, end: size, targetAt: 0, target: 0 }),
  async load() {},
});
