export { clonezilla } from './clonezilla.ts';
export { partclone } from './read.ts';
