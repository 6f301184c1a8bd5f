import type { VolumeReader } from '../contracts.ts';
import { fieldText } from '../names.ts';
import type { VolumeSource } from '../source.ts';
import { type Ext, extFileSystem, readSuperblock } from './filesystem.ts';
import { free } from './free.ts';
import { type Replay, readJournal } from './journal.ts';
import { mapOf } from './map.ts';
import { rootOf } from './nodes.ts';
import { SUPERBLOCK_AT, Superblock, type SuperblockFields } from './structs.ts';

/** What the journal of a system that was not shut down holds; null: nothing. */
async function replayFor(ext: Ext): Promise<Replay | null> {
  const { source, superblock, blockSize } = ext;
  if (!ext.has('needs_recovery') || superblock.journalInode === 0) return null;
  const inode = await ext.inode(superblock.journalInode);
  return readJournal(source, await mapOf(ext, inode), inode.size, blockSize);
}

/** The superblock as the journal leaves it. */
async function replayedSuperblock(source: VolumeSource, ext: Ext, replay: Replay): Promise<SuperblockFields> {
  const { blockSize } = ext;
  const copy = replay.find(Math.floor(SUPERBLOCK_AT / blockSize));
  if (copy === null) return ext.superblock;
  return Superblock.parse(await replay.read(copy), SUPERBLOCK_AT % blockSize, source.name);
}

/** ext2, ext3 and ext4, whole or with a journal to replay. */
export const ext: VolumeReader = {
  name: 'ext',
  async open(source) {
    const superblock = await readSuperblock(source);
    if (superblock === null) return null;
    let its = extFileSystem(source, superblock, null);
    const replay = await replayFor(its);
    if (replay !== null) its = extFileSystem(source, await replayedSuperblock(source, its, replay), replay);
    return {
      type: its.type,
      label: fieldText(superblock.label),
      warnings: replay?.warnings ?? [],
      root: await rootOf(its),
      free: found => free(its, found),
    };
  },
};
