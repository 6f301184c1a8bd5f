import { qcow1 } from '../../../formats/qcow1/index.ts';
import { qemuSeeds } from '../qemu-seeds.ts';
import { adapterTarget } from '../target.ts';

const variants = [
  ['-O', 'qcow'],
  ['-O', 'qcow', '-c'],
];
export const target = adapterTarget(qcow1, ['qemu-img'], async () => qemuSeeds('qcow', variants));
