/** Free space of volumes: what a copy of a disk may leave out. Whatever is in doubt is not free. */
import type { Bytes } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { otherSign } from './signs.ts';
import type { FoundVolume } from './volumes.ts';

export type FoundFree = (at: Bytes, length: Bytes) => void;

export interface FreeRuns {
  /** Stretches in order; those that touch become one. */
  add(at: Bytes, length: Bytes): void;
  end(): void;
}

export function freeRuns(found: FoundFree): FreeRuns {
  let [from, to] = [0, 0];
  const end = (): void => {
    if (to > from) found(from, to - from);
  };
  return {
    add(at, length) {
      if (length <= 0) return;
      if (at === to) to += length;
      else {
        end();
        [from, to] = [at, at + length];
      }
    },
    end,
  };
}

/** Adds a stretch for every bit that is not set: bit `i` stands for `unit` bytes at `base + i * unit`. */
export function addClearBits(runs: FreeRuns, bits: Uint8Array, count: number, base: Bytes, unit: Bytes): void {
  for (let i = 0; i < count; ) {
    const byte = bits[Math.floor(i / 8)] ?? 0xff;
    if (i % 8 === 0 && (byte === 0xff || byte === 0)) {
      const whole = Math.min(8, count - i);
      if (byte === 0) runs.add(base + i * unit, whole * unit);
      i += 8;
      continue;
    }
    if (((byte >> (i % 8)) & 1) === 0) runs.add(base + i * unit, unit);
    i++;
  }
}

/**
 * Calls `found` with every stretch of a point's disks that a volume says is free. Throws an ImageError that says why where
 * any doubt is left: then nothing of the volume is to be left out, whatever was found before.
 */
export async function eachUnused(
  found: FoundVolume,
  unused: (disk: number, at: Bytes, length: Bytes) => void,
): Promise<void> {
  const { name, volume, start, size, place } = found;
  const { free } = volume;
  const doubt = (why: string): ImageError => new ImageError('unsupported', why, { file: name });
  if (free === undefined) throw doubt('what is free in it is not known');
  const sign = await otherSign(found);
  if (sign !== null) throw doubt(sign);
  await free((at, length) => {
    if (at + length > size) throw doubt('it says that more is free than there is');
    for (let done = 0; done < length; ) {
      const where = place(start + at + done, length - done);
      if (where === null) throw doubt('it does not lie on the disk as it is, being encrypted for example');
      if (where.shared) throw doubt('a parity, a mirror, a snapshot or another volume counts on what it has free');
      unused(where.disk, where.at, where.length);
      done += where.length;
    }
  });
}
