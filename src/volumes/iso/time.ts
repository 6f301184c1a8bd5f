import { dateOf } from '../source.ts';

/** Seven bytes: years since 1900, month, day, hour, minute, second, and the zone in quarters of an hour. */
export function shortTime(from: Buffer, at: number): Date {
  const [year, month, day, hour, minute, second] = from.subarray(at, at + 6) as unknown as number[];
  const zone = from.readInt8(at + 6) * 15;
  return dateOf(Date.UTC(1900 + year!, month! - 1, day!, hour, minute! - zone, second));
}
