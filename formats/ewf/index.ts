export { ewf } from './read.ts';
