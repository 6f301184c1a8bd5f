export { clonezilla, clonezillaAdapter } from './clonezilla.ts';
export { partclone } from './read.ts';
