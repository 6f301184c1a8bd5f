/** `bootmount/testing`: the conformance kits, for adapters and disk formats outside the project. Needs Vitest. */
export type * from '../../src/base/contracts.ts';
export { ImageError } from '../../src/base/errors.ts';
export { memoryStore } from '../../src/stores/memory.ts';
export { type AdapterKitOptions, adapterKit, type MadeImage, type Skip } from './adapter-kit.ts';
export { type DiskFormatKitOptions, diskFormatKit } from './disk-format-kit.ts';
