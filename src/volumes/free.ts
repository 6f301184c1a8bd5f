/** Free space of volumes: what a copy of a disk may leave out. Whatever is in doubt is not free. */
import type { Bytes } from '../base/contracts.ts';
import type { PointVolumes } from './volumes.ts';

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
 * Calls `found` with every stretch of a point's disks that a file system says is free. Stretches that are in use can
 * be left out, those that are free never have to be: what is deciphered or mirrored counts as used.
 */
export async function eachUnused(
  { volumes }: PointVolumes,
  found: (disk: number, at: Bytes, length: Bytes) => void,
): Promise<void> {
  for (const { volume, start, place } of volumes) {
    await volume.free?.((at, length) => {
      for (let done = 0; done < length; ) {
        const where = place(start + at + done, length - done);
        if (where === null) return;
        found(where.disk, where.at, where.length);
        done += where.length;
      }
    });
  }
}
