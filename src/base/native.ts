/**
 * What Node cannot do by itself, through the optional package `koffi`: finding and making holes. Without it everything
 * works; sparse files are then read whole and space is given back later.
 */
import { createRequire } from 'node:module';
import type { Bytes } from './contracts.ts';

const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const ENXIO = 6;
const KEEP_SIZE_PUNCH_HOLE = 3;

export interface Native {
  /** First data (hole) at or after `at`, inside the file; null: none until its end, or the file system does not say. */
  seek(fd: number, at: Bytes, want: 'data' | 'hole'): Bytes | null | 'unknown';
  /** Gives the range's blocks back to the file system; false when it cannot. It reads as zeros then. */
  punch(fd: number, at: Bytes, length: Bytes): boolean;
}

/** The part of the package's interface that is used. */
interface Koffi {
  load(library: string): { func(prototype: string): (...args: number[]) => number };
  errno(): number;
}

function open(): Native | null {
  if (process.platform !== 'linux') return null;
  try {
    const koffi = createRequire(import.meta.url)('koffi') as Koffi;
    const libc = koffi.load('libc.so.6');
    const lseek = libc.func('int64_t lseek(int, int64_t, int)');
    const fallocate = libc.func('int fallocate(int, int, int64_t, int64_t)');
    return {
      seek(fd, at, want) {
        const found = lseek(fd, at, want === 'data' ? SEEK_DATA : SEEK_HOLE);
        if (found >= 0) return found;
        return koffi.errno() === ENXIO ? null : 'unknown';
      },
      punch: (fd, at, length) => fallocate(fd, KEEP_SIZE_PUNCH_HOLE, at, length) === 0,
    };
  } catch {
    return null;
  }
}

let opened: Native | null | undefined;

/** null: not to be had here. */
export function native(): Native | null {
  if (opened === undefined) opened = open();
  return opened;
}
