/** Zeros as a source, so that holes go the way that plain data goes. */
import type { ByteSource, Bytes, Place } from './contracts.ts';
import { native } from './native.ts';

/** Enough for one answer of a mount. */
const LENGTH: Bytes = 2 ** 20;
let descriptor: number | null | undefined;

const source: ByteSource = {
  name: 'zeros',
  size: LENGTH,
  read: into => void into.fill(0),
  splice(pipe, at, length) {
    if (descriptor === undefined) descriptor = native()?.memoryFile(LENGTH) ?? null;
    return descriptor === null ? 0 : native()!.splice(descriptor, at, pipe, Math.min(length, LENGTH - at));
  },
  async [Symbol.asyncDispose]() {},
};

export const ZEROS: Place = { source, at: 0 };
