import { qed } from '../../../formats/qed/index.ts';
import { qemuSeeds } from '../qemu-seeds.ts';
import { adapterTarget } from '../target.ts';

const variants = [
  ['-O', 'qed'],
  ['-O', 'qed', '-o', 'cluster_size=4096,table_size=2'],
];
export const target = adapterTarget(qed, ['qemu-img'], async () => qemuSeeds('qed', variants));
