/** A commit (section 10): what a layer says about its restore point. */
import { hash } from 'node:crypto';
import type { ByteSource, PointType } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { roundUp } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import type { SetKeys } from './crypto.ts';
import { lentPage } from './lent-page.ts';
import { entryFault, forgetPlace, heightFor, nodePage } from './node.ts';
import {
  COMMIT_HASH,
  COMMIT_HEADER,
  COMMIT_PLACES,
  commitHeader,
  corrupt,
  crcFits,
  diskEntry,
  FIRST_RECORD,
  hex,
  PAGE,
  sameBytes,
  sealCrc,
  tableLine,
} from './structs.ts';
import type { CommitPlace } from './superblock.ts';
import { MAX_BLOCK_LOG2, MIN_BLOCK_LOG2 } from './superblock.ts';

export const NAME_LIMIT = 48;
/** Pages of one commit; 1 MiB holds 8,000 disks. */
const LENGTH_CAP = 1_048_576;
const ROOT = diskEntry.offsetOf('root');

export type Consistency = 'unknown' | 'crash' | 'frozen' | 'application' | 'offline';

export interface CommitDisk {
  readonly id: Uint8Array;
  readonly name: string;
  /** The disk's number within its set: what its records carry. */
  readonly number: number;
  readonly size: number;
  readonly sectorSize: 512 | 4096;
  readonly blockSize: number;
  readonly height: number;
  readonly stored: number;
  readonly root: Uint8Array;
}

export interface Tlv {
  readonly type: number;
  readonly critical: boolean;
  readonly value: Uint8Array;
}
/** Attributes: 1 name of the set, 2 source, 3 writer. */
export const TLV_SET = 1;
export const TLV_WRITER = 3;

export interface Commit {
  readonly sequence: number;
  readonly layer: Uint8Array;
  /** Zeros for a root. */
  readonly parent: Uint8Array;
  readonly parentHash: Uint8Array;
  readonly type: PointType;
  readonly consistency: Consistency;
  readonly time: number;
  readonly started: number;
  readonly finished: number;
  readonly lines: number;
  readonly names: number;
  readonly ownLine: number;
  readonly nextDisk: number;
  readonly tableHash: Uint8Array;
  readonly records: number;
  readonly tableAt: number;
  readonly tableStored: number;
  readonly previousAt: number;
  readonly firstAt: number;
  readonly disks: readonly CommitDisk[];
  readonly tlvs: readonly Tlv[];
}

export interface PlacedCommit extends Commit {
  readonly at: number;
  readonly length: number;
  /** HMAC-SHA-256, or SHA-256 without keys: the commit's identity. */
  readonly hash: Uint8Array;
  /** What `hash` covers. */
  content(): Uint8Array;
}

/** Without the fields that say where things lie. */
function contentOf(commit: Uint8Array, disks: number): Uint8Array {
  const content = commit.slice(0, commit.length - COMMIT_HASH);
  content.fill(0, COMMIT_PLACES, COMMIT_HEADER);
  for (let i = 0; i < disks; i++) {
    forgetPlace(content, COMMIT_HEADER + i * diskEntry.size + ROOT);
  }
  return content;
}

const merkleOf = (content: Uint8Array, disks: number): Uint8Array =>
  hash('sha256', content.subarray(COMMIT_HEADER, COMMIT_HEADER + disks * diskEntry.size), 'buffer');

export const hashOf = (content: Uint8Array, keys: SetKeys | null): Uint8Array =>
  keys === null ? hash('sha256', content, 'buffer') : keys.authenticate(content);

function buildDisk(disk: CommitDisk): Uint8Array {
  const name = new Uint8Array(NAME_LIMIT);
  name.set(Buffer.from(disk.name));
  return diskEntry.build({ ...disk, blockLog2: Math.log2(disk.blockSize), flags: 0, reserved: 0, name });
}

export function buildCommit(commit: Commit, keys: SetKeys | null): { bytes: Uint8Array; hash: Uint8Array } {
  const tlvBytes = commit.tlvs.reduce((sum, tlv) => sum + 8 + roundUp(tlv.value.length, 8), 0);
  const used = COMMIT_HEADER + commit.disks.length * diskEntry.size + tlvBytes;
  const bytes = new Uint8Array(roundUp(used + COMMIT_HASH, PAGE));
  const view = viewOf(bytes);
  let at = COMMIT_HEADER;
  for (const disk of commit.disks) {
    bytes.set(buildDisk(disk), at);
    at += diskEntry.size;
  }
  for (const tlv of commit.tlvs) {
    view.setUint16(at, tlv.type, true);
    view.setUint16(at + 2, tlv.critical ? 1 : 0, true);
    view.setUint32(at + 4, tlv.value.length, true);
    bytes.set(tlv.value, at + 8);
    at += 8 + roundUp(tlv.value.length, 8);
  }
  commitHeader.write(view, 0, {
    ...commit,
    magic: 'BMLCOMIT',
    length: bytes.length,
    disks: commit.disks.length,
    merkle: merkleOf(contentOf(bytes, commit.disks.length), commit.disks.length),
    tlvBytes,
    reserved: 0,
    reserved2: 0,
  });
  const sum = hashOf(contentOf(bytes, commit.disks.length), keys);
  bytes.set(sum, bytes.length - COMMIT_HASH);
  sealCrc(bytes);
  return { bytes, hash: sum };
}

function parseDisk(bytes: Uint8Array, at: number, lines: number, file: string, fileAt: number): CommitDisk {
  const disk = diskEntry.parse(bytes, at, file);
  const bad = (message: string): never => {
    throw corrupt(`disk ${disk.number}: ${message}`, file, fileAt);
  };
  if (disk.sectorSize !== 512 && disk.sectorSize !== 4096) return bad(`sector size ${disk.sectorSize}`);
  if (disk.blockLog2 < MIN_BLOCK_LOG2 || disk.blockLog2 > MAX_BLOCK_LOG2) return bad(`block size 2^${disk.blockLog2}`);
  const blockSize = 2 ** disk.blockLog2;
  if (disk.height !== heightFor(Math.ceil(disk.size / blockSize))) {
    return bad(`a tree of height ${disk.height} does not fit its ${disk.size} bytes`);
  }
  if (disk.flags !== 0) throw new ImageError('unsupported', `disk flags ${disk.flags}`, { file, at: fileAt });
  const fault = entryFault(nodePage(disk.root).view, 0, disk.height + 1, { lines, blockSize });
  if (fault !== null) return bad(`root: ${fault}`);
  const end = disk.name.indexOf(0);
  const name = Buffer.from(disk.name.subarray(0, end < 0 ? NAME_LIMIT : end)).toString('utf8');
  return { ...disk, name, blockSize, sectorSize: disk.sectorSize };
}

function parseTlvs(bytes: Uint8Array, start: number, end: number, file: string, fileAt: number): Tlv[] {
  const view = viewOf(bytes);
  const tlvs: Tlv[] = [];
  let at = start;
  while (at < end) {
    const length = at + 8 <= end ? view.getUint32(at + 4, true) : Number.POSITIVE_INFINITY;
    if (at + 8 + length > end) throw corrupt('commit: an attribute reaches past its end', file, fileAt + at);
    const type = view.getUint16(at, true);
    const critical = (view.getUint16(at + 2, true) & 1) !== 0;
    if (critical && (type < TLV_SET || type > TLV_WRITER)) {
      throw new ImageError('unsupported', `commit attribute ${type} is not known here`, { file, at: fileAt + at });
    }
    tlvs.push({ type, critical, value: bytes.slice(at + 8, at + 8 + length) });
    at += 8 + roundUp(length, 8);
  }
  return tlvs;
}

/** Reads and checks everything that needs no key. Faults: 'corrupt', 'unsupported'. */
export async function readCommit(source: ByteSource, place: CommitPlace): Promise<PlacedCommit> {
  const { at, length } = place;
  const file = source.name;
  const bad = (message: string): never => {
    throw corrupt(`commit: ${message}`, file, at);
  };
  if (at < FIRST_RECORD || at % PAGE !== 0 || length % PAGE !== 0 || length < PAGE || length > LENGTH_CAP) {
    return bad(`is said to have ${length} bytes at ${at}`);
  }
  if (at + length > source.size) return bad('lies past the end of the file');
  return length === PAGE
    ? lentPage(page => parseCommit(source, place, page))
    : parseCommit(source, place, new Uint8Array(length));
}

/** Reads the commit into `bytes`, of which nothing is kept. */
async function parseCommit(source: ByteSource, place: CommitPlace, bytes: Uint8Array): Promise<PlacedCommit> {
  const { at, length } = place;
  const file = source.name;
  const bad = (message: string): never => {
    throw corrupt(`commit: ${message}`, file, at);
  };
  await source.read(bytes, at);
  if (!crcFits(bytes)) return bad('fails its checksum');
  const header = commitHeader.parse(bytes, 0, file);
  const disksEnd = COMMIT_HEADER + header.disks * diskEntry.size;
  if (header.length !== length || disksEnd + header.tlvBytes + COMMIT_HASH > length) return bad('has a wrong length');
  if (!sameBytes(header.layer, place.layer)) return bad(`is of layer ${hex(header.layer)}`);
  if (header.lines * tableLine.size > source.size || header.names > source.size || header.tableStored > source.size) {
    return bad(`has a layer table of ${header.lines} lines, more than the file holds`);
  }
  if (header.ownLine >= header.lines) return bad('its layer is not in its layer table');
  const content = contentOf(bytes, header.disks);
  if (!sameBytes(merkleOf(content, header.disks), header.merkle)) return bad('fails its Merkle root');
  const disks = Array.from({ length: header.disks }, (_, i) =>
    parseDisk(bytes, COMMIT_HEADER + i * diskEntry.size, header.lines, file, at),
  );
  const numbers = new Set(disks.map(disk => disk.number));
  if (numbers.size !== disks.length || disks.some(disk => disk.number >= header.nextDisk)) {
    return bad('has two disks of one number, or one that was never given');
  }
  const tlvs = parseTlvs(bytes, disksEnd, disksEnd + header.tlvBytes, file, at);
  const hash = bytes.slice(-COMMIT_HASH, -4);
  return { ...header, at, length, disks, tlvs, hash, content: withoutZeros(content) };
}

/** Most of a page is zeros, and a set has a thousand commits: those at the end are added again when somebody asks. */
function withoutZeros(content: Uint8Array): () => Uint8Array {
  const { length } = content;
  let end = length;
  while (end > 0 && content[end - 1] === 0) end--;
  const filled = content.slice(0, end);
  return () => {
    const whole = new Uint8Array(length);
    whole.set(filled);
    return whole;
  };
}

export const textTlv = (commit: Commit, type: number): string | null => {
  const tlv = commit.tlvs.find(one => one.type === type);
  return tlv === undefined ? null : Buffer.from(tlv.value).toString('utf8');
};
