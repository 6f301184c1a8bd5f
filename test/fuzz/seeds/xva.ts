import { content } from '../../../formats/virtnbdbackup/fixtures.ts';
import { xvaFile } from '../../../formats/xva/fixtures.ts';
import { xva } from '../../../formats/xva/index.ts';
import { repairTarSums } from '../tar-sums.ts';
import { adapterTarget, type Seed } from '../target.ts';

const disk = new Uint8Array(3 * 1_048_576 + 70_144);
disk.set(content(40_000, 5), 0);
disk.set(content(30_000, 6), 3 * 1_048_576);
async function seeds(): Promise<readonly Seed[]> {
  const disks = [
    { ref: 'Ref:7', device: '1', content: disk },
    { ref: 'Ref:9', device: '0', content: disk.subarray(0, 1_048_576) },
  ];
  return (['none', 'sha1', 'xxhash'] as const).map(sum => ({
    title: sum,
    name: 'a.xva',
    files: { 'a.xva': xvaFile({ disks, sum, sizes: sum !== 'none' }) },
  }));
}

export const target = adapterTarget(xva, [], seeds, repairTarSums);
