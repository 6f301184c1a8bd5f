export { partclone } from './read.ts';
