/** The disks of a Clonezilla image, put together from partitions, partition tables and the sectors between. */
import { assembleDisk, type DiskPart } from '../../src/base/assemble.ts';
import type { ByteSource, Bytes, Layer, LayerId, Scratch } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { lazySource } from '../../src/base/lazy.ts';
import { roundUp } from '../../src/base/range.ts';
import { isExtended } from './extended.ts';
import { type Folder, type Stream, streamOf, textFile } from './folder.ts';
import { openSaved, rawVolume, type SavedVolume } from './saved.ts';
import { swapHeader } from './swap.ts';
import { type DiskTable, type Partition, readTable } from './tables.ts';

interface AssembledDisk {
  readonly name: string;
  readonly size: Bytes;
  readonly sectorSize: 512 | 4096;
  readonly stored: Bytes;
  readonly layer: Layer;
}

export interface ImageParts {
  readonly disks: readonly AssembledDisk[];
  readonly volumes: readonly { readonly name: string; readonly saved: SavedVolume }[];
  /** To be closed with the image, beside the volumes. */
  readonly sources: readonly ByteSource[];
  readonly warnings: readonly string[];
  /** The first thing that keeps the image from being read. */
  readonly problem: ImageError | null;
}

/** What is collected on the way. */
interface Found {
  readonly folder: Folder;
  readonly scratch: Scratch | undefined;
  /** Names in `parts`. */
  readonly names: readonly string[];
  readonly volumes: { readonly name: string; readonly saved: SavedVolume }[];
  readonly sources: ByteSource[];
  readonly warnings: string[];
  readonly problems: ImageError[];
}

/** `sda1` and `nvme0n1p1` as partitions of `sda` and `nvme0n1`. */
const partName = (disk: string, number: number): string => `${disk}${/\d$/.test(disk) ? 'p' : ''}${number}`;

const collect = (found: Found, error: unknown): null => {
  if (!(error instanceof ImageError)) throw error;
  found.problems.push(error);
  return null;
};

async function swapOf({ folder }: Found, name: string, at: Bytes, length: Bytes): Promise<DiskPart | null> {
  const text = await textFile(folder, `swappt-${name}.info`);
  if (text === null) return null;
  return { at, bytes: swapHeader(text, length), name: `${folder.path}swappt-${name}.info` };
}

async function openPartition(found: Found, name: string, room: Bytes | null): Promise<SavedVolume | null> {
  const { folder, scratch } = found;
  const stream = streamOf(folder, name);
  if (stream === null) {
    const file = `${folder.path}parts`;
    return collect(
      found,
      new ImageError('broken-chain', `nothing was saved of ${name}, which is named here`, { file }),
    );
  }
  try {
    const saved = await openSaved(folder, stream, scratch, room);
    found.volumes.push({ name, saved });
    found.warnings.push(...saved.warnings);
    if (room === null || saved.size === null || saved.size <= room) return saved;
    const message = `holds ${saved.size} bytes, more than the ${room} of its partition`;
    return collect(found, new ImageError('corrupt', message, { file: folder.path + stream.stem }));
  } catch (error) {
    return collect(found, error);
  }
}

/** null: nothing lies there but zeros. */
async function partitionPart(found: Found, disk: string, partition: Partition): Promise<DiskPart | null> {
  const name = partName(disk, partition.number);
  const { at, length } = partition;
  const swap = await swapOf(found, name, at, length);
  if (swap !== null) return swap;
  if (isExtended(partition) || !(await isSaved(found, name))) return null;
  const saved = await openPartition(found, name, length);
  return saved === null ? null : { at, length: Math.min(length, saved.size ?? length), volume: saved.volume };
}

async function isSaved(found: Found, name: string): Promise<boolean> {
  if (found.names.includes(name)) return true;
  found.warnings.push(`${name} was not saved: it reads as zeros`);
  return false;
}

/** Sectors between the boot sector and the first partition, where boot loaders lie. */
function hiddenPart(found: Found, disk: string, table: DiskTable): DiskPart | null {
  const entry = found.folder.entries.get(`${disk}-hidden-data-after-mbr`);
  if (entry === undefined) return null;
  const at = table.sectorSize;
  const first = table.partitions.reduce((least, partition) => Math.min(least, partition.at), table.size);
  const source = lazySource(found.folder.store, entry.name, entry.size);
  found.sources.push(source);
  return { at, length: Math.min(entry.size, Math.max(0, first - at)), volume: rawVolume(source) };
}

async function assemble(found: Found, disk: string): Promise<AssembledDisk | null> {
  const table = await readTable(found.folder, disk).catch((error: unknown) => collect(found, error));
  if (table === null) return null;
  found.warnings.push(...table.warnings);
  const parts: (DiskPart | null)[] = [hiddenPart(found, disk, table)];
  const before = found.volumes.length;
  for (const partition of table.partitions) parts.push(await partitionPart(found, disk, partition));
  const stored = found.volumes.slice(before).reduce((sum, { saved }) => sum + saved.stored, 0);
  refuseUnplaced(found, disk, table);
  const { size, sectorSize } = table;
  const id = `clonezilla:${found.folder.path}${disk}` as LayerId;
  const all = [...parts.filter(part => part !== null), ...table.parts];
  return { name: disk, size, sectorSize, stored, layer: assembleDisk({ id, size, parts: all }) };
}

const isOf = (disk: string, name: string): boolean => name.startsWith(disk) && /^p?\d+$/.test(name.slice(disk.length));

/** What was saved and has no place on its disk must not get lost in silence. */
function refuseUnplaced({ folder, names, problems }: Found, disk: string, { partitions }: DiskTable): void {
  const placed = new Set(partitions.map(({ number }) => partName(disk, number)));
  const lost = names.find(name => isOf(disk, name) && !placed.has(name));
  if (lost === undefined) return;
  const file = `${folder.path}${disk}-pt.sf`;
  problems.push(new ImageError('corrupt', `the partition table does not name ${lost}, which was saved`, { file }));
}

/** A volume by itself: a disk without a partition table. */
function alone(folder: Folder, name: string, { size, stored, volume }: SavedVolume): AssembledDisk {
  const length = roundUp(size ?? 0, 512);
  const id = `clonezilla:${folder.path}${name}` as LayerId;
  const layer = assembleDisk({ id, size: length, parts: [{ at: 0, length, volume }] });
  return { name, size: length, sectorSize: 512, stored, layer };
}

const newFound = (folder: Folder, names: readonly string[], scratch: Scratch | undefined): Found => ({
  folder,
  scratch,
  names,
  volumes: [],
  sources: [],
  warnings: [],
  problems: [],
});

const partsOf = ({ volumes, sources, warnings, problems }: Found, disks: readonly AssembledDisk[]): ImageParts => ({
  disks,
  volumes,
  sources,
  warnings,
  problem: problems[0] ?? null,
});

/** Volumes that logical volumes lie on are not saved themselves. */
function refuseVolumeGroups(found: Found): void {
  if (!found.folder.entries.has('lvm_vg_dev.list')) return;
  const file = `${found.folder.path}lvm_vg_dev.list`;
  found.problems.push(
    new ImageError('unsupported', 'logical volumes (LVM) were saved one by one, and are not put together here', {
      file,
    }),
  );
}

/** `names`: the partitions that were saved. Disks come in the order of the file `disk`, then by name. */
export async function assembleImage(
  folder: Folder,
  names: readonly string[],
  scratch: Scratch | undefined,
): Promise<ImageParts> {
  const found = newFound(folder, names, scratch);
  const listed = ((await textFile(folder, 'disk')) ?? '').split(/\s+/);
  const tables = [...folder.entries.keys()].filter(own => own.endsWith('-pt.sf')).map(own => own.slice(0, -6));
  const rank = (disk: string): number => (listed.includes(disk) ? listed.indexOf(disk) : listed.length);
  const order = tables.toSorted((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
  refuseVolumeGroups(found);
  const disks: AssembledDisk[] = [];
  try {
    for (const disk of order) {
      const assembled = await assemble(found, disk);
      if (assembled !== null) disks.push(assembled);
    }
    const isPlaced = (name: string): boolean => order.some(disk => isOf(disk, name));
    for (const name of names.filter(part => !isPlaced(part))) {
      const saved = await openPartition(found, name, null);
      if (saved !== null) disks.push(alone(folder, name, saved));
    }
  } catch (error) {
    for (const { saved } of found.volumes) await saved[Symbol.asyncDispose]();
    throw error;
  }
  if (disks.length === 0 && found.problems.length === 0) {
    found.problems.push(new ImageError('broken-chain', 'no partition was saved', { file: `${folder.path}parts` }));
  }
  return partsOf(found, disks);
}

/** One saved partition without the image around it. */
export async function lonePart(folder: Folder, stream: Stream, scratch: Scratch | undefined): Promise<ImageParts> {
  const found = newFound(folder, [stream.part], scratch);
  const saved = await openPartition(found, stream.part, null);
  return partsOf(found, saved === null ? [] : [alone(folder, stream.part, saved)]);
}
