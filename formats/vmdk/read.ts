/** VMDK files as backup images. */
import type { Adapter, Confidence, Image, ImagePoint, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { looksLikeDescriptor } from './descriptor.ts';
import { type OpenedDisk, openDisk } from './disk.ts';
import { partName } from './names.ts';
import { magicOf, SECTOR } from './structs.ts';
import { verifyDisk } from './verify.ts';

function pointOf(disk: OpenedDisk): ImagePoint {
  const { id, parent, differencing, size, stored, layer, identity, problem } = disk;
  return {
    id,
    parent,
    set: null,
    time: null,
    type: differencing ? 'incremental' : 'full',
    disks: [{ name: 'disk0', size, sectorSize: SECTOR, stored, layer }],
    identity,
    problem,
  };
}

async function openImage(name: string, store: Store): Promise<Image> {
  const source = await store.open(name);
  if (source.size === 0) {
    await source[Symbol.asyncDispose]();
    throw new ImageError('not-this-format', 'an empty file is no disk', { file: name, at: 0 });
  }
  const disk = await openDisk(name, source, other => store.open(other));
  const image = { adapter: 'vmdk', name, encrypted: false } as const;
  // A part of a disk says nothing by itself: its descriptor does.
  if (disk === null) return { ...image, points: [], warnings: [], async [Symbol.asyncDispose]() {} };
  return {
    ...image,
    points: [pointOf(disk)],
    warnings: disk.warnings,
    verify: run => verifyDisk(disk, name, run),
    async [Symbol.asyncDispose]() {
      for (const each of disk.sources) await each[Symbol.asyncDispose]();
    },
  };
}

/** A part that is raw data is known by its name only; opening it finds out whether a descriptor lists it. */
function probe(head: Uint8Array, _tail: Uint8Array, name: string): Confidence {
  if (head.length === 0) return 'no';
  if (magicOf(head) !== null || looksLikeDescriptor(head)) return 'certain';
  return partName(name)?.flat === true ? 'maybe' : 'no';
}

/** Reads VMDK disks of VMware products, VirtualBox and QEMU, and the chains of their snapshots. */
export const vmdk: Adapter = {
  name: 'vmdk',
  title: 'VMware virtual disk',
  extensions: ['.vmdk'],
  supports: { differencing: true, encryption: false, compression: true, write: false },
  probe,
  open: openImage,
};
