import type { VolumeReader } from '../contracts.ts';
import { openFileSystem } from './filesystem.ts';
import { free } from './free.ts';
import { labelOf, rootOf } from './nodes.ts';

/** NTFS. The log is not replayed: backups that Windows made of its own volumes are whole without it. */
export const ntfs: VolumeReader = {
  name: 'ntfs',
  async open(source) {
    const its = await openFileSystem(source);
    if (its === null) return null;
    const root = await rootOf(its);
    return { type: 'ntfs', label: await labelOf(its), warnings: [], root, free: found => free(its, found) };
  },
};
