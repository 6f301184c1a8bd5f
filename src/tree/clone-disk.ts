/** One disk of a clone: its overlay, and the writable view with the patch that lies over the view's own bytes. */
import fs from 'node:fs';
import path from 'node:path';
import type { Bytes, Disk, DiskFormat, OpenFile, VirtualFile } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { replaceFile } from '../base/files.ts';
import { type Overlay, openOverlay } from '../overlay/overlay.ts';
import { computedDisk, type Growth, openWritableView } from '../views/writable.ts';
import { spaceOf } from './space.ts';

export interface CloneDisk {
  readonly views: readonly { readonly name: string; readonly file: VirtualFile; open(): OpenFile }[];
  sizeOf(file: VirtualFile): Bytes;
  allocated(file: VirtualFile): Bytes | Promise<Bytes>;
  flush(): Promise<void>;
  /** Everything is durable when it resolves, or it throws. */
  close(): Promise<void>;
}

export interface CloneDiskSpec {
  /** The clone's folder. */
  readonly folder: string;
  /** `disk0`, … */
  readonly name: string;
  readonly base: Disk;
  readonly format: DiskFormat;
  readonly clone: { readonly name: string; readonly identity: string };
}

/** QEMU appends to a QCOW2 file when it makes internal snapshots or bitmaps: so much may follow the layout's end. */
const growthLimit = (size: Bytes): Bytes => 2 * size + 64 * 2 ** 20;
/** A stat looks at so many extents before st_blocks becomes an estimate. */
const STAT_BUDGET = 1024;

/** The size that a grown view has reached, kept in a file of its own beside the patch. */
function keptGrowth(home: string, layoutSize: Bytes): Growth {
  const file = path.join(home, 'size');
  let size = layoutSize;
  if (fs.existsSync(file)) {
    size = Number(fs.readFileSync(file, 'utf8'));
    if (!Number.isSafeInteger(size) || size < layoutSize)
      throw new ImageError('corrupt', 'is not a size of this view', { file });
  }
  return {
    limit: growthLimit(layoutSize),
    size: () => size,
    async extend(to) {
      await replaceFile(file, String(to));
      size = Math.max(size, to);
    },
  };
}

/** Opens the overlay that is there, or makes one. */
async function overlayIn(folder: string, base: Disk, baseIdentity: string): Promise<Overlay> {
  try {
    return await openOverlay(folder, base, { create: false, baseIdentity });
  } catch (error) {
    if (!(error instanceof ImageError) || error.fault !== 'not-found') throw error;
    return openOverlay(folder, base, { create: true, baseIdentity });
  }
}

export async function openCloneDisk(spec: CloneDiskSpec): Promise<CloneDisk> {
  const { base, name, format, clone } = spec;
  // A clone is another disk than its base and than its sisters: its views carry identifiers of their own.
  const id = `${base.id}/clone/${clone.name}`;
  const files = format.layout({ ...base, id }, { writable: true, name });
  const disk = await overlayIn(path.join(spec.folder, name), base, clone.identity);
  const views: CloneDisk['views'][number][] = [];
  const patches: {
    readonly patch: Overlay;
    readonly growth: Growth | null;
    readonly file: VirtualFile;
  }[] = [];
  try {
    for (const file of files) {
      const fileName = `${name}${file.suffix}`;
      if (format.name === 'raw') {
        views.push({ name: fileName, file, open: () => openWritableView(file, disk, null) });
        continue;
      }
      const home = path.join(spec.folder, `${fileName}.patch`);
      const growth = format.name === 'qcow2' ? keptGrowth(home, file.size) : null;
      const computed = computedDisk(file, base, `${id}${file.suffix}`, growth?.limit ?? file.size);
      const patch = await overlayIn(home, computed, `${clone.identity}${file.suffix}`);
      patches.push({ patch, growth, file });
      views.push({ name: fileName, file, open: () => openWritableView(file, disk, patch, growth) });
    }
  } catch (error) {
    for (const { patch } of patches) await patch.close();
    await disk.close();
    throw error;
  }
  const patchOf = (file: VirtualFile): (typeof patches)[number] | undefined => patches.find(p => p.file === file);
  return {
    views,
    sizeOf: file => patchOf(file)?.growth?.size() ?? file.size,
    allocated: file => spaceOf(file, disk, STAT_BUDGET, patchOf(file)?.patch ?? null),
    async flush() {
      await disk.flush();
      for (const { patch } of patches) await patch.flush();
    },
    async close() {
      const ends = await Promise.allSettled([disk, ...patches.map(p => p.patch)].map(overlay => overlay.close()));
      for (const end of ends) if (end.status === 'rejected') throw end.reason;
    },
  };
}
