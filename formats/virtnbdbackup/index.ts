export { virtnbdbackup } from './read.ts';
