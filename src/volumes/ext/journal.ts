/**
 * The journal of ext3 and ext4 (jbd2), replayed in memory: which blocks have newer copies, and where. A backup of a
 * running system has its last seconds only there. Kernel documentation, "ext4 Data Structures", Journal (jbd2).
 */

import { crc32c } from '../../base/checksum.ts';
import type { Bytes } from '../../base/contracts.ts';
import { lastAtOrBefore } from '../../base/range.ts';
import type { Runs } from '../runs.ts';
import type { VolumeSource } from '../source.ts';

const MAGIC = 0xc03b3998;
const DESCRIPTOR = 1;
const COMMIT = 2;
const REVOKE = 5;

const FLAG_ESCAPED = 1;
const FLAG_SAME_UUID = 2;
const FLAG_LAST = 8;

const FEATURE_64BIT = 0x2;
const FEATURE_CSUM_V2 = 0x8;
const FEATURE_CSUM_V3 = 0x10;
const FEATURE_FAST_COMMIT = 0x20;
const KNOWN_FEATURES = 0x1 | FEATURE_64BIT | 0x4 | FEATURE_CSUM_V2 | FEATURE_CSUM_V3 | FEATURE_FAST_COMMIT;

export interface Copy {
  /** Offset in the volume. */
  readonly at: Bytes;
  /** Its first word was the journal's magic number and is kept as zero. */
  readonly escaped: boolean;
}

export interface Replay {
  readonly count: number;
  /** The newest copy of a block; null: the block itself is the newest. */
  find(block: number): Copy | null;
  read(copy: Copy): Promise<Buffer>;
  /** First index whose block is at or after `block`; ascending. */
  from(block: number): number;
  blockOf(index: number): number;
  copyOf(index: number): Copy;
  readonly warnings: readonly string[];
}

interface Tagged {
  readonly block: number;
  /** Journal block of the copy. */
  readonly at: number;
  readonly sequence: number;
  readonly escaped: boolean;
}

interface Journal {
  readonly blockSize: number;
  /** Block `index` of the journal. */
  read(index: number): Promise<Buffer>;
  /** Offset of that block in the volume. */
  place(index: number): Bytes;
}

interface Header {
  readonly first: number;
  readonly end: number;
  readonly start: number;
  readonly sequence: number;
  readonly features: number;
  readonly seed: number;
}

const rawCrc = (data: Uint8Array, before: number): number => ~crc32c(data, ~before >>> 0) >>> 0;

/** Tags of a descriptor block, without the UUIDs between them. */
function tagsOf(block: Buffer, { features }: Header, sequence: number): readonly Omit<Tagged, 'at'>[] {
  const v3 = (features & FEATURE_CSUM_V3) !== 0;
  const wide = (features & FEATURE_64BIT) !== 0;
  const tail = (features & (FEATURE_CSUM_V2 | FEATURE_CSUM_V3)) !== 0 ? 4 : 0;
  const size = v3 ? 16 : wide ? 12 : 8;
  const tags: Omit<Tagged, 'at'>[] = [];
  for (let at = 12; at + size <= block.length - tail; ) {
    const flags = v3 ? block.readUInt32BE(at + 4) : block.readUInt16BE(at + 6);
    const high = wide ? block.readUInt32BE(at + 8) : 0;
    const number = block.readUInt32BE(at) + high * 0x1_0000_0000;
    tags.push({ block: number, sequence, escaped: (flags & FLAG_ESCAPED) !== 0 });
    if ((flags & FLAG_LAST) !== 0) break;
    at += size + ((flags & FLAG_SAME_UUID) !== 0 ? 0 : 16);
  }
  return tags;
}

/** Whether a descriptor, revoke or commit block is whole. Older journals keep no checksums. */
function isWhole(block: Buffer, kind: number, { features, seed }: Header): boolean {
  if ((features & (FEATURE_CSUM_V2 | FEATURE_CSUM_V3)) === 0) return true;
  const at = kind === COMMIT ? 16 : block.length - 4;
  const copy = Buffer.from(block);
  copy.writeUInt32BE(0, at);
  return rawCrc(copy, seed) === block.readUInt32BE(at);
}

interface Scan {
  /** Committed copies, oldest first. */
  readonly tags: readonly Tagged[];
  /** Blocks that must not be replayed from transactions up to the one named. */
  readonly revoked: ReadonlyMap<number, number>;
}

const wrapsTo = (a: number, b: number): number => (a - b) | 0;

/** Walks the log once round at most, and stops at the first block that does not belong to the next transaction. */
async function scan(source: VolumeSource, journal: Journal, header: Header): Promise<Scan> {
  const { first, end, start, features } = header;
  const tags: Tagged[] = [];
  const revoked = new Map<number, number>();
  let open: Tagged[] = [];
  let openRevokes: number[] = [];
  let { sequence } = header;
  let at = start;
  let left = end - first;
  const step = (): void => {
    at = at + 1 >= end ? first : at + 1;
    left--;
  };
  while (left > 0) {
    const block = await journal.read(at);
    if (block.readUInt32BE(0) !== MAGIC || block.readUInt32BE(8) !== sequence) break;
    const kind = block.readUInt32BE(4);
    if (!isWhole(block, kind, header)) break;
    step();
    if (kind === COMMIT) {
      for (const tag of open) tags.push(tag);
      for (const number of openRevokes) revoked.set(number, sequence);
      open = [];
      openRevokes = [];
      sequence = (sequence + 1) >>> 0;
    } else if (kind === REVOKE) {
      const used = block.readUInt32BE(12);
      const width = (features & FEATURE_64BIT) !== 0 ? 8 : 4;
      source.check(used <= block.length, 'a revoke block of the journal is too long', journal.place(at));
      for (let pos = 16; pos + width <= used; pos += width) {
        const high = width === 8 ? block.readUInt32BE(pos) : 0;
        openRevokes.push(high * 0x1_0000_0000 + block.readUInt32BE(pos + width - 4));
      }
    } else if (kind === DESCRIPTOR) {
      for (const tag of tagsOf(block, header, sequence)) {
        open.push({ ...tag, at });
        step();
        if (left <= 0) break;
      }
    } else break;
  }
  return { tags, revoked };
}

function readHeader(source: VolumeSource, block: Buffer, size: Bytes, blockSize: number): Header | null {
  if (block.readUInt32BE(0) !== MAGIC) return null;
  // Version 1 ends before the feature words.
  const features = block.readUInt32BE(4) === 4 ? block.readUInt32BE(40) : 0;
  const unknown = (features & ~KNOWN_FEATURES) >>> 0;
  if (unknown !== 0) throw source.unsupported(`journal features 0x${unknown.toString(16)} are not known`);
  const end = block.readUInt32BE(16);
  const first = block.readUInt32BE(20);
  const start = block.readUInt32BE(28);
  if (start === 0) return null;
  const sound = block.readUInt32BE(12) === blockSize && end * blockSize <= size && first < end && start < end;
  source.check(sound, 'the journal has no sound size');
  const seed = rawCrc(block.subarray(48, 64), 0xffff_ffff);
  return { first, end, start, sequence: block.readUInt32BE(24), features, seed };
}

/** `runs`, `size`: of the journal's inode. null: nothing to replay. */
export async function readJournal(
  source: VolumeSource,
  runs: Runs,
  size: Bytes,
  blockSize: number,
): Promise<Replay | null> {
  const place = (index: number): Bytes => {
    const fileAt = index * blockSize;
    const run = runs.find(fileAt);
    source.check(run >= 0, `block ${index} of the journal is nowhere`);
    const { fileAt: from, length, at } = runs.run(run);
    source.check(at >= 0 && fileAt - from < length, `block ${index} of the journal is nowhere`);
    return at + fileAt - from;
  };
  const read = (index: number): Promise<Buffer> => source.bytes(place(index), blockSize);
  const header = readHeader(source, await read(0), size, blockSize);
  if (header === null) return null;
  const { tags, revoked } = await scan(source, { blockSize, read, place }, header);
  const newest = new Map<number, Tagged>();
  for (const tag of tags) {
    const until = revoked.get(tag.block);
    if (until === undefined || wrapsTo(until, tag.sequence) < 0) newest.set(tag.block, tag);
  }
  const warnings =
    (header.features & FEATURE_FAST_COMMIT) === 0
      ? []
      : ['the newest changes may be in fast commits of the journal, which are not replayed'];
  return replayOf(source, [...newest.values()], place, blockSize, warnings);
}

function replayOf(
  source: VolumeSource,
  newest: Tagged[],
  place: (index: number) => Bytes,
  blockSize: number,
  warnings: readonly string[],
): Replay {
  newest.sort((a, b) => a.block - b.block);
  const blocks = Float64Array.from(newest, tag => tag.block);
  const places = Float64Array.from(newest, tag => place(tag.at));
  const escaped = Uint8Array.from(newest, tag => (tag.escaped ? 1 : 0));
  const copyOf = (index: number): Copy => ({ at: places[index]!, escaped: escaped[index] === 1 });
  return {
    count: blocks.length,
    copyOf,
    blockOf: index => blocks[index]!,
    from(block) {
      const before = lastAtOrBefore(blocks, block);
      return before >= 0 && blocks[before] === block ? before : before + 1;
    },
    find(block) {
      const index = lastAtOrBefore(blocks, block);
      return index >= 0 && blocks[index] === block ? copyOf(index) : null;
    },
    async read(copy) {
      const bytes = await source.bytes(copy.at, blockSize);
      if (!copy.escaped) return bytes;
      const whole = Buffer.from(bytes);
      whole.writeUInt32BE(MAGIC, 0);
      return whole;
    },
    warnings,
  };
}
