export { vdiFormat } from './layout.ts';
export { vdi } from './read.ts';
export { writeVdi } from './write.ts';
