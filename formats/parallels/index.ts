export { parallels } from './read.ts';
