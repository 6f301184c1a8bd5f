/** QCOW2: reading backup images, showing disks, writing restored disks. */
export { qcow2Format } from './layout.ts';
export { qcow2 } from './read.ts';
export { createQcow2, type Qcow2Writer, writeQcow2 } from './write.ts';
