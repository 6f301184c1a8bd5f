import type { Bytes } from './contracts.ts';
import { native } from './native.ts';

/** Zeros in memory that all threads of the program reach: what is unpacked in another one goes there without a copy. */
export const sharedBytes = (length: Bytes): Uint8Array => new Uint8Array(new SharedArrayBuffer(length));

export const isShared = (bytes: Uint8Array): boolean => bytes.buffer instanceof SharedArrayBuffer;

/** What a device wants of a transfer that goes around the page cache: place in memory, place in the file, length. */
export const DIRECT_UNIT: Bytes = 4096;

/** The first `length` bytes of `room` from a place in memory that suits a device, where that can be told: it is longer by DIRECT_UNIT. */
export function suitedPart(room: Uint8Array, length: Bytes): Uint8Array {
  const past = (native()?.address(room) ?? 0) % DIRECT_UNIT;
  const from = past === 0 ? 0 : DIRECT_UNIT - past;
  return room.subarray(from, from + length);
}

/** As `sharedBytes`, at a place in memory that suits a device, where that can be told. */
export const deviceBytes = (length: Bytes): Uint8Array => suitedPart(sharedBytes(length + DIRECT_UNIT), length);
