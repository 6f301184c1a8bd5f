/** The volumes of the disks of a point, each by the reader that knows it. */
import type { Bytes, Disk, Keyring } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import type { Volume } from './contracts.ts';
import { type Encrypted, encryptedIn } from './encrypted.ts';
import { logicalVolumes } from './lvm/logical.ts';
import { type PhysicalVolume, physicalVolume } from './lvm/physical.ts';
import { arraysOf } from './md/arrays.ts';
import { type Member, memberOf } from './md/superblock.ts';
import { type Partition, partitionsOf } from './partitions.ts';
import { readers } from './readers.ts';
import { openSafely } from './safe.ts';
import { type MetadataCache, type VolumeSource, volumeSource } from './source.ts';
import type { Place, Stretch } from './stretch.ts';

/** Arrays in volumes in arrays: more than anybody makes. */
const MOST_ROUNDS = 8;

export interface NamedDisk {
  readonly disk: Disk;
  /** For messages and, where there are several disks, in front of the names of their volumes. */
  readonly name: string;
}

export interface FoundVolume {
  /** Name of its folder: `p1-ntfs-System`, `disk1-p2-ext4`, `lvm-vg0-root`. No two are the same. */
  readonly name: string;
  readonly volume: Volume;
  /** What the ranges of its files count on. Closing it is not needed. */
  readonly disk: Disk;
  /** Where it begins on that disk. */
  readonly start: Bytes;
  /** What it lies in: a partition, a logical volume, … can be longer than the file system. */
  readonly size: Bytes;
  /** Where a range of `disk` lies on the point's own disks, as it is; null: it does not. */
  place(at: Bytes, limit: Bytes): Place | null;
}

export interface LockedVolume {
  /** `p3-luks2` */
  readonly name: string;
  /** `luks1`, `luks2`, `bitlocker` */
  readonly type: string;
  /** No key, or none that fits. */
  readonly reason: string;
}

export interface PointVolumes {
  readonly volumes: readonly FoundVolume[];
  readonly locked: readonly LockedVolume[];
  /** Stretches in which nothing is known: room for swapping, other file systems, nothing at all. */
  readonly unknown: readonly Stretch[];
  /** One line each: volumes that are known but cannot be read, and what is odd about the others. */
  readonly notes: readonly string[];
}

export interface VolumesSpec {
  /** All of the point: volumes can lie on several. */
  readonly disks: readonly NamedDisk[];
  readonly cache: MetadataCache;
  readonly keys: Keyring;
  /** Stretches (`disk0 p1`) that are left out; each becomes a note. */
  readonly skip?: ReadonlySet<string>;
  /** Called with its name before a stretch is looked into. */
  opening?(its: string): void;
}

interface Found {
  readonly volumes: FoundVolume[];
  readonly locked: LockedVolume[];
  readonly unknown: Stretch[];
  readonly notes: string[];
}

/** The label, or what GPT calls the partition: `p2-ext4-root`. */
function folderName({ folder, described, label }: Stretch, volume: Volume): string {
  if (!described) return folder;
  const its = (volume.label || label).replaceAll(/\s+/g, ' ').trim().slice(0, 64);
  return [folder, volume.type, ...(its === '' ? [] : [its])].join('-');
}

function unique({ volumes, locked }: Found, wanted: string): string {
  let name = wanted;
  const taken = (): boolean => [...volumes, ...locked].some(other => other.name === name);
  for (let n = 2; taken(); n++) name = `${wanted}-${n}`;
  return name;
}

const overlaps = (a: Partition, b: Partition): boolean => a.at < b.at + b.length && b.at < a.at + a.length;

async function stretchesOf({ disks }: VolumesSpec, notes: string[]): Promise<Stretch[]> {
  const found: Stretch[] = [];
  const failed: unknown[] = [];
  for (const [index, { disk, name }] of disks.entries()) {
    try {
      const { partitions, warnings } = await partitionsOf(disk);
      notes.push(...warnings.map(warning => `${name}: ${warning}`));
      const before = disks.length > 1 ? `${name}-` : '';
      for (const partition of partitions) {
        const { number, at: start, length: size, name: label } = partition;
        const its = `${name} p${number}`;
        const shared = partitions.some(other => other !== partition && overlaps(other, partition));
        const place = (at: Bytes, length: Bytes): Place => ({ disk: index, at, length, shared });
        found.push({ its, folder: `${before}p${number}`, described: true, label, disk, start, size, place });
      }
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      failed.push(error);
      notes.push(`${name} cannot be read: ${error.message}`);
    }
  }
  if (failed.length > 0 && failed.length === disks.length) throw failed[0];
  return found;
}

/** What is found on the way, and put together when all of it is there. */
interface Pieces {
  readonly members: Member[];
  readonly physical: PhysicalVolume[];
}

/**
 * Opens every volume of a point's disks. One that cannot be read becomes a note; an error is thrown when no disk can
 * be read at all.
 */
export async function openVolumes(spec: VolumesSpec): Promise<PointVolumes> {
  const found: Found = { volumes: [], locked: [], unknown: [], notes: [] };
  let stretches: readonly Stretch[] = await stretchesOf(spec, found.notes);
  let physical: readonly PhysicalVolume[] = [];
  // Arrays hold physical volumes, these hold logical ones, and any of them may be encrypted or hold the next.
  for (let round = 0; stretches.length > 0 && round < MOST_ROUNDS; round++) {
    const pieces: Pieces = { members: [], physical: [] };
    for (const stretch of stretches) await lookInto(spec, stretch, found, pieces);
    const arrays = arraysOf(pieces.members);
    physical = [...physical, ...pieces.physical];
    // A group can have physical volumes on arrays.
    const complete = arrays.stretches.length === 0 && physical.length > 0;
    const logical = complete ? await logicalVolumes(physical) : { stretches: [], notes: [] };
    if (complete) physical = [];
    found.notes.push(...arrays.notes, ...logical.notes);
    stretches = [...arrays.stretches, ...logical.stretches];
  }
  return found;
}

async function lookInto(spec: VolumesSpec, stretch: Stretch, found: Found, pieces: Pieces): Promise<void> {
  const { its, disk, start, size } = stretch;
  if (spec.skip?.has(its) === true) {
    found.notes.push(`${its} is left out`);
    return;
  }
  spec.opening?.(its);
  const source = volumeSource({ name: its, disk, start, size, cache: spec.cache });
  try {
    if (await isPiece(stretch, source, pieces)) return;
    const alive = (): void => spec.opening?.(its);
    const early = await encryptedIn(stretch, 'first', alive);
    const volume = early === null ? await firstOf(source) : null;
    if (volume !== null) {
      const name = unique(found, folderName(stretch, volume));
      found.volumes.push({ name, volume, disk, start, size, place: stretch.place });
      found.notes.push(...volume.warnings.map(warning => `${its}: ${warning}`));
      return;
    }
    const encrypted = early ?? (await encryptedIn(stretch, 'last', alive));
    if (encrypted !== null) {
      const plain = await unlocked(spec, stretch, encrypted, found);
      if (plain !== null) await lookInto(spec, plain, found, pieces);
    } else if (!stretch.described) {
      // A disk of a machine inside a logical volume, or an array with partitions.
      const inside = await partitionsIn(stretch);
      for (const inner of inside) await lookInto(spec, inner, found, pieces);
      if (inside.length === 0) found.unknown.push(stretch);
    } else found.unknown.push(stretch);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    found.notes.push(`${its} cannot be read: ${error.message}`);
  }
}

/** Members of arrays and physical volumes are kept until all of them are known. */
async function isPiece(stretch: Stretch, source: VolumeSource, pieces: Pieces): Promise<boolean> {
  const member = await memberOf(stretch, source);
  if (member !== null) {
    pieces.members.push(member);
    return true;
  }
  const physical = await physicalVolume(stretch, source);
  if (physical === null) return false;
  pieces.physical.push(physical);
  return true;
}

async function unlocked(
  { keys }: VolumesSpec,
  { its, folder }: Stretch,
  { type, warnings, unlock }: Encrypted,
  found: Found,
): Promise<Stretch | null> {
  found.notes.push(...warnings.map(warning => `${its}: ${warning}`));
  try {
    return await unlock(keys);
  } catch (error) {
    if (!(error instanceof ImageError) || (error.fault !== 'locked' && error.fault !== 'wrong-key')) throw error;
    found.locked.push({ name: unique(found, `${folder}-${type}`), type, reason: error.message });
    return null;
  }
}

async function partitionsIn(stretch: Stretch): Promise<readonly Stretch[]> {
  const { its, folder, disk } = stretch;
  const { scheme, partitions } = await partitionsOf(disk);
  if (scheme === 'none') return [];
  return partitions.map(({ number, at: start, length: size, name: label }) => ({
    ...stretch,
    its: `${its} p${number}`,
    folder: `${folder}-p${number}`,
    described: true,
    label,
    start,
    size,
  }));
}

async function firstOf(source: VolumeSource): Promise<Volume | null> {
  for (const reader of readers) {
    const volume = await openSafely(reader, source);
    if (volume !== null) return volume;
  }
  return null;
}
