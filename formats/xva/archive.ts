/**
 * The members of an archive, in one pass over their headers that goes only as far as somebody asks: blocks of a disk come
 * in ascending order, so what lies behind the asked one does not matter.
 */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { roundUp } from '../../src/base/range.ts';
import { type Extra, extraOf, type Header, parseHeader, SECTOR } from '../../src/base/tar.ts';
import { BlockRuns, type Sum } from './runs.ts';

export const BLOCK: Bytes = 1_048_576;
/** Length of a checksum as text, which fits into one sector. */
export const SUM_LENGTH = { none: 0, sha1: 40, xxhash: 16 } as const satisfies Record<Sum, number>;

/** Eight digits, as writers print them. */
const MOST_BLOCKS = 100_000_000;
const MOST_DISKS = 1024;
/** Runs of all disks: 200 MiB. */
const MOST_RUNS = 4_000_000;
const LONGEST_EXTRA = 1_048_576;
/** Other work gets its turn after so many members. */
const TURN = 256;
/** A header, and behind a block the header of its checksum, the checksum, and the header of what comes next. */
const WINDOW = 3 * SECTOR;

interface Pass {
  source: ByteSource;
  readonly disks: Map<string, BlockRuns>;
  /** Where the next header lies. */
  at: Bytes;
  runs: number;
  done: boolean;
  /** What stopped the pass. */
  fault: ImageError | null;
}

export interface Archive {
  /** Where the blocks lie: of a compressed archive known when the first of them is. */
  readonly source: ByteSource;
  /** Whether a compressed archive is still to be unpacked. */
  packed(): boolean;
  /** Blocks of the disk that were met so far. */
  blocks(ref: string): BlockRuns;
  /** Names of all disks that were met so far, in the order of the archive. */
  refs(): readonly string[];
  /** Whether more of the archive could tell something about this block. */
  knows(ref: string, number: number): boolean;
  /** Goes on until it knows the block, or to the end. Throws when the archive is damaged before that. */
  seek(ref: string, number: number): Promise<void>;
  /** Goes to the end, and says what is wrong with the archive. */
  finish(): Promise<ImageError | null>;
  /** How far the pass has come. */
  reached(): Bytes;
}

const corrupt = (message: string, file: string, at: Bytes): ImageError =>
  new ImageError('corrupt', message, { file, at });

/** Bytes of the file from `at` on, as many as there are up to `length`. */
async function readUpTo(source: ByteSource, at: Bytes, length: number): Promise<Uint8Array> {
  const part = new Uint8Array(Math.max(0, Math.min(length, source.size - at)));
  if (part.length > 0) await source.read(part, at);
  return part;
}

/** The next member with what the extra headers before it say; null at the end of the archive. */
export async function memberAt(
  source: ByteSource,
  from: Bytes,
): Promise<{ readonly header: Header; readonly dataAt: Bytes; readonly end: Bytes } | null> {
  let extra: Extra = {};
  for (let at = from; ; ) {
    const head = await readUpTo(source, at, SECTOR);
    if (head.length < SECTOR) throw corrupt('the archive was cut off: its end is missing', source.name, source.size);
    if (head.every(byte => byte === 0)) return null;
    const header = parseHeader(head, at, source.name);
    const size = extra.size ?? header.size;
    const dataAt = at + SECTOR;
    const end = dataAt + roundUp(size, SECTOR);
    const name = extra.name ?? header.name;
    if (dataAt + size > source.size) {
      throw corrupt(`the archive was cut off inside ${JSON.stringify(name)}`, source.name, source.size);
    }
    if (header.type !== 'x' && header.type !== 'L' && header.type !== 'g') {
      return { header: { ...header, name, size }, dataAt, end };
    }
    if (size > LONGEST_EXTRA) throw corrupt(`an extra header of ${size} bytes`, source.name, at);
    if (header.type !== 'g') extra = { ...extra, ...extraOf(header.type, await readUpTo(source, dataAt, size)) };
    at = end;
  }
}

/** The checksum that follows the block `name`, whose data ends at `at`. */
async function sumBehind(source: ByteSource, name: string, at: Bytes): Promise<Sum> {
  const part = await readUpTo(source, at, WINDOW);
  if (part.length < 2 * SECTOR || part.subarray(0, SECTOR).every(byte => byte === 0)) return 'none';
  const header = parseHeader(part.subarray(0, SECTOR), at, source.name);
  if (header.name === `${name}.checksum` && header.size >= SUM_LENGTH.sha1) return 'sha1';
  if (header.name === `${name}.xxhash` && header.size >= SUM_LENGTH.xxhash) return 'xxhash';
  return 'none';
}

function blocksOf(pass: Pass, ref: string, at: Bytes): BlockRuns {
  const known = pass.disks.get(ref);
  if (known !== undefined) return known;
  if (pass.disks.size === MOST_DISKS) {
    throw new ImageError('unsupported', `more than ${MOST_DISKS} disks`, { file: pass.source.name, at });
  }
  const blocks = new BlockRuns();
  pass.disks.set(ref, blocks);
  return blocks;
}

/** One member, and the checksum behind it. */
async function step(pass: Pass): Promise<void> {
  const { source } = pass;
  const member = await memberAt(source, pass.at);
  if (member === null) {
    pass.done = true;
    return;
  }
  const { header, dataAt, end } = member;
  const [, ref, digits] = /^(?:\.\/)?(.+)\/(\d{8,})$/.exec(header.name) ?? [];
  pass.at = end;
  if (ref === undefined || (header.type !== '0' && header.type !== '7')) return;
  const number = Number(digits);
  const blocks = blocksOf(pass, ref, dataAt);
  if (number >= MOST_BLOCKS || header.size > BLOCK) {
    const message = `${header.name} of ${header.size} bytes is no block that is known`;
    throw new ImageError('unsupported', message, { file: source.name, at: dataAt - SECTOR });
  }
  if (number <= blocks.last) throw corrupt(`${header.name} comes behind block ${blocks.last}`, source.name, dataAt);
  if (header.size === 0) {
    blocks.last = number;
    return;
  }
  const sum = await sumBehind(source, header.name, end);
  const before = blocks.runs;
  blocks.add({ number, at: dataAt, length: header.size, sum });
  pass.runs += blocks.runs - before;
  if (pass.runs > MOST_RUNS) {
    throw new ImageError('too-big', 'the blocks are too scattered to be indexed', { file: source.name, at: dataAt });
  }
  if (sum !== 'none') pass.at = end + 2 * SECTOR;
}

/** `unpack`: gives what is in a compressed archive, whose file `source` is. */
export function openArchive(source: ByteSource, unpack: (() => Promise<ByteSource>) | null = null): Archive {
  let packed = unpack !== null;
  const pass: Pass = { source, disks: new Map(), at: 0, runs: 0, done: false, fault: null };
  const empty = new BlockRuns();
  const blocks = (ref: string): BlockRuns => pass.disks.get(ref) ?? empty;
  const knows = (ref: string, number: number): boolean => pass.done || blocks(ref).last >= number;
  let going: Promise<void> | null = null;

  const go = async (enough: () => boolean): Promise<void> => {
    if (packed && unpack !== null) {
      pass.source = await unpack();
      packed = false;
    }
    for (let turn = 1; !enough() && !pass.done; turn++) {
      try {
        await step(pass);
      } catch (error) {
        // A device that fails now may answer later; what is wrong with the archive stays wrong.
        if (error instanceof ImageError && error.fault !== 'io') pass.fault = error;
        throw error;
      }
      if (turn % TURN === 0) await new Promise<void>(resolve => setImmediate(resolve));
    }
  };
  /** One at a time goes on; the others look whether that was far enough for them. */
  const advance = async (enough: () => boolean): Promise<void> => {
    while (!enough()) {
      if (pass.fault !== null) throw pass.fault;
      going ??= go(enough).finally(() => {
        going = null;
      });
      await going;
    }
  };
  return {
    get source() {
      return pass.source;
    },
    packed: () => packed,
    blocks,
    refs: () => [...pass.disks.keys()],
    knows,
    seek: (ref, number) => advance(() => knows(ref, number)),
    async finish() {
      try {
        await advance(() => pass.done);
        return null;
      } catch (error) {
        if (error instanceof ImageError && error === pass.fault) return error;
        throw error;
      }
    },
    reached: () => pass.at,
  };
}
