import { createHash } from 'node:crypto';
import type { Adapter, ByteSource, Confidence, Image, LayerId, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { DESCRIPTOR, inFolderOf, openBundle, readDescriptor } from './bundle.ts';
import { looksLikeDescriptor } from './descriptor.ts';
import { openExpanding } from './image.ts';
import { HEADER_SIZE, SECTOR, tableUnitOf } from './structs.ts';

const baseName = (name: string): string => name.slice(name.lastIndexOf('/') + 1);
/** How Parallels names the files in a bundle: for the snapshot that they belong to. */
const IN_BUNDLE = /\{[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\}\.hds$/i;

/**
 * Whether the descriptor beside an image names it. By itself such a file may be a fraction of a disk, or only what
 * changed since a snapshot. One whose descriptor cannot be read is not shown as a disk either.
 */
async function isPart(name: string, store: Store): Promise<boolean> {
  let source: ByteSource;
  try {
    source = await store.open(inFolderOf(name, DESCRIPTOR));
  } catch (error) {
    if (error instanceof ImageError && error.fault === 'not-found') return false;
    throw error;
  }
  try {
    const descriptor = await readDescriptor(source);
    return descriptor.stretches.some(stretch => stretch.images.some(image => image.file === baseName(name)));
  } catch (error) {
    if (error instanceof ImageError) return name.toLowerCase().endsWith('.hds');
    throw error;
  } finally {
    await source[Symbol.asyncDispose]();
  }
}

async function openSingle(source: ByteSource, store: Store): Promise<Image> {
  const { name } = source;
  const id = `parallels:${name}` as LayerId;
  const { layer, stored, witness, warnings } = await openExpanding(id, source, false);
  const digest = createHash('sha256').update(String(source.size));
  for (const part of witness) digest.update(part);
  const part = await isPart(name, store);
  const alone = `the file comes from a bundle; without its ${DESCRIPTOR} the disk may be incomplete`;
  const point = {
    id,
    parent: null,
    set: null,
    time: null,
    type: 'full',
    disks: [{ name: 'disk0', size: layer.size, sectorSize: SECTOR, stored, layer }],
    identity: `parallels:${digest.digest('hex')}`,
    problem: null,
  } as const;
  return {
    adapter: 'parallels',
    name,
    encrypted: false,
    // Shown by its bundle.
    points: part ? [] : [point],
    warnings: IN_BUNDLE.test(name) && !part ? [...warnings, alone] : warnings,
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  };
}

const probe = (head: Uint8Array): Confidence =>
  (head.length >= HEADER_SIZE && tableUnitOf(head) !== null) || looksLikeDescriptor(head) ? 'certain' : 'no';

/** Reads Parallels images, single ones and bundles with their snapshots; a bundle is opened by its descriptor. */
export const parallels: Adapter = {
  name: 'parallels',
  title: 'Parallels hard disk',
  extensions: ['.hdd', '.hds', '.xml'],
  supports: { differencing: true, encryption: false, compression: false, write: false },
  probe,
  async open(name, store) {
    const source = await store.open(name);
    try {
      const head = new Uint8Array(Math.min(1024, source.size));
      await source.read(head, 0);
      if (looksLikeDescriptor(head)) return await openBundle(source, store);
      return await openSingle(source, store);
    } catch (error) {
      await source[Symbol.asyncDispose]();
      throw error;
    }
  },
};
