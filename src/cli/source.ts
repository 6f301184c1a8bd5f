/** What a backup reads: a disk file with its own chain, a block device, or the disks of a clone. */
import fs from 'node:fs';
import path from 'node:path';
import type { Adapter, Disk, Keyring } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { openFile } from '../base/io.ts';
import { type DiskFile, openDiskFile } from '../chain/file.ts';
import { localFileStore } from '../stores/local.ts';

export interface SourceDisk {
  readonly name: string;
  readonly disk: Disk;
}

export interface Source extends AsyncDisposable {
  readonly disks: readonly SourceDisk[];
  readonly warnings: readonly string[];
}

/** `format` null: by content, except that a name ending in `.raw` is taken at its word. */
export async function openSource(
  source: string,
  format: string | null,
  adapters: readonly Adapter[],
  keys: Keyring,
): Promise<Source> {
  const stat = fs.statSync(source, { throwIfNoEntry: false });
  if (stat === undefined) throw new ImageError('not-found', 'no such file or directory', { file: source });
  if (stat.isDirectory()) return openClone(source, adapters, keys);
  if (stat.isBlockDevice()) {
    const disk = await openDevice(source, stat.rdev);
    return { disks: [{ name: 'disk0', disk }], warnings: [], [Symbol.asyncDispose]: disk[Symbol.asyncDispose] };
  }
  const file = await openAs(source, format ?? (source.endsWith('.raw') ? 'raw' : null), adapters, keys);
  return {
    disks: [{ name: 'disk0', disk: file.disk }],
    warnings: file.warnings,
    [Symbol.asyncDispose]: () => file[Symbol.asyncDispose](),
  };
}

/**
 * A file whose format is declared is never read as another one: the guest writes the first bytes of a raw disk, and could
 * otherwise make it look like an image that refers to files of the host.
 */
async function openAs(
  file: string,
  format: string | null,
  adapters: readonly Adapter[],
  keys: Keyring,
): Promise<DiskFile> {
  const allowed = format === 'raw' ? adapters.filter(adapter => adapter.name === 'raw') : adapters;
  if (format !== null && !adapters.some(adapter => adapter.name === format)) {
    const known = adapters.map(adapter => adapter.name).join(', ');
    throw new ImageError('usage', `${JSON.stringify(format)} is no format; there are ${known}`, { file });
  }
  const opened = await openDiskFile(path.basename(file), localFileStore(file), allowed, keys);
  if (format === null || opened.adapter === format) return opened;
  await opened[Symbol.asyncDispose]();
  throw new ImageError('not-this-format', `should be ${format} but is ${opened.adapter}`, { file });
}

async function openDevice(source: string, rdev: number): Promise<Disk> {
  const file = await openFile(source, 'read');
  return {
    id: source,
    size: file.size,
    sectorSize: logicalBlockSize(rdev),
    extent: (_at, limit) => ({ kind: 'data', length: limit }),
    load: async () => {},
    read: (into, at) => file.read(into, at),
    [Symbol.asyncDispose]: () => file[Symbol.asyncDispose](),
  };
}

/** From sysfs; a partition's is its disk's. */
function logicalBlockSize(rdev: number): 512 | 4096 {
  // The device number as Linux packs it (glibc gnu_dev_major): both halves fit 32 bits.
  const major = Math.floor(rdev / 256) % 4096;
  const minor = (rdev % 256) + Math.floor(rdev / 2 ** 20) * 256;
  for (const at of ['queue', '../queue']) {
    try {
      const text = fs.readFileSync(`/sys/dev/block/${major}:${minor}/${at}/logical_block_size`, 'utf8');
      return Number(text) === 4096 ? 4096 : 512;
    } catch {
      // The other place has it.
    }
  }
  return 512;
}

interface CloneDisk {
  readonly name: string;
  readonly file: string;
  readonly format: string;
}

/** `clone.json` names its disk files; a name that leads elsewhere is refused. */
function readCloneDisks(folder: string): readonly CloneDisk[] {
  const file = path.join(folder, 'clone.json');
  let parsed: unknown;
  try {
    parsed = JSON.parse(fs.readFileSync(file, 'utf8'));
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') {
      const message = 'the folder is no clone of a mount: it has no clone.json';
      throw new ImageError('not-found', message, { file: folder }, { cause });
    }
    if (cause instanceof SyntaxError) throw new ImageError('corrupt', 'is not JSON', { file }, { cause });
    throw cause;
  }
  const disks = (parsed as { disks?: unknown } | null)?.disks;
  if (!Array.isArray(disks) || disks.length === 0) throw new ImageError('corrupt', 'names no disks', { file });
  return disks.map((disk: Partial<CloneDisk> | null) => {
    const { name, file: its, format } = disk ?? {};
    if (typeof name !== 'string' || typeof its !== 'string' || typeof format !== 'string') {
      throw new ImageError('corrupt', 'a disk without name, file or format', { file });
    }
    if (its !== path.basename(its) || its === '..' || its === '.') {
      throw new ImageError('corrupt', `${JSON.stringify(its)} leads out of the clone`, { file });
    }
    return { name, file: its, format };
  });
}

async function openClone(folder: string, adapters: readonly Adapter[], keys: Keyring): Promise<Source> {
  await using opened = new AsyncDisposableStack();
  const disks: SourceDisk[] = [];
  const warnings: string[] = [];
  for (const { name, file, format } of readCloneDisks(folder)) {
    const its = opened.use(await openAs(path.join(folder, file), format, adapters, keys));
    disks.push({ name, disk: its.disk });
    warnings.push(...its.warnings);
  }
  const owned = opened.move();
  return { disks, warnings, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}
