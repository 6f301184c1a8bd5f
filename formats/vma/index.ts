export { vma } from './read.ts';
