import { uuidOf, vdiFile } from '../../../formats/vdi/fixtures.ts';
import { vdi } from '../../../formats/vdi/index.ts';
import { qemuSeeds } from '../qemu-seeds.ts';
import { adapterTarget, type Seed } from '../target.ts';

const block = (n: number): Uint8Array => new Uint8Array(4096).fill(n);
const child = vdiFile({
  blockSize: 4096,
  blocks: [block(1), 'free', 'discarded', block(2)],
  uuid: uuidOf(2),
  parent: uuidOf(1),
  extra: 512,
});

async function seeds(): Promise<readonly Seed[]> {
  return [
    ...qemuSeeds('vdi', [
      ['-O', 'vdi'],
      ['-O', 'vdi', '-o', 'static=on'],
    ]),
    { title: 'differencing', name: 'b.vdi', files: { 'b.vdi': child } },
  ];
}

export const target = adapterTarget(vdi, ['qemu-img'], seeds);
