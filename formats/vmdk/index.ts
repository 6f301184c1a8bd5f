/** VMDK and OVA: reading backup images, showing disks, writing restored disks. */
export { vmdk } from './read.ts';
