import { bml } from '../../../formats/bml/index.ts';
import { memoryStore } from '../../../src/stores/memory.ts';
import { adapterTarget, SECRET, type Seed, seedContent } from '../target.ts';

const BLOCK = 65_536;

async function seeds(): Promise<readonly Seed[]> {
  const disk = seedContent();
  const made: Seed[] = [];
  for (const secret of [null, SECRET]) {
    const store = memoryStore();
    await using writer = await bml.create!('a.bml', store, {
      set: 'fuzz',
      time: new Date(0),
      type: 'full',
      disks: [{ name: 'disk0', size: disk.length, sectorSize: 512 }],
      blockSize: BLOCK,
      parent: null,
      secret,
      compression: 1,
    });
    for (let block = 0; block * BLOCK < disk.length; block++)
      await writer.write(0, block, disk.subarray(block * BLOCK, (block + 1) * BLOCK));
    await writer.commit();
    made.push({
      title: secret === null ? 'plain' : 'encrypted',
      name: 'a.bml',
      files: { 'a.bml': store.bytes('a.bml') },
    });
  }
  return made;
}

export const target = adapterTarget(bml, [], seeds);
