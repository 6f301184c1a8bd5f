import type { Bytes } from './contracts.ts';

/** Zeros in memory that all threads of the program reach: what is unpacked in another one goes there without a copy. */
export const sharedBytes = (length: Bytes): Uint8Array => new Uint8Array(new SharedArrayBuffer(length));

export const isShared = (bytes: Uint8Array): boolean => bytes.buffer instanceof SharedArrayBuffer;
