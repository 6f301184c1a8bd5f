import { cowd, descriptor, hosted, seSparse, seSparseEntry } from '../../../formats/vmdk/fixtures.ts';
import { vmdk } from '../../../formats/vmdk/index.ts';
import { qemuSeeds } from '../qemu-seeds.ts';
import { adapterTarget, type Seed } from '../target.ts';

const grain = (n: number, size = 4096): Uint8Array => new Uint8Array(size).fill(n);
const text = (lines: readonly string[], keys: Readonly<Record<string, string>> = {}): Uint8Array =>
  Buffer.from(descriptor(lines, keys));

const byHand: readonly Seed[] = [
  {
    title: 'several extents',
    name: 'm.vmdk',
    files: {
      'm.vmdk': text(['RW 24 SPARSE "m-s001.vmdk"', 'RW 8 ZERO', 'RW 16 FLAT "m-f002.vmdk" 2']),
      'm-s001.vmdk': hosted({ grains: [grain(1), 'zero', grain(2)], grainSize: 4096, perTable: 512 }),
      'm-f002.vmdk': grain(3, 18 * 512),
    },
  },
  {
    title: 'a delta',
    name: 'd.vmdk',
    files: {
      'd.vmdk': text(['RW 24 VMFSSPARSE "d-delta.vmdk"'], {
        parentCID: '0badcafe',
        CID: '12345678',
        createType: '"vmfsSparse"',
        parentFileNameHint: '"base.vmdk"',
      }),
      'd-delta.vmdk': cowd([grain(1), null, grain(2)], 8),
    },
  },
  {
    title: 'seSparse',
    name: 's.vmdk',
    files: {
      's.vmdk': text(['RW 32 SESPARSE "s-sesparse.vmdk"'], { createType: '"seSparse"' }),
      's-sesparse.vmdk': seSparse([seSparseEntry(0), 0n, seSparseEntry(1), 2n << 60n], [grain(1), grain(2)]),
    },
  },
];

async function seeds(): Promise<readonly Seed[]> {
  return [
    ...qemuSeeds('vmdk', [
      ['-O', 'vmdk'],
      ['-O', 'vmdk', '-o', 'subformat=streamOptimized'],
    ]),
    ...byHand,
  ];
}

export const target = adapterTarget(vmdk, ['qemu-img'], seeds);
