/** Stretches of disks, in which file systems are looked for: partitions, and what is put together or deciphered from them. */
import type { Bytes, Disk } from '../base/contracts.ts';

/** A place on one of the disks of a point. */
export interface Place {
  /** Index of the disk. */
  readonly disk: number;
  readonly at: Bytes;
  readonly length: Bytes;
  /** Others count on the bytes there: a parity, a mirror, a snapshot, or another volume in the same place. */
  readonly shared: boolean;
}

export interface Stretch {
  /** For messages: `disk0 p1`, `lvm vg0/root`. */
  readonly its: string;
  /** How the name of its folder begins: `p1`, `lvm-vg0-root`. */
  readonly folder: string;
  /** The folder's name goes on with type and label of the volume. */
  readonly described: boolean;
  /** A label for volumes that have none; empty: none. */
  readonly label: string;
  readonly disk: Disk;
  readonly start: Bytes;
  readonly size: Bytes;
  /** Where bytes of `disk` lie as they are; 1 <= length <= limit. null: they are stored in another form. */
  place(at: Bytes, limit: Bytes): Place | null;
}
