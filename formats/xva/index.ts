export { xva } from './read.ts';
