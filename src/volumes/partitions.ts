/**
 * Where the volumes of a disk lie: GPT (UEFI Specification 2.10, section 5.3; the backup table where the primary one is
 * damaged), MBR with logical partitions (section 5.2), or one volume on the whole disk. A hybrid disk is read by its GPT.
 */
import { crc32 } from 'node:zlib';
import type { Bytes, Disk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { GptHeader, type GptHeaderFields } from '../base/partition-table.ts';
import { arrayOf, bytes, type Struct, struct, u8, u32le } from '../base/struct.ts';
import { u64 } from './source.ts';

export interface Partition {
  /** As Linux numbers them: primary ones 1…4, logical ones from 5; 0: the whole disk. */
  readonly number: number;
  readonly at: Bytes;
  readonly length: Bytes;
  /** GPT name; empty for others. */
  readonly name: string;
}

export interface PartitionTable {
  readonly scheme: 'gpt' | 'mbr' | 'none';
  readonly partitions: readonly Partition[];
  readonly warnings: readonly string[];
}

const MbrEntry = struct('MBR entry', 16, {
  status: [0, u8],
  firstChs: [1, bytes(3)],
  type: [4, u8],
  lastChs: [5, bytes(3)],
  firstLba: [8, u32le],
  sectors: [12, u32le],
});
type MbrEntryFields = ReturnType<typeof MbrEntry.parse>;

const Mbr = struct('MBR', 512, {
  entries: [446, arrayOf(MbrEntry as Struct<MbrEntryFields>, 4)],
  signature: [510, arrayOf(u8, 2)],
});

const EXTENDED = new Set([0x05, 0x0f, 0x85]);
const PROTECTIVE = 0xee;
/** Logical partitions of one disk; more than any system shows. */
const MOST_LOGICAL = 256;
const MOST_GPT_ENTRIES = 4096;

async function sectorAt(disk: Disk, at: Bytes, length: number): Promise<Buffer | null> {
  if (at < 0 || length <= 0 || !Number.isSafeInteger(at) || at + length > disk.size) return null;
  const into = Buffer.allocUnsafe(length);
  await disk.read(into, at);
  return into;
}

/** A boot sector of a file system holds code where a table has entries. */
const isBootSector = (sector: Buffer): boolean =>
  ['NTFS    ', 'EXFAT   ', '-FVE-FS-'].includes(sector.toString('latin1', 3, 11)) ||
  sector.toString('latin1', 54, 57) === 'FAT' ||
  sector.toString('latin1', 82, 85) === 'FAT';

function mbrEntries(sector: Buffer): readonly MbrEntryFields[] | null {
  const { entries, signature } = Mbr.parse(sector);
  if (signature[0] !== 0x55 || signature[1] !== 0xaa) return null;
  const sound = entries.every(({ status }) => status === 0 || status === 0x80);
  return sound && entries.some(({ type, sectors }) => type !== 0 && sectors > 0) ? entries : null;
}

function clipped(disk: Disk, number: number, at: Bytes, length: Bytes, name: string): Partition | null {
  if (!(at > 0) || !(length > 0) || at >= disk.size) return null;
  return { number, at, length: Math.min(length, disk.size - at), name };
}

/** The chain of extended boot records: each holds one logical partition and the place of the next record. */
async function logical(disk: Disk, first: Bytes, sectorSize: number): Promise<readonly Partition[]> {
  const found: Partition[] = [];
  const seen = new Set<Bytes>();
  for (let at = first; !seen.has(at) && seen.size < MOST_LOGICAL; ) {
    seen.add(at);
    const sector = await sectorAt(disk, at, 512);
    const entries = sector === null ? null : mbrEntries(sector);
    if (entries === null) break;
    const [volume, next] = [entries[0]!, entries[1]!];
    const number = 5 + found.length;
    if (volume.type !== 0 && !EXTENDED.has(volume.type)) {
      const part = clipped(disk, number, at + volume.firstLba * sectorSize, volume.sectors * sectorSize, '');
      if (part !== null) found.push(part);
    }
    if (!EXTENDED.has(next.type) || next.sectors === 0) break;
    at = first + next.firstLba * sectorSize;
  }
  return found;
}

async function mbrPartitions(disk: Disk, entries: readonly MbrEntryFields[]): Promise<readonly Partition[]> {
  const { sectorSize } = disk;
  const found: Partition[] = [];
  for (const [i, { type, firstLba, sectors }] of entries.entries()) {
    if (type === 0 || type === PROTECTIVE || EXTENDED.has(type)) continue;
    const part = clipped(disk, i + 1, firstLba * sectorSize, sectors * sectorSize, '');
    if (part !== null) found.push(part);
  }
  for (const { type, firstLba } of entries) {
    if (EXTENDED.has(type)) found.push(...(await logical(disk, firstLba * sectorSize, sectorSize)));
  }
  return found;
}

interface GptTable {
  readonly header: GptHeaderFields;
  readonly entries: Buffer;
}

/** The table whose header is in the sector at `at`; null unless both checksums hold. */
async function gptAt(disk: Disk, at: Bytes, sectorSize: number): Promise<GptTable | null> {
  const sector = await sectorAt(disk, at, sectorSize);
  if (sector === null || sector.toString('latin1', 0, 8) !== 'EFI PART') return null;
  let header: GptHeaderFields;
  try {
    header = GptHeader.parse(sector);
  } catch (error) {
    if (error instanceof ImageError) return null;
    throw error;
  }
  const { headerSize, headerCrc, entryCount, entrySize, entriesLba, entriesCrc } = header;
  if (headerSize < GptHeader.size || headerSize > sectorSize || entrySize < 128 || entrySize > 4096) return null;
  if (entryCount > MOST_GPT_ENTRIES) return null;
  const copy = Buffer.from(sector.subarray(0, headerSize));
  copy.writeUInt32LE(0, GptHeader.offsetOf('headerCrc'));
  if (crc32(copy) !== headerCrc) return null;
  const entries = await sectorAt(disk, entriesLba * sectorSize, entryCount * entrySize);
  return entries !== null && crc32(entries) === entriesCrc ? { header, entries } : null;
}

function gptPartitions(disk: Disk, { header, entries }: GptTable, sectorSize: number): readonly Partition[] {
  const found: Partition[] = [];
  for (let i = 0; i < header.entryCount; i++) {
    const entry = entries.subarray(i * header.entrySize, (i + 1) * header.entrySize);
    if (entry.subarray(0, 16).every(byte => byte === 0)) continue;
    const first = u64(entry, 32);
    const last = u64(entry, 40);
    const name = entry.toString('utf16le', 56, 128).replace(/\0.*$/s, '');
    const part = clipped(disk, i + 1, first * sectorSize, (last - first + 1) * sectorSize, name);
    if (part !== null) found.push(part);
  }
  return found;
}

async function gpt(disk: Disk): Promise<PartitionTable | null> {
  const sizes = [disk.sectorSize, disk.sectorSize === 512 ? 4096 : 512];
  for (const sectorSize of sizes) {
    const table = await gptAt(disk, sectorSize, sectorSize);
    if (table !== null) return { scheme: 'gpt', partitions: gptPartitions(disk, table, sectorSize), warnings: [] };
  }
  for (const sectorSize of sizes) {
    const table = await gptAt(disk, (Math.floor(disk.size / sectorSize) - 1) * sectorSize, sectorSize);
    if (table === null) continue;
    const warnings = ['the partition table at the start of the disk is damaged: its copy at the end was read'];
    return { scheme: 'gpt', partitions: gptPartitions(disk, table, sectorSize), warnings };
  }
  return null;
}

const ISO_AT = 32_769;

/** An image of a CD that also starts from a USB stick has a table beside the file system on the whole of it. */
async function isCd(disk: Disk): Promise<boolean> {
  const mark = await sectorAt(disk, ISO_AT, 5);
  return mark !== null && mark.toString('latin1') === 'CD001';
}

/** A disk without a table is one partition, number 0. */
export async function partitionsOf(disk: Disk): Promise<PartitionTable> {
  const table = await tableOf(disk);
  if (table.scheme === 'none' || !(await isCd(disk))) return table;
  return { ...table, partitions: [{ number: 0, at: 0, length: disk.size, name: '' }, ...table.partitions] };
}

async function tableOf(disk: Disk): Promise<PartitionTable> {
  const whole: Partition = { number: 0, at: 0, length: disk.size, name: '' };
  const none: PartitionTable = { scheme: 'none', partitions: [whole], warnings: [] };
  const sector = await sectorAt(disk, 0, 512);
  if (sector === null) return { ...none, partitions: [] };
  const entries = isBootSector(sector) ? null : mbrEntries(sector);
  if (entries === null) return none;
  if (entries.some(({ type }) => type === PROTECTIVE)) {
    const table = await gpt(disk);
    if (table !== null) return table;
  }
  const partitions = await mbrPartitions(disk, entries);
  return partitions.length === 0 ? none : { scheme: 'mbr', partitions, warnings: [] };
}
