/** VMDK and OVA: reading backup images, showing disks, writing restored disks. */
export { vmdkFormat } from './layout.ts';
export { ova } from './ova.ts';
export { vmdk } from './read.ts';
export { writeVmdk } from './write.ts';
