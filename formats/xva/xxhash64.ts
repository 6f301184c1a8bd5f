/**
 * xxHash, 64 bits (doc/xxhash_spec.md of the xxHash project), seed 0. Numbers of 64 bits are kept as two halves: with
 * BigInt one block would take a tenth of a second.
 */
import { viewOf } from '../../src/base/struct.ts';

const P1 = 0x9e37_79b1_85eb_ca87n;
const P2 = 0xc2b2_ae3d_27d4_eb4fn;
const P3 = 0x1656_67b1_9e37_79f9n;
const P4 = 0x85eb_ca77_c2b2_ae63n;
const P5 = 0x27d4_eb2f_1656_67c5n;

const mask = (n: bigint): bigint => BigInt.asUintN(64, n);
const rotate = (n: bigint, by: bigint): bigint => mask((n << by) | (n >> (64n - by)));
const round = (acc: bigint, lane: bigint): bigint => mask(rotate(mask(acc + lane * P2), 31n) * P1);

const half = (n: bigint): [high: number, low: number] => [Number(n >> 32n) | 0, Number(n & 0xffff_ffffn) | 0];
const [P1H, P1L] = half(P1);
const [P2H, P2L] = half(P2);

/** High half of the product of two numbers of 32 bits. */
function productHigh(a: number, b: number): number {
  const aHigh = a >>> 16;
  const aLow = a & 0xffff;
  const bHigh = b >>> 16;
  const bLow = b & 0xffff;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const other = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + Math.floor(middle / 65_536) + Math.floor(other / 65_536)) | 0;
}

/** One of the four sums over every fourth lane of `data`, from `offset` on. */
function laneSum(view: DataView, offset: number, end: number, start: bigint): bigint {
  let [high, low] = half(start);
  for (let at = offset; at < end; at += 32) {
    const laneLow = view.getInt32(at, true);
    const laneHigh = view.getInt32(at + 4, true);
    // acc += lane * P2
    const addLow = Math.imul(laneLow, P2L);
    const addHigh = (productHigh(laneLow, P2L) + Math.imul(laneLow, P2H) + Math.imul(laneHigh, P2L)) | 0;
    const sumLow = (low + addLow) | 0;
    const carry = sumLow >>> 0 < addLow >>> 0 ? 1 : 0;
    const sumHigh = (high + addHigh + carry) | 0;
    // acc = rotate(acc, 31) * P1
    const turnedHigh = (sumHigh << 31) | (sumLow >>> 1);
    const turnedLow = (sumLow << 31) | (sumHigh >>> 1);
    low = Math.imul(turnedLow, P1L);
    high = (productHigh(turnedLow, P1L) + Math.imul(turnedLow, P1H) + Math.imul(turnedHigh, P1L)) | 0;
  }
  return (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
}

function avalanche(hash: bigint): bigint {
  let h = hash;
  h = mask((h ^ (h >> 33n)) * P2);
  h = mask((h ^ (h >> 29n)) * P3);
  return h ^ (h >> 32n);
}

/** The bytes behind the last whole stripe of 32. */
function addRest(view: DataView, from: number, hash: bigint): bigint {
  let h = hash;
  let at = from;
  for (; at + 8 <= view.byteLength; at += 8) {
    h = mask(rotate(h ^ round(0n, view.getBigUint64(at, true)), 27n) * P1 + P4);
  }
  if (at + 4 <= view.byteLength) {
    h = mask(rotate(h ^ mask(BigInt(view.getUint32(at, true)) * P1), 23n) * P2 + P3);
    at += 4;
  }
  for (; at < view.byteLength; at++) h = mask(rotate(h ^ mask(BigInt(view.getUint8(at)) * P5), 11n) * P1);
  return h;
}

export function xxhash64(data: Uint8Array): bigint {
  const view = viewOf(data);
  const end = data.length - (data.length % 32);
  let hash = P5;
  if (end > 0) {
    const starts = [mask(P1 + P2), P2, 0n, mask(-P1)];
    const sums = starts.map((start, lane) => laneSum(view, lane * 8, end, start));
    hash = mask(rotate(sums[0]!, 1n) + rotate(sums[1]!, 7n) + rotate(sums[2]!, 12n) + rotate(sums[3]!, 18n));
    for (const sum of sums) hash = mask((hash ^ round(0n, sum)) * P1 + P4);
  }
  return avalanche(addRest(view, end, mask(hash + BigInt(data.length))));
}
