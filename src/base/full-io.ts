/**
 * All disk I/O goes through here: full reads, full writes, checked offsets.
 *
 * Why: Node writes at the file's cursor, without an error, when the position is a BigInt, NaN, a fraction, negative or
 * missing; and a write on a full disk returns short without an error. Both are silent corruption.
 */
import fs from 'node:fs';
import type { Bytes } from './contracts.ts';
import { ImageError } from './errors.ts';

export function checkOffset(at: number, length: number, file: string): void {
  if (!Number.isSafeInteger(at) || at < 0 || !Number.isSafeInteger(at + length)) {
    throw new ImageError('out-of-range', `offset ${at} is not a safe position`, { file });
  }
}

export const shortRead = (name: string, at: number, got: number, wanted: number): ImageError =>
  new ImageError('corrupt', `the file ends early: ${got} of ${wanted} bytes`, { file: name, at });

export const ioError = (name: string, at: number, cause: unknown): ImageError => {
  const code = (cause as NodeJS.ErrnoException).code ?? 'error';
  const fault = code === 'ENOSPC' || code === 'EDQUOT' ? 'no-space' : code === 'EFBIG' ? 'too-big' : 'io';
  return new ImageError(
    fault,
    fault === 'no-space' ? 'no space left' : `I/O failed (${code})`,
    { file: name, at },
    { cause },
  );
};

/** Fills all of `into`, or throws. */
export function readFullNow(fd: number, into: Uint8Array, at: Bytes, name: string): void {
  checkOffset(at, into.length, name);
  let done = 0;
  try {
    while (done < into.length) {
      const n = fs.readSync(fd, into, done, into.length - done, at + done);
      if (n === 0) throw shortRead(name, at, done, into.length);
      done += n;
    }
  } catch (error) {
    throw error instanceof ImageError ? error : ioError(name, at + done, error);
  }
}

/** A short write is how a full disk shows first; the next attempt brings the error itself, as a rule. */
const nothingWritten = (): Error => Object.assign(new Error('nothing written'), { code: 'ENOSPC' });

/** Writes all of `from`, or throws 'no-space', 'too-big' or 'io'. */
export function writeFullNow(fd: number, from: Uint8Array, at: Bytes, name: string): void {
  checkOffset(at, from.length, name);
  let done = 0;
  try {
    while (done < from.length) {
      const n = fs.writeSync(fd, from, done, from.length - done, at + done);
      if (n === 0) throw nothingWritten();
      done += n;
    }
  } catch (error) {
    throw ioError(name, at + done, error);
  }
}

const writeSome = (fd: number, from: Uint8Array, offset: number, at: number): Promise<number> =>
  new Promise((resolve, reject) => {
    fs.write(fd, from, offset, from.length - offset, at + offset, (error, n) => (error ? reject(error) : resolve(n)));
  });

/** As `writeFullNow`, on a pool thread. */
export async function writeFull(fd: number, from: Uint8Array, at: Bytes, name: string): Promise<void> {
  checkOffset(at, from.length, name);
  let done = 0;
  try {
    while (done < from.length) {
      const n = await writeSome(fd, from, done, at);
      if (n === 0) throw nothingWritten();
      done += n;
    }
  } catch (error) {
    throw ioError(name, at + done, error);
  }
}

const readSome = (fd: number, into: Uint8Array, offset: number, at: number): Promise<number> =>
  new Promise((resolve, reject) => {
    fs.read(fd, into, offset, into.length - offset, at + offset, (error, n) => (error ? reject(error) : resolve(n)));
  });

/** As `readFullNow`, on a pool thread. `needed`: bytes that the file has to have, fewer where `into` reaches behind its end. */
export async function readFull(
  fd: number,
  into: Uint8Array,
  at: Bytes,
  name: string,
  needed = into.length,
): Promise<void> {
  checkOffset(at, into.length, name);
  let done = 0;
  try {
    while (done < needed) {
      const n = await readSome(fd, into, done, at);
      if (n === 0) throw shortRead(name, at, done, needed);
      done += n;
    }
  } catch (error) {
    throw error instanceof ImageError ? error : ioError(name, at + done, error);
  }
}

export function syncData(fd: number, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    fs.fdatasync(fd, error => (error ? reject(ioError(name, 0, error)) : resolve()));
  });
}
