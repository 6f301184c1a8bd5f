export { vhdFormat } from './layout.ts';
export { vhd } from './read.ts';
export { writeVhd } from './write.ts';
