/** Macrium Reflect X: reading image files and the sets that they form. */
export { type MacriumOptions, macrium, macriumAdapter } from './read.ts';
