/**
 * Signs that a stretch is, or serves, something else than the file system that was found in it: what a file system has free
 * is in use then. Sources: OpenZFS "ZFS On-Disk Specification"; Linux `mm/swapfile.c`, `kernel/power/swap.c`; libvshadow,
 * "Volume Shadow Snapshot (VSS) format"; superblocks of JFS, ReiserFS and bcache as their documentation places them.
 */
import type { Bytes, Disk } from '../base/contracts.ts';
import { readers } from './readers.ts';
import { openSafely } from './safe.ts';
import { MetadataCache, volumeSource } from './source.ts';
import type { FoundVolume } from './volumes.ts';

const SWAP = /^(SWAP-SPACE|SWAPSPACE2)/;
const SUSPENDED = /^(S1SUSPEND|S2SUSPEND|ULSUSPEND|LINHIB0001)/;
/** The end of the first page, for the sizes of a page that Linux has. */
const SWAP_AT: readonly Bytes[] = [4086, 8182, 16_374, 65_526];
const NAMED: readonly (readonly [at: Bytes, sign: string, name: string])[] = [
  [32_768, 'JFS1', 'JFS'],
  [65_588, 'ReIsEr', 'ReiserFS'],
  [8212, 'ReIsEr', 'ReiserFS'],
];
const BCACHE = Buffer.from('c68573f64e1a45ca8265f57f48ba6d81', 'hex');
const BCACHE_AT = 4120;
const ZFS_RING = { at: 131_072, length: 131_072, step: 1024 };
const ZFS_MAGIC = 0x00bab10c;
const SHADOW_AT = 0x1e00;
const SHADOW = Buffer.from('6b87083876c1484eb7ae04046e6cc752', 'hex');
const CACHE = 1_048_576;

async function bytesAt({ disk, start, size }: Place, at: Bytes, length: number): Promise<Buffer | null> {
  if (at + length > size) return null;
  const into = Buffer.alloc(length);
  await disk.read(into, start + at);
  return into;
}

interface Place {
  readonly disk: Disk;
  readonly start: Bytes;
  readonly size: Bytes;
}

async function isZfs(place: Place): Promise<boolean> {
  const ring = await bytesAt(place, ZFS_RING.at, ZFS_RING.length);
  if (ring === null) return false;
  for (let at = 0; at < ring.length; at += ZFS_RING.step) {
    if (ring.readUInt32LE(at) === ZFS_MAGIC && ring.readUInt32LE(at + 4) === 0) return true;
    if (ring.readUInt32BE(at + 4) === ZFS_MAGIC && ring.readUInt32BE(at) === 0) return true;
  }
  return false;
}

async function swapSigns(place: Place): Promise<readonly string[]> {
  const signs: string[] = [];
  for (const at of SWAP_AT) signs.push((await bytesAt(place, at, 10))?.toString('latin1') ?? '');
  return signs;
}

/** Whether a system sleeps there that has file systems open, in a state that is not on their volumes. */
export const isSuspended = async (place: Place): Promise<boolean> =>
  (await swapSigns(place)).some(sign => SUSPENDED.test(sign));

async function namedSign(place: Place): Promise<string | null> {
  if ((await swapSigns(place)).some(sign => SWAP.test(sign) || SUSPENDED.test(sign))) return 'swap space';
  for (const [at, sign, name] of NAMED) {
    if ((await bytesAt(place, at, sign.length))?.toString('latin1') === sign) return name;
  }
  if ((await bytesAt(place, BCACHE_AT, BCACHE.length))?.equals(BCACHE) === true) return 'bcache';
  return (await isZfs(place)) ? 'ZFS' : null;
}

/** Shadow copies of Windows keep what was overwritten, and count on what only was given up. */
async function hasShadowCopies(place: Place): Promise<boolean> {
  const header = await bytesAt(place, SHADOW_AT, 64);
  return header?.subarray(0, 16).equals(SHADOW) === true && header.readBigUInt64LE(48) !== 0n;
}

/** Why the free space of a volume may be in use all the same; null: nothing says so. */
export async function otherSign(found: FoundVolume): Promise<string | null> {
  const { volume, name, disk, start, size } = found;
  const sign = await namedSign(found);
  if (sign !== null) return `it looks like ${sign} too`;
  if (volume.type === 'ntfs' && (await hasShadowCopies(found)))
    return 'it has shadow copies, which use what is free now';
  const source = volumeSource({ name, disk, start, size, cache: new MetadataCache(CACHE) });
  for (const reader of readers) {
    // Each of a family says so itself: `ext4` is found by `ext`.
    if (volume.type.startsWith(reader.name)) continue;
    const other = await openSafely(reader, source).then(
      its => its !== null,
      () => true,
    );
    if (other) return `it looks like ${reader.name} too`;
  }
  return null;
}
