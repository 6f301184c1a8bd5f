export { aff4 } from './read.ts';
