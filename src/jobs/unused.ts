/** Disks without what nobody needs: it reads as zeros. */
import type { Bytes, Disk } from '../base/contracts.ts';
import { inParts } from '../base/done.ts';
import { ImageError } from '../base/errors.ts';

/** Units of a disk that are left out: a bit each, the lowest of a byte first. */
export interface LeftOut {
  readonly unit: Bytes;
  readonly bits: Uint8Array;
}

/** So many units are looked at for one answer. */
const LOOKED_AT = 65_536;

const has = (bits: Uint8Array, unit: number): boolean => ((bits[Math.floor(unit / 8)] ?? 0) >> (unit % 8)) % 2 === 1;

/** The first unit after `from` that differs from it, or where the look ends. */
function change(bits: Uint8Array, from: number): number {
  const out = has(bits, from);
  const whole = out ? 0xff : 0;
  const end = from + LOOKED_AT;
  let unit = from + 1;
  while (unit < end) {
    if (unit % 8 === 0 && bits[unit / 8] === whole) unit += 8;
    else if (has(bits, unit) === out) unit++;
    else break;
  }
  return unit;
}

/** Owns nothing: disposing of it leaves `disk` open. */
export function withoutUnused(disk: Disk, { unit, bits }: LeftOut): Disk {
  const stretch = (at: Bytes, limit: Bytes): { readonly out: boolean; readonly length: Bytes } => {
    const first = Math.floor(at / unit);
    return { out: has(bits, first), length: Math.min(limit, change(bits, first) * unit - at) };
  };
  const { deferred } = disk;
  return {
    id: disk.id,
    size: disk.size,
    sectorSize: disk.sectorSize,
    extent(at, limit) {
      const { out, length } = stretch(at, limit);
      return out ? { kind: 'zero', length } : disk.extent(at, length);
    },
    load: (at, limit) => disk.load(at, limit),
    ...(deferred === undefined ? {} : { deferred: () => deferred.call(disk) }),
    read: (into, at) =>
      inParts(into.length, (done, wait) => {
        const { out, length } = stretch(at + done, into.length - done);
        const part = into.subarray(done, done + length);
        if (out) part.fill(0);
        else wait(disk.read(part, at + done));
        return done + length;
      }),
    async [Symbol.asyncDispose]() {},
  };
}

/** What was left out must still be so; otherwise the disk was written to meanwhile. */
export function checkLeftOut(before: LeftOut, now: LeftOut, disk: string): void {
  const changed = before.bits.findIndex((byte, i) => (byte & ~now.bits[i]!) !== 0);
  if (changed < 0) return;
  const hint = 'a snapshot of the disk, or a backup without --allocated fs';
  const message = `${disk} was written to while it was read: what was free at first was in use at the end`;
  throw new ImageError('io', message, { at: changed * 8 * before.unit }, { hint });
}
