import { qcow2 } from '../../../formats/qcow2/index.ts';
import { qemuSeeds } from '../qemu-seeds.ts';
import { adapterTarget } from '../target.ts';

const variants = [
  ['-O', 'qcow2', '-o', 'cluster_size=4k'],
  ['-O', 'qcow2', '-c'],
  ['-O', 'qcow2', '-c', '-o', 'compression_type=zstd'],
  ['-O', 'qcow2', '-o', 'compat=0.10'],
  ['-O', 'qcow2', '-o', 'extended_l2=on,cluster_size=16k'],
  ['-O', 'qcow2', '-o', 'cluster_size=512'],
];
export const target = adapterTarget(qcow2, ['qemu-img'], async () => qemuSeeds('qcow2', variants));
