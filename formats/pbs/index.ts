export { pbs } from './read.ts';
