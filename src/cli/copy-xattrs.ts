/** Extended attributes of what `cp` copies. */
import { native } from '../base/native.ts';
import type { PointNode } from '../files/point-files.ts';
import { nameBytes } from '../volumes/names.ts';

/** What belongs to a file wherever it is, and what goes with its owners. */
const ALWAYS = /^user\./;
const WITH_OWNERS = /^(user\.|trusted\.|system\.posix_acl_)/;
/** XFS shows its access lists twice. */
const TWICE = /^trusted\.SGI_ACL_/;

/**
 * Sets those of a node on an open file or folder, or on what lies at a path. How many could not be
 * kept: refused by the file system, or of a kind that is not taken along.
 */
export async function copyXattrs({ xattrs }: PointNode, at: number | string, owners: boolean): Promise<number> {
  if (xattrs === undefined) return 0;
  const wanted = owners ? WITH_OWNERS : ALWAYS;
  let lost = 0;
  for (const [name, value] of await xattrs()) {
    // What only NTFS has a place for.
    if (name.startsWith('system.ntfs_') || TWICE.test(name)) continue;
    const bytes = nameBytes(name);
    const kept = wanted.test(name) && bytes !== null && native()?.setXattr(at, bytes, value) === true;
    if (!kept) lost++;
  }
  return lost;
}
