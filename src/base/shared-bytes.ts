import type { Bytes } from './contracts.ts';
import { native } from './native.ts';

/** Zeros in memory that all threads of the program reach: what is unpacked in another one goes there without a copy. */
export const sharedBytes = (length: Bytes): Uint8Array => new Uint8Array(new SharedArrayBuffer(length));

export const isShared = (bytes: Uint8Array): boolean => bytes.buffer instanceof SharedArrayBuffer;

/** What a device wants of a transfer that goes around the page cache: place in memory, place in the file, length. */
export const DIRECT_UNIT: Bytes = 4096;

/** As `sharedBytes`, at a place in memory that suits a device, where that can be told. */
export function deviceBytes(length: Bytes): Uint8Array {
  const bytes = sharedBytes(length + DIRECT_UNIT);
  const past = (native()?.address(bytes) ?? 0) % DIRECT_UNIT;
  const from = past === 0 ? 0 : DIRECT_UNIT - past;
  return bytes.subarray(from, from + length);
}
