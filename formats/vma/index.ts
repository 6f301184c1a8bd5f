export { vma, vmaAdapter } from './read.ts';
