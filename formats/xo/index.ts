export { xo } from './read.ts';
