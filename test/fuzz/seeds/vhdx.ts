import { bytesOf, dataGuid, fixture } from '../../../formats/vhdx/fixtures.ts';
import { vhdx } from '../../../formats/vhdx/index.ts';
import { HEADERS_AT, putSum, REGION_TABLES_AT } from '../../../formats/vhdx/structs.ts';
import type { DamagedFiles } from '../damage.ts';
import { qemuSeeds } from '../qemu-seeds.ts';
import { adapterTarget, type Seed } from '../target.ts';

const MIB = 1_048_576;
const child = bytesOf(
  fixture({
    name: 'b',
    size: 3 * MIB,
    blocks: {
      0: { state: 6, data: new Uint8Array(4096).fill(1) },
      2: { state: 7, data: new Uint8Array(4096).fill(2), bits: [true, false, true, true] },
    },
    parent: [
      ['parent_linkage', dataGuid('a')],
      ['relative_path', '.\\a.vhdx'],
      ['absolute_win32_path', 'C:\\disks\\a.vhdx'],
      ['volume_path', '\\\\?\\Volume{1}\\a.vhdx'],
    ],
  }),
);

/** The sums of both headers and both region tables. */
function repair(files: DamagedFiles): void {
  for (const name of files.names) {
    const file = files.file(name)!;
    for (const [at, length] of [
      ...HEADERS_AT.map(place => [place, 4096] as const),
      ...REGION_TABLES_AT.map(place => [place, 65_536] as const),
    ]) {
      const raw = file.read(at, length);
      if (raw.length < length) continue;
      putSum(raw);
      file.write(at + 4, raw.subarray(4, 8));
    }
  }
}

async function seeds(): Promise<readonly Seed[]> {
  return [
    ...qemuSeeds('vhdx', [
      ['-O', 'vhdx', '-o', 'block_size=1M'],
      ['-O', 'vhdx', '-o', 'block_size=1M,subformat=fixed'],
    ]),
    { title: 'differencing', name: 'b.vhdx', files: { 'b.vhdx': child } },
  ];
}

export const target = adapterTarget(vhdx, ['qemu-img'], seeds, repair);
