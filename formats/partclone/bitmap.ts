/** Which blocks are stored, and how many stored ones come before a block: the bitmap, read in parts. */
import { setImmediate } from 'node:timers/promises';
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { pages } from '../../src/base/pages.ts';
import { viewOf } from '../../src/base/struct.ts';
import { BITMAP_END, type ImageHeader, rawCrc } from './structs.ts';

/** How the marks of blocks lie in the bytes of a page. */
interface Marks {
  readonly perByte: number;
  used(page: Uint8Array, i: number): boolean;
  /** First mark behind `i`, at most `end`, that differs from the one at `i`. */
  runEnd(page: Uint8Array, i: number, end: number): number;
  /** Used ones in [from, to). */
  count(page: Uint8Array, from: number, to: number): number;
}

const POPULATION = Uint8Array.from({ length: 256 }, (_, byte) => {
  let bits = 0;
  for (let rest = byte; rest > 0; rest >>= 1) bits += rest & 1;
  return bits;
});

/** Least significant bit first. */
const bits: Marks = {
  perByte: 8,
  used: (page, i) => ((page[Math.floor(i / 8)]! >> (i % 8)) & 1) === 1,
  runEnd(page, i, end) {
    const used = bits.used(page, i);
    const same = used ? 0xff : 0;
    let at = i + 1;
    while (at < end) {
      if (at % 8 === 0 && page[at / 8] === same) at += 8;
      else if (bits.used(page, at) === used) at++;
      else return at;
    }
    return end;
  },
  count(page, from, to) {
    let count = 0;
    let at = from;
    for (; at < to && at % 8 !== 0; at++) if (bits.used(page, at)) count++;
    const lastByte = Math.floor(to / 8);
    for (let byte = at / 8; byte < lastByte; byte++) count += POPULATION[page[byte]!]!;
    for (at = Math.max(at, lastByte * 8); at < to; at++) if (bits.used(page, at)) count++;
    return count;
  },
};

/** 1 is used; partclone takes every other value for unused. */
const bytes: Marks = {
  perByte: 1,
  used: (page, i) => page[i] === 1,
  runEnd(page, i, end) {
    const used = page[i] === 1;
    let at = i + 1;
    while (at < end && (page[at] === 1) === used) at++;
    return at;
  },
  count(page, from, to) {
    let count = 0;
    for (let at = from; at < to; at++) if (page[at] === 1) count++;
    return count;
  },
};

/** Blocks of which one count is kept: 2 MiB of counts for 16 TiB in blocks of 4 KiB. */
const GROUP = 16_384;
/** 4 MiB of the bitmap stay in memory. */
const PAGE: Bytes = 65_536;
const PAGES = 64;
/** Part of the bitmap that is counted at once, so that others are served between. */
const PART: Bytes = 2 ** 20;

export interface Run {
  readonly used: boolean;
  /** Blocks from the one that was asked for on; no more than a page tells. */
  readonly blocks: number;
  /** Used blocks before it; 0 where it is unused. */
  readonly rank: number;
}

export interface UsedBlocks {
  /** null: `load` first. `most` > 0. */
  run(block: number, most: number): Run | null;
  /** Throws 'corrupt' when the bitmap's own checksum does not hold; all of it is read the first time. */
  load(block: number): Promise<void>;
  /** Used blocks in all. */
  total(): Promise<number>;
}

/** Every block is stored. */
const allUsed = (blocks: number): UsedBlocks => ({
  run: (block, most) => ({ used: true, blocks: Math.min(most, blocks - block), rank: block }),
  async load() {},
  total: async () => blocks,
});

interface Counts {
  /** Used blocks before each group, and behind the last one those of all. */
  readonly before: Float64Array;
  readonly total: number;
}

async function countAll(source: ByteSource, header: ImageHeader, marks: Marks): Promise<Counts> {
  const { blocks, bitmapAt, bitmapLength } = header;
  const before = new Float64Array(Math.ceil(blocks / GROUP));
  const part = new Uint8Array(Math.min(PART, bitmapLength));
  let total = 0;
  let crc = 0xffff_ffff;
  for (let at = 0; at < bitmapLength; at += PART) {
    const now = part.subarray(0, Math.min(PART, bitmapLength - at));
    await source.read(now, bitmapAt + at);
    if (header.bitmap === 'bits') crc = rawCrc(now, crc);
    const first = at * marks.perByte;
    const marksHere = Math.min(now.length * marks.perByte, blocks - first);
    for (let i = 0; i < marksHere; i += GROUP) {
      before[(first + i) / GROUP] = total;
      total += marks.count(now, i, Math.min(i + GROUP, marksHere));
    }
    if (at + PART < bitmapLength) await setImmediate();
  }
  await checkEnd(source, header, crc);
  return { before, total };
}

/** What follows the bitmap: its checksum, or a word. */
async function checkEnd(source: ByteSource, header: ImageHeader, crc: number): Promise<void> {
  const at = header.bitmapAt + header.bitmapLength;
  const end = new Uint8Array(header.dataAt - at);
  await source.read(end, at);
  const holds =
    header.bitmap === 'bits'
      ? viewOf(end).getUint32(0, true) === crc
      : Buffer.from(end).toString('latin1') === BITMAP_END;
  if (holds) return;
  const message =
    header.bitmap === 'bits' ? 'the checksum of the bitmap does not hold' : 'the bitmap does not end right';
  throw new ImageError('corrupt', message, { file: source.name, at, field: 'bitmap' });
}

export function usedBlocks(source: ByteSource, header: ImageHeader): UsedBlocks {
  const { blocks, bitmapAt, bitmapLength } = header;
  if (header.bitmap === 'all') return allUsed(blocks);
  const marks = header.bitmap === 'bits' ? bits : bytes;
  const perPage = PAGE * marks.perByte;
  const kept = pages(source, PAGES);
  let counts: Counts | null = null;
  let counting: Promise<Counts> | null = null;

  const count = async (): Promise<Counts> => {
    try {
      counts = await countAll(source, header, marks);
      return counts;
    } catch (error) {
      // Damage stays; what failed for another reason is tried again.
      if (!(error instanceof ImageError && error.fault === 'corrupt')) counting = null;
      throw error;
    }
  };
  const counted = (): Promise<Counts> => {
    counting ??= count();
    return counting;
  };
  const pageAt = (block: number): Bytes => bitmapAt + Math.floor(block / perPage) * PAGE;
  return {
    run(block, most) {
      const page = kept.resident(pageAt(block));
      if (counts === null || page === null) return null;
      const first = Math.floor(block / perPage) * perPage;
      const i = block - first;
      const end = marks.runEnd(page, i, Math.min(i + most, perPage, blocks - first));
      if (!marks.used(page, i)) return { used: false, blocks: end - i, rank: 0 };
      const group = Math.floor(block / GROUP);
      const rank = counts.before[group]! + marks.count(page, group * GROUP - first, i);
      return { used: true, blocks: end - i, rank };
    },
    async load(block) {
      await counted();
      const at = pageAt(block);
      await kept.load(at, Math.min(PAGE, bitmapAt + bitmapLength - at));
    },
    total: async () => (await counted()).total,
  };
}
