/**
 * Partition tables: reading a GPT, making its backup copy, and making tables for volumes that were backed up without
 * one. GPT after the UEFI Specification 2.10, section 5.3; MBR after section 5.2.1.
 */
import { crc32 } from 'node:zlib';
import type { Bytes } from './contracts.ts';
import { ImageError } from './errors.ts';
import { roundDown, roundUp } from './range.ts';
import { bytes, magic, struct, u8, u32le, u64le, viewOf } from './struct.ts';

export const GptHeader = struct('GPT header', 92, {
  signature: [0, magic('EFI PART')],
  revision: [8, u32le],
  headerSize: [12, u32le],
  headerCrc: [16, u32le],
  myLba: [24, u64le],
  alternateLba: [32, u64le],
  firstUsableLba: [40, u64le],
  lastUsableLba: [48, u64le],
  diskGuid: [56, bytes(16)],
  entriesLba: [72, u64le],
  entryCount: [80, u32le],
  entrySize: [84, u32le],
  entriesCrc: [88, u32le],
});
export type GptHeaderFields = ReturnType<typeof GptHeader.parse>;

const GptEntry = struct('GPT entry', 128, {
  type: [0, bytes(16)],
  id: [16, bytes(16)],
  firstLba: [32, u64le],
  lastLba: [40, u64le],
  attributes: [48, bytes(8)],
  name: [56, bytes(72)],
});

export interface Gpt {
  readonly header: GptHeaderFields;
  /** The whole array of entries. */
  readonly entries: Uint8Array;
}

/** Entries that a table may have; 128 is usual, and a hostile count must not decide how much is read. */
const MOST_ENTRIES_BYTES = 1_048_576;

/** Checksum over the header with its own field taken as zero. */
function headerCrc(header: Uint8Array): number {
  // Not `slice`, which for a Buffer is the same bytes again.
  const copy = new Uint8Array(header);
  viewOf(copy).setUint32(GptHeader.offsetOf('headerCrc'), 0, true);
  return crc32(copy);
}

/** The primary table in the first bytes of a disk; null when there is none whose two checksums hold. */
export function readGpt(head: Uint8Array, sectorSize: number): Gpt | null {
  if (head.length < sectorSize + GptHeader.size) return null;
  let header: GptHeaderFields;
  try {
    header = GptHeader.parse(head, sectorSize);
  } catch (error) {
    if (error instanceof ImageError) return null;
    throw error;
  }
  const { headerSize, entriesLba, entryCount, entrySize, entriesCrc } = header;
  if (headerSize < GptHeader.size || headerSize > sectorSize || sectorSize + headerSize > head.length) return null;
  if (headerCrc(head.subarray(sectorSize, sectorSize + headerSize)) !== header.headerCrc) return null;
  const length = entryCount * entrySize;
  const at = entriesLba * sectorSize;
  if (length > MOST_ENTRIES_BYTES || at + length > head.length) return null;
  const entries = new Uint8Array(head.subarray(at, at + length));
  return crc32(entries) === entriesCrc ? { header, entries } : null;
}

function headerSector(header: Omit<GptHeaderFields, 'headerCrc'>, sectorSize: number): Uint8Array {
  const sector = new Uint8Array(sectorSize);
  sector.set(GptHeader.build({ ...header, headerSize: GptHeader.size, headerCrc: 0 }));
  const crc = headerCrc(sector.subarray(0, GptHeader.size));
  viewOf(sector).setUint32(GptHeader.offsetOf('headerCrc'), crc, true);
  return sector;
}

export interface TablePart {
  readonly at: Bytes;
  readonly bytes: Uint8Array;
}

/** The backup copy of a table, to lie with its header in sector `lba`: the entries, then the header. */
export function backupGpt({ header, entries }: Gpt, lba: number, sectorSize: number): TablePart {
  const length = roundUp(entries.length, sectorSize);
  const entriesLba = lba - length / sectorSize;
  const part = new Uint8Array(length + sectorSize);
  part.set(entries);
  part.set(headerSector({ ...header, myLba: lba, alternateLba: header.myLba, entriesLba }, sectorSize), length);
  return { at: entriesLba * sectorSize, bytes: part };
}

/** `EBD0A0A2-B9E5-4433-87C0-68B6B72699C7` as it lies on the disk: the first three groups little-endian. */
export function guidBytes(text: string): Uint8Array {
  const raw = Buffer.from(text.replaceAll('-', ''), 'hex');
  if (raw.length !== 16) throw new TypeError(`${text} is not a GUID`);
  raw.subarray(0, 4).reverse();
  raw.subarray(4, 6).reverse();
  raw.subarray(6, 8).reverse();
  return raw;
}

export interface NewPartition {
  /** Bytes on the disk, multiples of the sector size. */
  readonly at: Bytes;
  readonly length: Bytes;
  /** Type GUID as text for a GPT. */
  readonly type: string;
  /** 16 bytes that tell it from all others. */
  readonly id: Uint8Array;
}

const ENTRIES = 128;

/** A GPT for partitions in disk order: what lies at the start of the disk (with the protective MBR) and at its end. */
export function makeGpt(
  size: Bytes,
  sectorSize: number,
  diskGuid: Uint8Array,
  partitions: readonly NewPartition[],
): { readonly head: TablePart; readonly tail: TablePart } {
  if (partitions.length > ENTRIES) throw new RangeError(`${partitions.length} partitions; a GPT holds ${ENTRIES}`);
  const entries = new Uint8Array(ENTRIES * GptEntry.size);
  for (const [i, { at, length, type, id }] of partitions.entries()) {
    const firstLba = at / sectorSize;
    const lastLba = firstLba + length / sectorSize - 1;
    const fields = { type: guidBytes(type), id, firstLba, lastLba };
    entries.set(
      GptEntry.build({ ...fields, attributes: new Uint8Array(8), name: new Uint8Array(72) }),
      i * GptEntry.size,
    );
  }
  const entrySectors = Math.ceil(entries.length / sectorSize);
  const lastLba = roundDown(size, sectorSize) / sectorSize - 1;
  const header: GptHeaderFields = {
    signature: 'EFI PART',
    revision: 0x0001_0000,
    headerSize: GptHeader.size,
    headerCrc: 0,
    myLba: 1,
    alternateLba: lastLba,
    firstUsableLba: 2 + entrySectors,
    lastUsableLba: lastLba - entrySectors - 1,
    diskGuid,
    entriesLba: 2,
    entryCount: ENTRIES,
    entrySize: GptEntry.size,
    entriesCrc: crc32(entries),
  };
  const head = new Uint8Array((2 + entrySectors) * sectorSize);
  head.set(makeMbr(sectorSize, 0, [{ at: sectorSize, length: lastLba * sectorSize, type: 0xee, active: false }]));
  head.set(headerSector(header, sectorSize), sectorSize);
  head.set(entries, 2 * sectorSize);
  return { head: { at: 0, bytes: head }, tail: backupGpt({ header, entries }, lastLba, sectorSize) };
}

export interface NewMbrPartition {
  readonly at: Bytes;
  readonly length: Bytes;
  /** 0x07 NTFS, 0x0c FAT32, 0x83 Linux, 0xee the whole disk belongs to a GPT. */
  readonly type: number;
  readonly active: boolean;
}

const MbrEntry = struct('MBR entry', 16, {
  status: [0, u8],
  firstChs: [1, bytes(3)],
  type: [4, u8],
  lastChs: [5, bytes(3)],
  firstLba: [8, u32le],
  sectors: [12, u32le],
});
const MOST_SECTORS = 0xffff_ffff;
/** "Beyond what cylinder, head and sector can say": the sector numbers count. */
const BEYOND_CHS = Uint8Array.of(0xfe, 0xff, 0xff);

/** The first sector of a disk with up to four partitions, without boot code. */
export function makeMbr(
  sectorSize: number,
  signature: number,
  partitions: readonly NewMbrPartition[],
): Uint8Array<ArrayBuffer> {
  if (partitions.length > 4) throw new RangeError(`${partitions.length} partitions; an MBR holds 4`);
  const sector = new Uint8Array(sectorSize);
  viewOf(sector).setUint32(440, signature, true);
  for (const [i, { at, length, type, active }] of partitions.entries()) {
    const firstLba = at / sectorSize;
    if (firstLba > MOST_SECTORS) throw new RangeError(`an MBR cannot say where a partition at ${at} lies`);
    const sectors = Math.min(MOST_SECTORS, length / sectorSize);
    const entry = { status: active ? 0x80 : 0, firstChs: BEYOND_CHS, type, lastChs: BEYOND_CHS, firstLba, sectors };
    sector.set(MbrEntry.build(entry), 446 + i * 16);
  }
  sector.set([0x55, 0xaa], 510);
  return sector;
}
