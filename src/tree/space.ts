import type { Bytes, Extents, VirtualFile } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { allocatedOf } from '../views/view.ts';

/**
 * Bytes of a view that are not holes, for st_blocks. A damaged table is an error where it is read, and no reason to hide
 * the whole file: the view then counts as full.
 */
export async function spaceOf(
  file: VirtualFile,
  disk: Extents,
  budget: number,
  others: Extents | null = null,
): Promise<Bytes> {
  try {
    return await allocatedOf(file, disk, budget, others);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    return file.size;
  }
}
