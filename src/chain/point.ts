/** What a repository shows: sets, restore points, disks. Built by `repository.ts`. */
import type { Bytes, Disk, Layer, PointType } from '../base/contracts.ts';
import type { ImageError } from '../base/errors.ts';

export interface PointDisk {
  readonly name: string;
  readonly size: Bytes;
  readonly sectorSize: 512 | 4096;
  /** Bytes that this point's own image stores for the disk. */
  readonly stored: Bytes;
}

export interface RestorePoint {
  readonly set: string;
  readonly name: string;
  readonly time: Date | null;
  readonly type: PointType;
  readonly adapter: string;
  readonly disks: readonly PointDisk[];
  readonly state: 'ok' | 'locked' | 'broken';
  readonly problem: ImageError | null;
  /** Digest over the identities of every image it is read from: a clone is bound to it. */
  readonly identity: string;
  /** The image file it ends at, as named in the store. */
  readonly file: string;
  /** Every image file it is read from, base first. */
  readonly files: readonly string[];
  /** Name of the point it builds on, in the same set; null for a full. */
  readonly parent: string | null;
  /** Reads the disk through its whole chain. Throws `problem` when the state is not ok. */
  openDisk(index: number): Promise<Disk>;
  /** What the disk is read through, base first; points of one chain share them. Throws as `openDisk` does. */
  layers(index: number): readonly Layer[];
}

export interface BackupSet {
  readonly name: string;
  readonly adapter: string;
  readonly encrypted: boolean;
  /** Oldest first. */
  readonly points: readonly RestorePoint[];
}

export interface Repository extends AsyncDisposable {
  readonly label: string;
  readonly sets: readonly BackupSet[];
  /** Files that no adapter claims. */
  readonly unknown: readonly string[];
  readonly warnings: readonly string[];
}
