/**
 * File records of an NTFS master file table and their attributes. Sources: libfsntfs, "New Technologies File System
 * (NTFS)"; the Linux-NTFS project's documentation.
 */
import type { Bytes } from '../../base/contracts.ts';
import { type Runs, type RunsBuilder, runsBuilder } from '../runs.ts';
import { u64, type VolumeSource } from '../source.ts';

export const TYPE = {
  standard: 0x10,
  list: 0x20,
  name: 0x30,
  security: 0x50,
  volumeName: 0x60,
  data: 0x80,
  indexRoot: 0x90,
  indexAllocation: 0xa0,
  bitmap: 0xb0,
  reparse: 0xc0,
} as const;
const END = 0xffff_ffff;

export const FLAG_IN_USE = 1;
export const FLAG_DIR = 2;
export const COMPRESSED = 0x00ff;
export const ENCRYPTED = 0x4000;

/** One attribute of one record: the whole of it, or the part from cluster `firstCluster` on. */
export interface Attribute {
  readonly type: number;
  readonly name: string;
  readonly flags: number;
  /** The value, where it lies in the record itself. */
  readonly resident: Buffer | null;
  readonly size: Bytes;
  /** Written so far; zeros from there on. */
  readonly valid: Bytes;
  readonly allocated: Bytes;
  readonly firstCluster: number;
  /** Clusters of a compression unit, as a power of two; 0: not compressed. */
  readonly unitShift: number;
  /** Encoded runs. */
  readonly encoded: Buffer;
}

export interface Record {
  readonly number: number;
  readonly flags: number;
  readonly links: number;
  /** Number of the record that this one extends; its own or 0: none. */
  readonly base: number;
  readonly attributes: readonly Attribute[];
}

/** A reference to a record without its sequence number. */
export const referenceAt = (from: Buffer, at: number): number =>
  from.readUInt32LE(at) + from.readUInt16LE(at + 4) * 0x1_0000_0000;

const SECTOR = 512;

/**
 * A record as it was before it was written: the last word of each sector is replaced by a number that tells torn
 * writes, and kept in a table.
 */
export function fixedUp(source: VolumeSource, raw: Buffer, signature: string, at?: Bytes): Buffer {
  const found = raw.toString('latin1', 0, 4);
  source.check(found === signature, `a record begins with ${JSON.stringify(found)}, not ${signature}`, at);
  const table = raw.readUInt16LE(4);
  const count = raw.readUInt16LE(6);
  const sound = count > 0 && table + count * 2 <= raw.length && (count - 1) * SECTOR <= raw.length;
  source.check(sound, 'the table of a record against torn writes is damaged', at);
  const fixed = Buffer.from(raw);
  const mark = fixed.readUInt16LE(table);
  for (let i = 1; i < count; i++) {
    const end = i * SECTOR - 2;
    source.check(fixed.readUInt16LE(end) === mark, 'a record was written only in part', at);
    fixed.writeUInt16LE(fixed.readUInt16LE(table + i * 2), end);
  }
  return fixed;
}

function parseAttribute(source: VolumeSource, bytes: Buffer): Attribute {
  const nameAt = bytes.readUInt16LE(10);
  const nameEnd = nameAt + bytes[9]! * 2;
  source.check(nameEnd <= bytes.length, 'the name of an attribute leads outside it');
  const common = {
    type: bytes.readUInt32LE(0),
    name: bytes.toString('utf16le', nameAt, nameEnd),
    flags: bytes.readUInt16LE(12),
  };
  if (bytes[8] === 0) {
    const size = bytes.readUInt32LE(16);
    const at = bytes.readUInt16LE(20);
    source.check(at + size <= bytes.length, 'the value of an attribute leads outside it');
    const place = { firstCluster: 0, unitShift: 0, encoded: Buffer.alloc(0), allocated: 0 };
    return { ...common, ...place, resident: bytes.subarray(at, at + size), size, valid: size };
  }
  const firstCluster = u64(bytes, 16);
  const encoded = bytes.subarray(bytes.readUInt16LE(32));
  const part = { ...common, resident: null, firstCluster, encoded };
  if (firstCluster !== 0) return { ...part, size: 0, valid: 0, allocated: 0, unitShift: 0 };
  const unitShift = bytes[34]!;
  const [size, valid] = [u64(bytes, 48), u64(bytes, 56)];
  // Sparse and compressed attributes say apart how much of their space is taken.
  const allocated = unitShift > 0 && bytes.length >= 72 ? u64(bytes, 64) : u64(bytes, 40);
  source.check(Number.isSafeInteger(size) && Number.isSafeInteger(valid), 'an attribute of no sound size');
  source.check(unitShift <= 16, `compression units of 2^${unitShift} clusters`);
  return { ...part, size, valid, allocated, unitShift };
}

/** Parses a record of the master file table. */
export function parseRecord(source: VolumeSource, number: number, raw: Buffer, at?: Bytes): Record {
  const bytes = fixedUp(source, raw, 'FILE', at);
  const used = bytes.readUInt32LE(0x18);
  source.check(used <= bytes.length, 'a record is longer than its space', at);
  const attributes: Attribute[] = [];
  for (let pos = bytes.readUInt16LE(0x14); pos + 16 <= used; ) {
    if (bytes.readUInt32LE(pos) === END) break;
    const length = bytes.readUInt32LE(pos + 4);
    const least = bytes[pos + 8] === 0 ? 24 : 64;
    source.check(length >= least && pos + length <= used, 'an attribute leads outside its record', at);
    attributes.push(parseAttribute(source, bytes.subarray(pos, pos + length)));
    pos += length;
  }
  return {
    number,
    flags: bytes.readUInt16LE(0x16),
    links: bytes.readUInt16LE(0x12),
    base: referenceAt(bytes, 0x20),
    attributes,
  };
}

/** A little-endian number of 1 to 8 bytes; NaN beyond 2^53. */
function number(bytes: Buffer, at: number, length: number, signed: boolean): number {
  let value = 0;
  for (let i = length - 1; i >= 0; i--) value = value * 256 + bytes[at + i]!;
  if (signed && length > 0 && bytes[at + length - 1]! >= 0x80) {
    // The bytes of a small negative number are a large positive one: counted down from all ones they stay exact.
    value = 0;
    for (let i = length - 1; i >= 0; i--) value = value * 256 + (255 - bytes[at + i]!);
    value = -value - 1;
  }
  return Number.isSafeInteger(value) ? value : Number.NaN;
}

/** Decodes runs into a builder: length, and distance from the run before. A run without a place is a hole. */
function decodeRuns(source: VolumeSource, part: Attribute, clusterSize: number, builder: RunsBuilder): void {
  const { encoded } = part;
  let vcn = part.firstCluster;
  let lcn = 0;
  for (let at = 0; at < encoded.length && encoded[at] !== 0; ) {
    const lengthBytes = encoded[at]! & 15;
    const placeBytes = encoded[at]! >> 4;
    const end = at + 1 + lengthBytes + placeBytes;
    const sound = lengthBytes >= 1 && lengthBytes <= 8 && placeBytes <= 8 && end <= encoded.length;
    source.check(sound, 'a run of clusters is damaged');
    const length = number(encoded, at + 1, lengthBytes, false);
    source.check(length > 0, 'a run of clusters has no sound length');
    if (placeBytes === 0) builder.hole(vcn * clusterSize, length * clusterSize);
    else {
      lcn += number(encoded, at + 1 + lengthBytes, placeBytes, true);
      builder.add(vcn * clusterSize, length * clusterSize, lcn * clusterSize);
    }
    vcn += length;
    at = end;
  }
}

/** Where the parts of one attribute lie together. */
export function runsOf(source: VolumeSource, parts: readonly Attribute[], clusterSize: number): Runs {
  const builder = runsBuilder(source);
  for (const part of parts) decodeRuns(source, part, clusterSize, builder);
  return builder.done();
}
