/**
 * How BitLocker makes a key of what was typed: 2^20 rounds of SHA-256, each over the one before. The words of a round stay
 * where they are; a call of the library for each of a million rounds takes three times as long. Source: FIPS 180-4.
 */
import { setImmediate as turn } from 'node:timers/promises';

const ROUNDS = 1_048_576;
/** Rounds after which others get a turn, and whoever waits is told that it goes on. */
const ROUNDS_AT_ONCE = 65_536;
/** A round hashes the round before, the secret, the salt and the number of the round: 88 bytes, in two blocks. */
const BITS = 88 * 8;

/** The first primes up to `count`. */
function primes(count: number): number[] {
  const found: number[] = [];
  for (let n = 2; found.length < count; n++) if (found.every(prime => n % prime !== 0)) found.push(n);
  return found;
}

/** The first 32 bits of the fraction. */
const fraction = (value: number): number => Math.floor((value - Math.floor(value)) * 2 ** 32) | 0;
const CONSTANTS = Int32Array.from(primes(64), prime => fraction(Math.cbrt(prime)));
const START = Int32Array.from(primes(8), prime => fraction(Math.sqrt(prime)));

/** Adds one block, in the first 16 of `w`, to the state. */
function compress(state: Int32Array, w: Int32Array): void {
  for (let i = 16; i < 64; i++) {
    const x = w[i - 15]!;
    const y = w[i - 2]!;
    const s = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
    const t = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
    w[i] = (w[i - 16]! + s + w[i - 7]! + t) | 0;
  }
  let a = state[0]!;
  let b = state[1]!;
  let c = state[2]!;
  let d = state[3]!;
  let e = state[4]!;
  let f = state[5]!;
  let g = state[6]!;
  let h = state[7]!;
  for (let i = 0; i < 64; i++) {
    const s = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
    const p = (h + s + (g ^ (e & (f ^ g))) + CONSTANTS[i]! + w[i]!) | 0;
    const t = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
    const q = (t + ((a & b) | (c & (a | b)))) | 0;
    h = g;
    g = f;
    f = e;
    e = (d + p) | 0;
    d = c;
    c = b;
    b = a;
    a = (p + q) | 0;
  }
  state[0] = state[0]! + a;
  state[1] = state[1]! + b;
  state[2] = state[2]! + c;
  state[3] = state[3]! + d;
  state[4] = state[4]! + e;
  state[5] = state[5]! + f;
  state[6] = state[6]! + g;
  state[7] = state[7]! + h;
}

const wordsOf = (bytes: Buffer): Int32Array =>
  Int32Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readInt32BE(4 * i));

/** `secret`: 32 bytes, `salt`: 16. `alive` is called several times a second. */
export async function stretched(secret: Buffer, salt: Buffer, alive: () => void): Promise<Buffer> {
  const [key, grain] = [wordsOf(secret), wordsOf(salt)];
  const state = new Int32Array(8);
  const w = new Int32Array(64);
  const count = Buffer.alloc(4);
  for (let round = 0; round < ROUNDS; round++) {
    if (round % ROUNDS_AT_ONCE === 0) {
      alive();
      await turn();
    }
    w.set(state);
    w.set(key, 8);
    state.set(START);
    compress(state, w);
    w.fill(0, 6, 16);
    w.set(grain);
    count.writeUInt32LE(round);
    w[4] = count.readInt32BE();
    w[5] = 0;
    w[6] = 0x8000_0000;
    w[15] = BITS;
    compress(state, w);
  }
  const out = Buffer.alloc(32);
  for (const [i, word] of state.entries()) out.writeInt32BE(word, 4 * i);
  return out;
}
