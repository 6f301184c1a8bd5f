import path from 'node:path';
import type { Adapter, Disk, Keyring, ParentRef, Store } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { folderOf } from './names.ts';
import { DEPTH_LIMIT } from './order.ts';
import { assemble } from './repository.ts';
import { type Identified, identify, openWith } from './scan.ts';

export interface DiskFile extends AsyncDisposable {
  readonly disk: Disk;
  readonly adapter: string;
  readonly warnings: readonly string[];
}

/** Where a parent may be found: by its name, or by the names that the child knew it under, in the child's folder. */
function candidates(parent: ParentRef, child: string): readonly string[] {
  if (parent.by === 'name') return [path.posix.normalize(parent.name)];
  const folder = folderOf(child);
  return parent.names.map(name => (folder === '' ? name : `${folder}/${name}`));
}

/**
 * Opens the image and every image below it, as far as they are there, and one more than a chain may have; a gap shows when
 * the chain is put in order.
 */
async function openChainFiles(
  name: string,
  store: Store,
  adapters: readonly Adapter[],
  keys: Keyring,
): Promise<readonly Identified[]> {
  const raw = adapters.find(adapter => adapter.name === 'raw');
  const opened: Identified[] = [];
  const wanted: { readonly name: string; readonly format: string | null }[] = [{ name, format: null }];
  const asked = new Set<string>();
  for (let next = wanted.shift(); next !== undefined && opened.length <= DEPTH_LIMIT; next = wanted.shift()) {
    if (asked.has(next.name)) continue;
    asked.add(next.name);
    const declared = adapters.find(adapter => adapter.name === next.format) ?? raw;
    let found: Identified | null;
    try {
      found = await identify(next.name, store, adapters, keys);
    } catch (error) {
      if (next.name === name || !(error instanceof ImageError) || error.fault !== 'not-found') throw error;
      continue;
    }
    // What nothing recognises is a raw disk: the user named it as one.
    if (found === null && declared !== undefined) found = await openWith(declared, next.name, store, keys);
    if (found === null) continue;
    opened.push(found);
    for (const { parent } of found.image?.points ?? []) {
      if (parent === null) continue;
      const format = parent.by === 'name' ? parent.format : null;
      wanted.push(...candidates(parent, next.name).map(candidate => ({ name: candidate, format })));
    }
  }
  return opened;
}

/** One disk file as a disk, with the backing files that lie in its store; nothing else there is looked at. */
export async function openDiskFile(
  name: string,
  store: Store,
  adapters: readonly Adapter[],
  keys: Keyring,
): Promise<DiskFile> {
  const images = await openChainFiles(name, store, adapters, keys);
  const repository = assemble(store.label, images, []);
  try {
    const point = repository.sets.flatMap(set => set.points).findLast(p => p.file === name && p.type !== 'snapshot');
    if (point === undefined)
      throw new ImageError('not-this-format', 'not a disk image of a known format', { file: name });
    const disk = await point.openDisk(0);
    return {
      disk,
      adapter: point.adapter,
      warnings: repository.warnings,
      [Symbol.asyncDispose]: repository[Symbol.asyncDispose],
    };
  } catch (error) {
    await repository[Symbol.asyncDispose]();
    throw error;
  }
}
