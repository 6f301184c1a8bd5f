/** The fixed pages of a file: superblock, commit slots, trailer (sections 3 and 5). */
import type { ByteSource } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { lentPage } from './lent-page.ts';
import type { RecordSum } from './record-sum.ts';
import {
  ALIGN,
  type Cipher,
  COMPATIBLE,
  commitSlot,
  corrupt,
  crcFits,
  FIRST_RECORD,
  INCOMPATIBLE,
  INCOMPATIBLE_NAMES,
  KNOWN_INCOMPATIBLE,
  MAJOR,
  MAX_LISTED,
  PAGE,
  SLOTS,
  SUPERBLOCK_USED,
  SUPERBLOCKS,
  sealCrc,
  superblock,
  TRAILER_COMMITS,
  trailer,
  trailerCommit,
} from './structs.ts';

export const MIN_BLOCK_LOG2 = 12;
export const MAX_BLOCK_LOG2 = 22;

export interface Head {
  readonly setId: Uint8Array;
  readonly fileId: Uint8Array;
  readonly cipher: Cipher;
  readonly blockLog2: number;
  readonly created: number;
  /** The first superblock was damaged; what is here comes from the second. */
  readonly fromCopy: boolean;
  /** Unknown bits that allow reading. */
  readonly readOnly: bigint;
  readonly compatible: bigint;
}

const sealed = (bytes: Uint8Array): Uint8Array => {
  const page = new Uint8Array(PAGE);
  page.set(bytes);
  sealCrc(page);
  return page;
};

const featuresOf = (cipher: Cipher): bigint =>
  (cipher === 'none' ? 0n : INCOMPATIBLE.encrypted) | (cipher === 'aes-256-xts' ? INCOMPATIBLE.sectors : 0n);

export function buildSuperblock(head: Pick<Head, 'setId' | 'fileId' | 'cipher' | 'blockLog2' | 'created'>): Uint8Array {
  return sealed(
    superblock.build({
      magic: '\x89BML\r\n\x1a\n',
      major: MAJOR,
      minor: 0,
      used: SUPERBLOCK_USED,
      compatible: COMPATIBLE.recordSum,
      readOnly: 0n,
      incompatible: featuresOf(head.cipher),
      setId: head.setId,
      fileId: head.fileId,
      blockLog2: head.blockLog2,
      alignLog2: Math.log2(ALIGN),
      cipher: head.cipher,
      hash: 'sha-256',
      reserved: 0,
      created: head.created,
    }),
  );
}

export const hasMagic = (page: Uint8Array): boolean =>
  page.length >= 8 && Buffer.from('\x89BML\r\n\x1a\n', 'latin1').equals(page.subarray(0, 8));

/** The end of a file has its trailer, sound or not. */
export const hasTrailer = (tail: Uint8Array): boolean =>
  tail.length >= PAGE && Buffer.from('BMLTRAIL').equals(tail.subarray(tail.length - PAGE, tail.length - PAGE + 8));

/** Refuses by name what this reader does not know. Versions come before everything that they could change. */
function parseSuperblock(page: Uint8Array, file: string, at: number, fromCopy: boolean): Head {
  const refuse = (message: string, field: keyof ReturnType<typeof superblock.parse>): never => {
    throw new ImageError('unsupported', message, { file, at: at + superblock.offsetOf(field), field });
  };
  const major = page[8]! + page[9]! * 256;
  if (major !== MAJOR) return refuse(`version ${major} of the format is not known here, only ${MAJOR}`, 'major');
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
  const unknown = view.getBigUint64(32, true) & ~KNOWN_INCOMPATIBLE;
  for (let bit = 0; bit < 64; bit++) {
    if (((unknown >> BigInt(bit)) & 1n) === 0n) continue;
    return refuse(
      `incompatible feature ${bit} (${INCOMPATIBLE_NAMES[bit] ?? 'unknown'}) is not supported`,
      'incompatible',
    );
  }
  const block = superblock.parse(page, 0, file);
  if (block.incompatible !== featuresOf(block.cipher))
    throw corrupt('superblock: cipher and features disagree', file, at + 74);
  if (block.blockLog2 < MIN_BLOCK_LOG2 || block.blockLog2 > MAX_BLOCK_LOG2) {
    return refuse(`block size 2^${block.blockLog2} is outside 2^${MIN_BLOCK_LOG2} to 2^${MAX_BLOCK_LOG2}`, 'blockLog2');
  }
  if (2 ** block.alignLog2 !== ALIGN) return refuse(`record alignment 2^${block.alignLog2}`, 'alignLog2');
  return { ...block, fromCopy };
}

/** One of two copies. Faults: 'not-this-format', 'unsupported', 'corrupt'. */
export async function readHead(source: ByteSource): Promise<Head> {
  const file = source.name;
  if (source.size < FIRST_RECORD) {
    const start = new Uint8Array(Math.min(8, source.size));
    await source.read(start, 0);
    if (hasMagic(start)) throw corrupt(`the file ends early: ${source.size} bytes`, file, source.size);
    throw new ImageError('not-this-format', 'not a .bml file', { file, at: 0 });
  }
  let marked = false;
  const found = await lentPage(async page => {
    for (const [i, at] of SUPERBLOCKS.entries()) {
      await source.read(page, at);
      if (hasMagic(page) && crcFits(page)) return parseSuperblock(page, file, at, i > 0);
      marked ||= hasMagic(page);
    }
    return null;
  });
  if (found !== null) return found;
  if (!marked) throw new ImageError('not-this-format', 'not a .bml file', { file, at: 0 });
  throw corrupt('both superblocks fail their checksum', file, 0);
}

/** Where a commit lies and whose it is. */
export interface CommitPlace {
  readonly at: number;
  readonly length: number;
  readonly layer: Uint8Array;
}

export interface Tail {
  readonly sequence: number;
  readonly commits: readonly CommitPlace[];
  /** Commits in the file; those that are not listed are found through `previousAt`. */
  readonly total: number;
  readonly heldAt: number;
  readonly held: number;
  readonly indexAt: number;
  readonly indexEntries: number;
  /** Of all records of the file, where its features say that it has one; null without a trailer. */
  readonly sum: Pick<RecordSum, 'low' | 'high'> | null;
  /** Why the trailer was not used: the newest commit comes from a slot. */
  readonly warning: string | null;
}

export interface TailSpec {
  readonly sequence: number;
  readonly commits: readonly CommitPlace[];
  readonly fileSize: number;
  readonly setId: Uint8Array;
  readonly fileId: Uint8Array;
  readonly sum: RecordSum;
  readonly heldAt?: number;
  readonly held?: number;
  readonly indexAt?: number;
  readonly indexEntries?: number;
}

export function buildTrailer(spec: TailSpec): Uint8Array {
  const listed = spec.commits.slice(-MAX_LISTED);
  const page = new Uint8Array(PAGE);
  page.set(
    trailer.build({
      magic: 'BMLTRAIL',
      sequence: spec.sequence,
      listed: listed.length,
      commits: spec.commits.length,
      fileSize: spec.fileSize,
      heldAt: spec.heldAt ?? 0,
      held: spec.held ?? 0,
      reserved: 0,
      indexAt: spec.indexAt ?? 0,
      indexEntries: spec.indexEntries ?? 0,
      fileId: spec.fileId,
      setId: spec.setId,
      sumLow: spec.sum.low,
      sumHigh: spec.sum.high,
    }),
  );
  for (const [i, place] of listed.entries()) {
    page.set(trailerCommit.build({ ...place, reserved: 0 }), TRAILER_COMMITS + i * trailerCommit.size);
  }
  return sealed(page.subarray(0, PAGE - 4));
}

/** `spec.fileSize` is where the file of this commit ends. */
export const buildSlot = (spec: TailSpec): Uint8Array => {
  const place = spec.commits.at(-1)!;
  return sealed(
    commitSlot.build({
      magic: 'BMLSLOT\0',
      sequence: spec.sequence,
      commitAt: place.at,
      commitLength: place.length,
      reserved: 0,
      layer: place.layer,
      end: spec.fileSize,
      heldAt: spec.heldAt ?? 0,
      held: spec.held ?? 0,
      reserved2: 0,
      indexAt: spec.indexAt ?? 0,
      indexEntries: spec.indexEntries ?? 0,
    }),
  );
};

function parseTrailer(page: Uint8Array, source: ByteSource): Tail {
  const at = source.size - PAGE;
  const tail = trailer.parse(page, 0, source.name);
  if (tail.fileSize !== source.size) throw corrupt('trailer: the file has another size', source.name, at + 24);
  if (tail.listed > MAX_LISTED || tail.listed > tail.commits) {
    throw corrupt(`trailer: lists ${tail.listed} of ${tail.commits} commits`, source.name, at + 16);
  }
  const commits = Array.from({ length: tail.listed }, (_, i) =>
    trailerCommit.parse(page, TRAILER_COMMITS + i * trailerCommit.size, source.name),
  );
  return { ...tail, commits, total: tail.commits, sum: { low: tail.sumLow, high: tail.sumHigh }, warning: null };
}

async function newestSlot(source: ByteSource): Promise<Tail | null> {
  let best: ReturnType<typeof commitSlot.parse> | null = null;
  for (const at of SLOTS) {
    const page = new Uint8Array(PAGE);
    await source.read(page, at);
    if (!crcFits(page) || page.subarray(0, 7).some((byte, i) => byte !== 'BMLSLOT'.charCodeAt(i))) continue;
    const slot = commitSlot.parse(page, 0, source.name);
    if (best === null || slot.sequence > best.sequence) best = slot;
  }
  if (best === null) return null;
  return {
    ...best,
    commits: [{ at: best.commitAt, length: best.commitLength, layer: best.layer }],
    total: 1,
    sum: null,
    warning: 'the file does not end with a sound trailer; its newest commit was found through a commit slot',
  };
}

/** The trailer, or the newer commit slot when the end of the file is damaged. */
export async function readTail(source: ByteSource): Promise<Tail> {
  let cause: unknown = new Error('the last page fails its checksum');
  const listed = await lentPage(async page => {
    await source.read(page, source.size - PAGE);
    if (!crcFits(page)) return null;
    try {
      return parseTrailer(page, source);
    } catch (error) {
      cause = error;
      return null;
    }
  });
  const found = listed ?? (await newestSlot(source));
  if (found !== null) return found;
  throw corrupt(
    'no commit is found: neither trailer nor commit slots are sound',
    source.name,
    source.size - PAGE,
    cause,
  );
}
