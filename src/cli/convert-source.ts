/** What a conversion reads, and every file that takes part in it. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import type { Adapter, Disk, Image, Keyring, Scratch, Store } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { openSource } from './source.ts';

export interface ConvertSource extends AsyncDisposable {
  readonly disk: Disk;
  /** Name of the format that was read; null for a block device. */
  readonly format: string | null;
  readonly warnings: readonly string[];
  /** Paths of the files that are read. */
  readonly files: readonly string[];
  /** The same as long as none of the files changes; null where that cannot be told, and nothing can be continued. */
  readonly identity: string | null;
}

/** A file system in user space need not tell when a file changes: a clone of a mount does not. */
const FUSE = 0x65735546;
/** A Parallels disk is a folder; this file in it is the disk. */
const BUNDLE = 'DiskDescriptor.xml';

interface Watch {
  readonly adapters: readonly Adapter[];
  readonly files: Set<string>;
  readonly images: Image[];
}

/** The adapters, remembering what they open. Stores of a single file: names are relative to its folder. */
function watched(adapters: readonly Adapter[], scratch: Scratch): Watch {
  const files = new Set<string>();
  const images: Image[] = [];
  const remembering = (store: Store): Store => ({
    ...store,
    async open(name) {
      const source = await store.open(name);
      files.add(path.join(path.dirname(path.resolve(store.label)), name));
      return source;
    },
  });
  const watching = (adapter: Adapter): Adapter => ({
    ...adapter,
    async open(name, store, keys) {
      const image = await adapter.open(name, remembering(store), keys, scratch);
      images.push(image);
      return image;
    },
  });
  return { adapters: adapters.map(watching), files, images };
}

/** By what the file system says of every file that is read. */
function identityOf(files: Iterable<string>, disk: Disk): string | null {
  const digest = createHash('sha256').update(`${disk.id} ${disk.size}`);
  let known = false;
  for (const file of files) {
    if (fs.statfsSync(file).type === FUSE) return null;
    const { dev, ino, size, mtimeNs } = fs.statSync(file, { bigint: true });
    digest.update(`\n${dev} ${ino} ${size} ${mtimeNs}`);
    known = true;
  }
  return known ? digest.digest('hex') : null;
}

const bundleIn = (source: string): string => {
  const inside = path.join(source, BUNDLE);
  return fs.statSync(source, { throwIfNoEntry: false })?.isDirectory() && fs.existsSync(inside) ? inside : source;
};

/** 'usage' for more than one disk: a file holds one. */
export async function openConvertSource(
  source: string,
  format: string | null,
  adapters: readonly Adapter[],
  keys: Keyring,
  scratch: Scratch,
): Promise<ConvertSource> {
  const watch = watched(adapters, scratch);
  await using opening = new AsyncDisposableStack();
  const opened = opening.use(await openSource(bundleIn(source), format, watch.adapters, keys));
  const first = watch.images[0];
  const count = Math.max(opened.disks.length, first?.points.findLast(p => p.type !== 'snapshot')?.disks.length ?? 1);
  if (count !== 1) {
    const hint =
      first === undefined ? 'name one of its disk files' : `bootmount restore SET FILE --repo ${source} --disk NAME`;
    throw new ImageError('usage', `it holds ${count} disks, and a file takes one`, { file: source }, { hint });
  }
  const { disk } = opened.disks[0]!;
  const owned = opening.move();
  return {
    disk,
    format: first?.adapter ?? null,
    warnings: opened.warnings,
    files: watch.files.size === 0 ? [source] : [...watch.files],
    identity: identityOf(watch.files, disk),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
