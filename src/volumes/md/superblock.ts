/**
 * Superblocks of md members: version 1 at the end (1.0), at the start (1.1) or 4 KiB after it (1.2), and the older 0.90.
 * Sources: md(4), mdadm(8), "RAID superblock formats" of the Linux RAID wiki, linux/raid/md_p.h.
 */
import type { Bytes } from '../../base/contracts.ts';
import { arrayOf, bits64le, bytes, i32le, struct, u16le, u32le, u64le } from '../../base/struct.ts';
import { fieldText } from '../names.ts';
import type { Leg } from '../raid.ts';
import type { VolumeSource } from '../source.ts';
import type { Stretch } from '../stretch.ts';

const MAGIC = 0xa92b4efc;
const SECTOR = 512;
/** Features of version 1 that do not change where data lies. */
const FEATURE = {
  recoveryOffset: 2,
  reshape: 4,
  badBlocks: 8,
  replacement: 16,
} as const;
const KNOWN = 0x1 | 0x2 | 0x8 | 0x10 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800 | 0x1000;
const MOST_MEMBERS = 384;
const NEVER = 0xffff_ffff_ffff_ffffn;

export interface Member {
  readonly uuid: string;
  readonly name: string;
  readonly level: number;
  readonly layout: number;
  readonly chunk: Bytes;
  readonly members: number;
  readonly legSize: Bytes;
  readonly leg: Leg;
  /** Counts the array's changes. */
  readonly events: bigint;
  /** Place in the array; null: a spare, a journal, or taken out. */
  readonly place: number | null;
  /** Its data are whole. */
  readonly inSync: boolean;
  /** The array was being written to, or put in order. */
  readonly dirty: boolean;
}

const V1 = struct('md superblock', 256, {
  magic: [0, u32le],
  major: [4, u32le],
  features: [8, u32le],
  uuid: [16, bytes(16)],
  name: [32, bytes(32)],
  level: [72, u32le],
  layout: [76, u32le],
  size: [80, u64le],
  chunk: [88, u32le],
  members: [92, u32le],
  dataAt: [128, u64le],
  dataSize: [136, u64le],
  superAt: [144, u64le],
  recoveryOffset: [152, bits64le],
  number: [160, u32le],
  badBlocksSize: [186, u16le],
  badBlocksAt: [188, i32le],
  events: [200, bits64le],
  resyncOffset: [208, bits64le],
  checksum: [216, u32le],
  devices: [220, u32le],
});

/** 32-bit words added up, the carry added to the sum. */
function sumOf(data: Buffer, skip: number): number {
  let sum = 0;
  for (let at = 0; at + 4 <= data.length; at += 4) if (at !== skip) sum += data.readUInt32LE(at);
  if (data.length % 4 === 2) sum += data.readUInt16LE(data.length - 2);
  return ((sum % 0x1_0000_0000) + Math.floor(sum / 0x1_0000_0000)) % 0x1_0000_0000;
}

/** A name is written with the host that made the array in front. */
const shortName = (name: string): string => name.slice(name.indexOf(':') + 1);

/** Whether the member's list of bad blocks has an entry. */
async function hasBadBlocks(source: VolumeSource, fields: ReturnType<typeof V1.parse>): Promise<boolean> {
  if ((fields.features & FEATURE.badBlocks) === 0 || fields.badBlocksSize === 0) return false;
  const at = (fields.superAt + fields.badBlocksAt) * SECTOR;
  const first = await source.bytes(at, 8);
  return first.readBigUInt64LE(0) !== NEVER;
}

async function version1(stretch: Stretch, source: VolumeSource, at: Bytes): Promise<Member | null> {
  if (at < 0 || at + 4096 > source.size) return null;
  const raw = await source.bytes(at, 4096);
  if (raw.readUInt32LE(0) !== MAGIC || raw.readUInt32LE(4) !== 1) return null;
  const fields = V1.parse(raw, 0, source.name);
  const { features, members, devices, dataAt, dataSize, number } = fields;
  // A superblock of another stretch that begins or ends elsewhere.
  if (fields.superAt * SECTOR !== at) return null;
  source.check(devices <= MOST_MEMBERS && members <= MOST_MEMBERS, `an array of ${members} members`, at);
  const sum = sumOf(raw.subarray(0, 256 + devices * 2), V1.offsetOf('checksum'));
  source.check(sum === fields.checksum, 'the checksum of an md superblock does not match', at);
  if ((features & FEATURE.reshape) !== 0) throw source.unsupported('the array is being reshaped', at);
  const unknown = (features & ~KNOWN) >>> 0;
  if (unknown !== 0) throw source.unsupported(`md features 0x${unknown.toString(16)} are not known`, at);
  source.check((dataAt + dataSize) * SECTOR <= source.size, 'the data of a member lie outside it', at);
  const role = number < devices ? raw.readUInt16LE(256 + number * 2) : 0xffff;
  const active = role < members;
  const inSync = (features & (FEATURE.recoveryOffset | FEATURE.replacement)) === 0;
  return {
    uuid: Buffer.from(fields.uuid).toString('hex'),
    name: shortName(fieldText(fields.name)),
    level: fields.level | 0,
    layout: fields.layout,
    chunk: fields.chunk * SECTOR,
    members,
    legSize: fields.size * SECTOR,
    leg: { stretch, at: dataAt * SECTOR, size: dataSize * SECTOR },
    events: fields.events,
    place: active ? role : null,
    inSync: active && inSync && !(await hasBadBlocks(source, fields)),
    dirty: fields.resyncOffset !== NEVER,
  };
}

const V0_SIZE = 4096;
const V0 = struct('md superblock 0.90', V0_SIZE, {
  magic: [0, u32le],
  major: [4, u32le],
  minor: [8, u32le],
  uuid0: [20, u32le],
  level: [28, u32le],
  size: [32, u32le],
  members: [40, u32le],
  number: [44, u32le],
  uuid: [52, arrayOf(u32le, 3)],
  state: [132, u32le],
  checksum: [152, u32le],
  events: [156, bits64le],
  layout: [256, u32le],
  chunk: [260, u32le],
  thisState: [3968, arrayOf(u32le, 5)],
});

/** Bits of a member's state. */
const ACTIVE_AND_IN_SYNC = 2 | 4;
const FAULTY = 1;
const CLEAN = 1;

async function version0(stretch: Stretch, source: VolumeSource): Promise<Member | null> {
  const at = source.size - (source.size % 65_536) - 65_536;
  if (at < 0) return null;
  const raw = await source.bytes(at, V0_SIZE);
  if (raw.readUInt32LE(0) !== MAGIC || raw.readUInt32LE(4) !== 0) return null;
  const fields = V0.parse(raw, 0, source.name);
  const sum = sumOf(raw, V0.offsetOf('checksum'));
  source.check(sum === fields.checksum, 'the checksum of an md superblock does not match', at);
  if (fields.minor !== 90) throw source.unsupported(`md metadata 0.${fields.minor}`, at);
  const [, , , place, state] = fields.thisState as readonly [number, number, number, number, number];
  source.check(fields.members <= MOST_MEMBERS, `an array of ${fields.members} members`, at);
  const active =
    place < fields.members && (state & FAULTY) === 0 && (state & ACTIVE_AND_IN_SYNC) === ACTIVE_AND_IN_SYNC;
  return {
    uuid: [fields.uuid0, ...fields.uuid].map(word => word.toString(16).padStart(8, '0')).join(''),
    name: String(fields.number),
    level: fields.level | 0,
    layout: fields.layout,
    chunk: fields.chunk,
    members: fields.members,
    legSize: fields.size * 1024,
    leg: { stretch, at: 0, size: at },
    events: fields.events,
    place: active ? place : null,
    inSync: active,
    dirty: (fields.state & CLEAN) === 0,
  };
}

/** What a stretch says of itself as a member of an array; null: it is none. */
export async function memberOf(stretch: Stretch, source: VolumeSource): Promise<Member | null> {
  const { size } = source;
  const sectors = Math.floor(size / SECTOR);
  const end = Math.floor((sectors - 16) / 8) * 8 * SECTOR;
  for (const at of [4096, 0, end]) {
    const found = await version1(stretch, source, at);
    if (found !== null) return found;
  }
  return version0(stretch, source);
}
