/**
 * XXH64 and the long form of XXH3 with 128 bits (doc/xxhash_spec.md of the xxHash project), seed 0, over whole blocks:
 * every part is a multiple of 64 bytes, and there are more than 240 in all. 64-bit words are pairs of 32-bit halves.
 */
import { viewOf } from '../../src/base/struct.ts';

export interface Digest {
  update(data: Uint8Array): void;
  /** Of everything so far, as it is stored; more may follow. */
  digest(): Uint8Array;
}

const P32_1 = 0x9e3779b1n;
const P32_2 = 0x85ebca77n;
const P32_3 = 0xc2b2ae3dn;
const P1 = 0x9e3779b185ebca87n;
const P2 = 0xc2b2ae3d27d4eb4fn;
const P3 = 0x165667b19e3779f9n;
const P4 = 0x85ebca77c2b2ae63n;
const P5 = 0x27d4eb2f165667c5n;
const [P1_LOW, P1_HIGH, P2_LOW, P2_HIGH] = [0x85ebca87, 0x9e3779b1, 0x27d4eb4f, 0xc2b2ae3d];
const SCRAMBLE = 0x9e3779b1;

/** Upper half of the product of two 32-bit numbers. */
const highProduct = (a: number, b: number): number => {
  const high = (a >>> 16) * b;
  const low = (a & 0xffff) * b;
  return Math.floor((high + Math.floor(low / 0x1_0000)) / 0x1_0000);
};
const wrap = (x: bigint): bigint => BigInt.asUintN(64, x);
const rotate = (x: bigint, by: bigint): bigint => wrap((x << by) | (x >> (64n - by)));
/** Words as they lie in little-endian halves. */
const wordsOf = (halves: Uint32Array): readonly bigint[] =>
  Array.from({ length: halves.length / 2 }, (_, i) => (BigInt(halves[i * 2 + 1]!) << 32n) | BigInt(halves[i * 2]!));
const halvesOf = (words: readonly bigint[]): Uint32Array =>
  Uint32Array.from(words.flatMap(word => [Number(word & 0xffff_ffffn), Number(word >> 32n)]));
function stored(words: readonly bigint[]): Uint8Array {
  const out = new Uint8Array(words.length * 8);
  for (const [i, word] of words.entries()) viewOf(out).setBigUint64(i * 8, word, true);
  return out;
}

/** lane = rotate(lane + input * P2, 31) * P1 */
function round(lanes: Uint32Array, lane: number, low: number, high: number): void {
  const productLow = Math.imul(low, P2_LOW) >>> 0;
  const productHigh = highProduct(low, P2_LOW) + Math.imul(low, P2_HIGH) + Math.imul(high, P2_LOW);
  const sumLow = lanes[lane]! + productLow;
  const a = sumLow >>> 0;
  const b = (lanes[lane + 1]! + productHigh + (sumLow > 0xffff_ffff ? 1 : 0)) >>> 0;
  const turnedLow = ((a << 31) | (b >>> 1)) >>> 0;
  const turnedHigh = ((b << 31) | (a >>> 1)) >>> 0;
  lanes[lane] = Math.imul(turnedLow, P1_LOW);
  lanes[lane + 1] = highProduct(turnedLow, P1_LOW) + Math.imul(turnedLow, P1_HIGH) + Math.imul(turnedHigh, P1_LOW);
}

export function xxh64(): Digest {
  const lanes = halvesOf([wrap(P1 + P2), P2, 0n, wrap(-P1)]);
  let total = 0;
  return {
    update(data) {
      const view = viewOf(data);
      total += data.length;
      for (let at = 0; at < data.length; at += 32) {
        for (let lane = 0; lane < 8; lane += 2) {
          round(lanes, lane, view.getUint32(at + lane * 4, true), view.getUint32(at + lane * 4 + 4, true));
        }
      }
    },
    digest() {
      const words = wordsOf(lanes);
      let hash = 0n;
      for (const [i, by] of [1n, 7n, 12n, 18n].entries()) hash = wrap(hash + rotate(words[i]!, by));
      for (const word of words) hash = wrap((hash ^ wrap(rotate(wrap(word * P2), 31n) * P1)) * P1 + P4);
      hash = wrap(hash + BigInt(total));
      hash = wrap((hash ^ (hash >> 33n)) * P2);
      hash = wrap((hash ^ (hash >> 29n)) * P3);
      return stored([hash ^ (hash >> 32n)]);
    },
  };
}

const SECRET = Buffer.from(
  'b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221' +
    'b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8a8' +
    'fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb17' +
    '0ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e',
  'hex',
);
const STRIPE = 64;
const STRIPES_PER_BLOCK = 16;
const LAST_SECRET = 192 - STRIPE - 7;
const SECRET_VIEW = viewOf(SECRET);

function accumulate(acc: Uint32Array, view: DataView, at: number, secretAt: number): void {
  for (let i = 0; i < 16; i += 2) {
    const low = view.getUint32(at + i * 4, true);
    const high = view.getUint32(at + i * 4 + 4, true);
    const keyLow = (low ^ SECRET_VIEW.getUint32(secretAt + i * 4, true)) >>> 0;
    const keyHigh = (high ^ SECRET_VIEW.getUint32(secretAt + i * 4 + 4, true)) >>> 0;
    const other = i ^ 2;
    const otherLow = acc[other]! + low;
    acc[other] = otherLow;
    acc[other + 1] = acc[other + 1]! + high + (otherLow > 0xffff_ffff ? 1 : 0);
    const sumLow = acc[i]! + (Math.imul(keyLow, keyHigh) >>> 0);
    acc[i] = sumLow;
    acc[i + 1] = acc[i + 1]! + highProduct(keyLow, keyHigh) + (sumLow > 0xffff_ffff ? 1 : 0);
  }
}

/** acc = (acc ^ acc >> 47 ^ secret) * prime */
function scramble(acc: Uint32Array): void {
  for (let i = 0; i < 16; i += 2) {
    const low = (acc[i]! ^ (acc[i + 1]! >>> 15) ^ SECRET_VIEW.getUint32(128 + i * 4, true)) >>> 0;
    const high = (acc[i + 1]! ^ SECRET_VIEW.getUint32(128 + i * 4 + 4, true)) >>> 0;
    acc[i] = Math.imul(low, SCRAMBLE);
    acc[i + 1] = highProduct(low, SCRAMBLE) + Math.imul(high, SCRAMBLE);
  }
}

function merge(words: readonly bigint[], secretAt: number, start: bigint): bigint {
  let sum = start;
  for (let i = 0; i < 8; i += 2) {
    const a = words[i]! ^ SECRET_VIEW.getBigUint64(secretAt + i * 8, true);
    const b = words[i + 1]! ^ SECRET_VIEW.getBigUint64(secretAt + i * 8 + 8, true);
    const product = a * b;
    sum = wrap(sum + (wrap(product) ^ (product >> 64n)));
  }
  const mixed = wrap((sum ^ (sum >> 37n)) * 0x165667919e3779f9n);
  return mixed ^ (mixed >> 32n);
}

export function xxh3of128(): Digest {
  const acc = halvesOf([P32_3, P1, P2, P3, P4, P32_2, P5, P32_1]);
  // The last stripe is taken in another way, so one stays behind.
  const held = new Uint8Array(STRIPE);
  let stripes = 0;
  let total = 0;
  const take = (view: DataView, at: number): void => {
    accumulate(acc, view, at, stripes * 8);
    stripes++;
    if (stripes < STRIPES_PER_BLOCK) return;
    scramble(acc);
    stripes = 0;
  };
  return {
    update(data) {
      if (data.length === 0) return;
      if (total > 0) take(viewOf(held), 0);
      const view = viewOf(data);
      const last = data.length - STRIPE;
      for (let at = 0; at < last; at += STRIPE) take(view, at);
      held.set(data.subarray(last));
      total += data.length;
    },
    digest() {
      const whole = acc.slice();
      accumulate(whole, viewOf(held), 0, LAST_SECRET);
      const words = wordsOf(whole);
      const length = BigInt(total);
      return stored([merge(words, 11, wrap(length * P1)), merge(words, 117, wrap(~wrap(length * P2)))]);
    },
  };
}
