/** The volumes of a disk, each by the reader that knows it. */
import type { Disk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { btrfs } from './btrfs/index.ts';
import type { Volume, VolumeReader } from './contracts.ts';
import { ext } from './ext/index.ts';
import { exfat } from './fat/exfat.ts';
import { fat } from './fat/fat.ts';
import { ntfs } from './ntfs/index.ts';
import { type Partition, partitionsOf } from './partitions.ts';
import { openSafely } from './safe.ts';
import { type MetadataCache, volumeSource } from './source.ts';
import { xfs } from './xfs/index.ts';

const readers: readonly VolumeReader[] = [ntfs, exfat, ext, xfs, btrfs, fat];

export interface FoundVolume {
  readonly partition: Partition;
  /** `p1-ntfs-System`: partition, type, label. */
  readonly name: string;
  readonly volume: Volume;
}

export interface DiskVolumes {
  readonly volumes: readonly FoundVolume[];
  /** One line each: volumes that are known but cannot be read, and what is odd about the others. */
  readonly notes: readonly string[];
}

/** The label, or what GPT calls the partition: `p2-ext4-root`. */
function volumeName({ number, name }: Partition, volume: Volume): string {
  const label = (volume.label || name).replaceAll(/\s+/g, ' ').trim().slice(0, 64);
  return [`p${number}`, volume.type, ...(label === '' ? [] : [label])].join('-');
}

/**
 * Opens every volume of a disk. `name` is the disk's, for messages. One that cannot be read becomes a note; an error of
 * reading the disk itself is thrown.
 */
export async function openVolumes(disk: Disk, name: string, cache: MetadataCache): Promise<DiskVolumes> {
  const table = await partitionsOf(disk);
  const volumes: FoundVolume[] = [];
  const notes: string[] = table.warnings.map(warning => `${name}: ${warning}`);
  for (const partition of table.partitions) {
    const its = `${name} p${partition.number}`;
    const source = volumeSource({ name: its, disk, start: partition.at, size: partition.length, cache });
    try {
      const volume = await firstOf(source);
      if (volume === null) continue;
      volumes.push({ partition, name: volumeName(partition, volume), volume });
      notes.push(...volume.warnings.map(warning => `${its}: ${warning}`));
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      notes.push(`${its} cannot be read: ${error.message}`);
    }
  }
  return { volumes, notes };
}

async function firstOf(source: ReturnType<typeof volumeSource>): Promise<Volume | null> {
  for (const reader of readers) {
    const volume = await openSafely(reader, source);
    if (volume !== null) return volume;
  }
  return null;
}
