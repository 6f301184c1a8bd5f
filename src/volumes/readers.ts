/** The readers of file systems, in the order in which they look at a stretch. */
import { btrfs } from './btrfs/index.ts';
import type { VolumeReader } from './contracts.ts';
import { ext } from './ext/index.ts';
import { exfat } from './fat/exfat.ts';
import { fat } from './fat/fat.ts';
import { iso } from './iso/index.ts';
import { ntfs } from './ntfs/index.ts';
import { xfs } from './xfs/index.ts';

export const readers: readonly VolumeReader[] = [ntfs, exfat, ext, xfs, btrfs, fat, iso];
