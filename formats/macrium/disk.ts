/** A disk put together from what an image file holds of it: boot track, partitions, and the tables that are not stored. */
import { assembleDisk, type BytesPart, type DiskPart } from '../../src/base/assemble.ts';
import type { ByteSource, Bytes, Layer, LayerId } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { backupGpt, type Gpt, makeGpt, makeMbr, readGpt } from '../../src/base/partition-table.ts';
import { roundUp } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import type { Origin } from './content.ts';
import type { DiskDescription, PartitionDescription } from './description.ts';
import { deltaIndex, fullIndex, type IndexPlace, indexPlace } from './index-table.ts';
import type { Key } from './keys.ts';
import { find, type MetadataBlock, type MetadataList, readList, readPayload } from './metadata.ts';
import { corrupt } from './structs.ts';
import { blocksVolume, overBytes, reservedVolume } from './volumes.ts';

/** The metadata of one disk, found but not read. */
export interface DiskMetadata {
  readonly bootTrack: MetadataBlock;
  readonly extended: MetadataBlock | null;
  readonly indexes: readonly IndexPlace[];
  readonly lists: readonly MetadataList[];
}

/** Follows the lists of all disks and partitions, in their order. */
export async function readMetadata(
  source: ByteSource,
  indexAt: Bytes,
  disks: readonly DiskDescription[],
  delta: boolean,
): Promise<readonly DiskMetadata[]> {
  const found: DiskMetadata[] = [];
  let next = indexAt;
  const listFor = async (what: string, wanted: string): Promise<[MetadataList, MetadataBlock]> => {
    const at = next;
    const list = await readList(source, at);
    const block = find(list, wanted);
    if (block === undefined) throw corrupt(`${what} has no ${wanted}`, source.name, at, wanted);
    next = list.end;
    return [list, block];
  };
  for (const [i, disk] of disks.entries()) {
    const [list, bootTrack] = await listFor(`disk ${i}`, '$TRACK0');
    const lists = [list];
    const indexes: IndexPlace[] = [];
    for (const { number, blockCount } of disk.partitions) {
      const [partitionList, index] = await listFor(`partition ${number} of disk ${i}`, '$INDEX');
      lists.push(partitionList);
      const place = await indexPlace(source, index, delta);
      if (place.elements.count > blockCount) {
        const message = `an index of ${place.elements.count} blocks for a partition of ${blockCount}`;
        throw corrupt(message, source.name, index.payloadAt, 'index_count');
      }
      indexes.push(place);
      next = Math.max(next, place.end);
    }
    found.push({ bootTrack, extended: find(list, '$EPT') ?? null, indexes, lists });
  }
  return found;
}

/** "Maximum size of 1,048,576 bytes" (FILE_LAYOUT.md, "$TRACK0"). */
const MAX_BOOT_TRACK = 1_048_576;
const MAX_EXTENDED = 1_048_576;
const BOOT_RECORD = 512;

/** Boot records of logical drives. Entries are 522 bytes as described, 528 where a compiler aligned them. */
function bootRecords(raw: Uint8Array, file: string, at: Bytes): BytesPart[] {
  if (raw.length < 4) return [];
  const count = viewOf(raw).getUint32(0, true);
  const size = [522, 528].find(each => 4 + count * each === raw.length);
  if (size === undefined) throw corrupt(`$EPT of ${raw.length} bytes cannot have ${count} entries`, file, at, '$EPT');
  return Array.from({ length: count }, (_, i) => {
    const from = 4 + i * size;
    const view = viewOf(raw.subarray(from, from + size));
    const high = view.getUint32(BOOT_RECORD + 4, true);
    if (high > 0x1f_ffff) throw corrupt('a boot record lies beyond any disk', file, at, '$EPT');
    const diskAt = high * 0x1_0000_0000 + view.getUint32(BOOT_RECORD, true);
    return { at: diskAt, bytes: raw.slice(from, from + BOOT_RECORD), name: 'extended boot record' };
  });
}

/** The count in an index of changes says nothing about how many blocks there are. */
const blocksOf = (partition: PartitionDescription, index: IndexPlace): number =>
  index.delta ? partition.blockCount : index.elements.count;

const endOf = ({ start, length, blocksAt, blockSize, blockCount: blocks }: PartitionDescription): Bytes =>
  length > 0 ? start + length : blocksAt + blocks * blockSize;

/** Beyond this a primary GPT that places its copy past the described end is not about this disk. */
const SIZE_SLACK = 16_777_216;
/** Sectors of a backup GPT: the usual 128 entries and the header. */
const gptTail = (sectorSize: number): Bytes => roundUp(16_384, sectorSize) + sectorSize;

/**
 * The size in the description of an increment counts whole cylinders only. What else tells: the full's description
 * (`baseSize`), the ends of the partitions, and where the primary GPT says that its copy lies.
 */
export function sizeOf(disk: DiskDescription, baseSize: Bytes, gpt: Gpt | null, file: string): Bytes {
  const tail = disk.format === 'gpt' ? gptTail(disk.sectorSize) : 0;
  const described = Math.max(disk.size, baseSize, ...disk.partitions.map(partition => endOf(partition) + tail));
  const stated = gpt === null ? 0 : (gpt.header.alternateLba + 1) * disk.sectorSize;
  const size = roundUp(stated > described && stated <= described + SIZE_SLACK ? stated : described, disk.sectorSize);
  if (!Number.isSafeInteger(size)) throw corrupt(`disk ${disk.number} is larger than any disk`, file, 0, 'disk_size');
  return size;
}

const MBR_TYPES: ReadonlyMap<string, number> = new Map([
  ['FAT12', 0x01],
  ['FAT16', 0x06],
  ['FAT32', 0x0c],
]);
const GPT_BASIC_DATA = 'EBD0A0A2-B9E5-4433-87C0-68B6B72699C7';
const GPT_LINUX = '0FC63DAF-8483-4772-8E79-3D69D8477DE4';
const MBR_LIMIT = 2 ** 32;

/**
 * A table for partitions whose boot track holds none; null when there is no room for one. Identifiers follow from the
 * image, so that every mount shows the same.
 */
function madeTable({ disk, identity }: DiskSpec, size: Bytes): BytesPart[] | null {
  const { sectorSize, partitions } = disk;
  const isLinux = (fileSystem: string): boolean => /ext/i.test(fileSystem);
  const placed = partitions.map(partition => {
    const length = roundUp(Math.min(size, endOf(partition)) - partition.start, sectorSize);
    return { at: partition.start, length, fileSystem: partition.fileSystem.toUpperCase() };
  });
  const first = Math.min(...placed.map(({ at }) => at));
  const last = Math.max(...placed.map(({ at, length }) => at + length));
  if (placed.some(({ at, length }) => at % sectorSize !== 0 || length <= 0)) return null;
  if (disk.format !== 'gpt' && placed.length <= 4 && last / sectorSize < MBR_LIMIT) {
    if (first < sectorSize) return null;
    const entries = placed.map(({ at, length, fileSystem }, i) => {
      const type = MBR_TYPES.get(fileSystem) ?? (isLinux(fileSystem) ? 0x83 : 0x07);
      return { at, length, type, active: i === 0 };
    });
    return [{ at: 0, bytes: makeMbr(sectorSize, viewOf(identity).getUint32(0, true), entries), name: 'MBR' }];
  }
  const id = (n: number): Uint8Array => Uint8Array.from(identity.subarray(0, 16), (byte, i) => (i === 15 ? n : byte));
  if (placed.length > 128) return null;
  const entries = placed.map(({ at, length, fileSystem }, i) => {
    const type = isLinux(fileSystem) ? GPT_LINUX : GPT_BASIC_DATA;
    return { at, length, type, id: id(i + 1) };
  });
  const { head, tail } = makeGpt(size, sectorSize, id(0), entries);
  if (first < head.bytes.length || last > tail.at) return null;
  return [
    { ...head, name: 'GPT' },
    { ...tail, name: 'backup GPT' },
  ];
}

export interface DiskSpec {
  readonly id: LayerId;
  readonly source: ByteSource;
  readonly disk: DiskDescription;
  readonly metadata: DiskMetadata;
  readonly origin: Origin;
  readonly key: Key | null;
  /** What the base of the chain gives as this disk's size; 0 when there is none. */
  readonly baseSize: Bytes;
  /** Blocks that the parent knows of each partition; null without a parent. */
  readonly inherited: readonly number[] | null;
  /** Whether the backup GPT, which is not stored, and a missing partition table are made. */
  readonly completeTables: boolean;
  /** At least 16 bytes that tell this image from all others. */
  readonly identity: Uint8Array;
  readonly signal: AbortSignal;
  readonly warnings: string[];
}

function partitionParts(spec: DiskSpec, bootTrack: Uint8Array): DiskPart[] {
  const { disk, metadata, origin, inherited, id, signal } = spec;
  const parts: DiskPart[] = [];
  const starts = disk.partitions.map(partition => partition.start);
  for (const [i, partition] of disk.partitions.entries()) {
    const place = metadata.indexes[i]!;
    const count = blocksOf(partition, place);
    const { blocksAt, blockSize, reservedAt, reservedLength, start } = partition;
    // The last block may be longer than what is left of the partition: it ends where the next one starts.
    const border = Math.min(...starts.filter(other => other > start));
    const volumeSpec = { id, origin, diskNumber: disk.number, partition };
    if (reservedLength > 0) {
      const length = Math.min(reservedLength, border - reservedAt);
      parts.push({ at: reservedAt, length, volume: reservedVolume(volumeSpec, place) });
    }
    if (count === 0) continue;
    const index = place.delta ? deltaIndex(place, count, inherited?.[i] ?? 0, signal) : fullIndex(place, signal);
    const volume = blocksVolume(volumeSpec, index, count);
    const under = bootTrack.subarray(Math.min(blocksAt, bootTrack.length));
    parts.push({
      at: blocksAt,
      length: Math.min(count * blockSize, border - blocksAt),
      volume: under.length === 0 ? volume : overBytes(volume, '$TRACK0', under),
    });
  }
  return parts;
}

function copyOfGpt(spec: DiskSpec, gpt: Gpt | null, size: Bytes): BytesPart[] {
  const { disk, warnings, completeTables: wanted } = spec;
  if (!wanted || (gpt === null && disk.format !== 'gpt')) return [];
  if (gpt === null) {
    warnings.push('the partition table (GPT) is damaged or incomplete: its backup copy is left out');
    return [];
  }
  const last = size / disk.sectorSize - 1;
  const { alternateLba, lastUsableLba } = gpt.header;
  const lba = alternateLba > lastUsableLba && alternateLba <= last ? alternateLba : last;
  const copy = backupGpt(gpt, lba, disk.sectorSize);
  if (copy.at < Math.max(0, ...disk.partitions.map(endOf))) {
    warnings.push('there is no room for the backup copy of the partition table (GPT)');
    return [];
  }
  return [{ ...copy, name: 'backup GPT' }];
}

/** Reads the boot track; faults: 'corrupt', 'locked'. */
export async function openDisk(spec: DiskSpec): Promise<Layer> {
  const { source, metadata, key, disk, warnings } = spec;
  const bootTrack = await readPayload(source, metadata.bootTrack, MAX_BOOT_TRACK, key);
  const extended =
    metadata.extended === null ? new Uint8Array(0) : await readPayload(source, metadata.extended, MAX_EXTENDED, key);
  // A dynamic disk may have one too; on an MBR disk it would be a relic.
  const gpt = disk.format === 'mbr' ? null : readGpt(bootTrack, disk.sectorSize);
  const size = sizeOf(disk, spec.baseSize, gpt, source.name);
  const parts: DiskPart[] = [{ at: 0, bytes: bootTrack, name: '$TRACK0' }];
  parts.push(...bootRecords(extended, source.name, metadata.extended?.at ?? 0));
  const byStart = partitionParts(spec, bootTrack).toSorted((a, b) => a.at - b.at);
  parts.push(...byStart);
  if (bootTrack[510] === 0x55 && bootTrack[511] === 0xaa) parts.push(...copyOfGpt(spec, gpt, size));
  else if (disk.partitions.length > 0 && spec.completeTables) {
    const made = madeTable(spec, size);
    warnings.push(`the backup holds no partition table${made === null ? '' : ': one is made for its partitions'}`);
    parts.push(...(made ?? []));
  }
  return assembleDisk({ id: spec.id, size, parts });
}

/** Why the blocks of `disks` cannot lie over those of `below`: 'unsupported'; null when they can. */
export function mismatch(
  disks: readonly DiskDescription[],
  below: readonly DiskDescription[],
  file: string,
): ImageError | null {
  for (const [i, disk] of disks.entries()) {
    for (const [j, partition] of disk.partitions.entries()) {
      const other = below[i]?.partitions[j];
      if (other?.blocksAt === partition.blocksAt && other.blockSize === partition.blockSize) continue;
      const what = other === undefined ? 'is not in' : 'lies elsewhere in';
      const message = `partition ${partition.number} of disk ${disk.number} ${what} the file before, but only changes are stored`;
      return new ImageError('unsupported', message, { file });
    }
  }
  return null;
}
