export { vhdxFormat } from './layout.ts';
export { vhdx } from './read.ts';
export { writeVhdx } from './write.ts';
