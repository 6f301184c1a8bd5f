export { qcow1 } from './read.ts';
