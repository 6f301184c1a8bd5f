export { qed } from './read.ts';
