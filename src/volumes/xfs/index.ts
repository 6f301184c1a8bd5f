import type { VolumeReader } from '../contracts.ts';
import { fieldText } from '../names.ts';
import { readSuperblock, xfsFileSystem } from './filesystem.ts';
import { free } from './free.ts';
import { isCleanLog } from './log.ts';
import { rootOf } from './nodes.ts';
import { INCOMPATIBLE_NEEDS_REPAIR } from './structs.ts';

/** XFS version 4 and 5. The log is not replayed, and a volume that needs it says so. */
export const xfs: VolumeReader = {
  name: 'xfs',
  async open(source) {
    const superblock = await readSuperblock(source);
    if (superblock === null) return null;
    const its = xfsFileSystem(source, superblock);
    const warnings: string[] = [];
    if ((superblock.incompatible & INCOMPATIBLE_NEEDS_REPAIR) !== 0 && its.v5)
      warnings.push('the file system says that it needs repair');
    const clean = await isCleanLog(its);
    if (!clean) {
      warnings.push(
        'the system was running when the backup was made: its last changes are in the XFS log, which is not replayed',
      );
    }
    return {
      type: 'xfs',
      label: fieldText(superblock.label),
      warnings,
      root: await rootOf(its),
      async free(found) {
        // The log can hold blocks that the trees of free space still have.
        source.check(warnings.length === 0, warnings.join('; '));
        await free(its, found);
      },
    };
  },
};
