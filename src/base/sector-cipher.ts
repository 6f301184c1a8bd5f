/**
 * Ciphers of whole disks: every sector by itself, with its number as initialisation vector. AES in XTS (IEEE 1619) and
 * CBC, by two calls of AES-ECB for many sectors together: setting up a cipher for each sector would take longer than
 * the deciphering.
 */
import { type Cipheriv, createCipheriv, createDecipheriv, createHash, type Decipheriv } from 'node:crypto';
import type { Bytes } from './contracts.ts';
import { ImageError } from './errors.ts';

export interface SectorCipher {
  readonly sectorSize: number;
  /** Deciphers whole sectors in place; `at` is where the first of them begins on the plain disk. */
  decipher(data: Uint8Array, at: Bytes): void;
}

/** A cipher that goes both ways. */
export interface TwoWayCipher extends SectorCipher {
  /** Enciphers whole sectors in place. */
  encipher(data: Uint8Array, at: Bytes): void;
}

/** How sectors are numbered: the one at `at` is `first + at / unit`. */
export interface SectorNumbers {
  readonly sectorSize: number;
  readonly unit: number;
  readonly first: number;
  /** Numbers are stored in 64 bits, or in the lower 32 of them. */
  readonly bits: 32 | 64;
}

const CHUNK = 65_536;
const BLOCK = 16;
const KEY_BITS = new Map([
  [16, 128],
  [24, 192],
  [32, 256],
]);

/** The AES variant for a key; 'unsupported' when there is none of that length. */
function bitsOf(key: Uint8Array, what: string): number {
  const bits = KEY_BITS.get(key.length);
  if (bits === undefined) throw new ImageError('unsupported', `${what} with a key of ${key.length * 8} bits`);
  return bits;
}

// Without padding an ECB cipher carries nothing from one call to the next: one serves for good, and holds the only copy
// of the key.
const encipherer = (key: Uint8Array, what: string): Cipheriv =>
  createCipheriv(`aes-${bitsOf(key, what)}-ecb`, key, null).setAutoPadding(false);
const decipherer = (key: Uint8Array, what: string): Decipheriv =>
  createDecipheriv(`aes-${bitsOf(key, what)}-ecb`, key, null).setAutoPadding(false);

/** Little-endian numbers of `count` sectors, 16 bytes each. */
function numbersOf(numbers: SectorNumbers, at: Bytes, count: number): Buffer {
  const out = Buffer.alloc(count * BLOCK);
  const step = numbers.sectorSize / numbers.unit;
  for (let i = 0, number = numbers.first + at / numbers.unit; i < count; i++, number += step) {
    out.writeUInt32LE(number % 0x1_0000_0000, i * BLOCK);
    if (numbers.bits === 64) out.writeUInt32LE(Math.floor(number / 0x1_0000_0000), i * BLOCK + 4);
  }
  return out;
}

/** The bytes as words; a copy where they do not lie on a word. Little-endian machines only, as all that Node supports in use here. */
function wordsOf(data: Buffer): Int32Array {
  const aligned = data.byteOffset % 4 === 0 ? data : Buffer.from(Uint8Array.from(data).buffer);
  return new Int32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4);
}

/** Splits into stretches of whole sectors that fit the scratch memory. */
function inChunks(data: Uint8Array, at: Bytes, sectorSize: number, one: (part: Uint8Array, at: Bytes) => void): void {
  if (data.length % sectorSize !== 0 || at % sectorSize !== 0) {
    throw new RangeError(`${data.length} bytes at ${at} are no whole sectors of ${sectorSize}`);
  }
  for (let done = 0; done < data.length; done += CHUNK) {
    one(data.subarray(done, Math.min(done + CHUNK, data.length)), at + done);
  }
}

/** The tweak of every block: the one before it times x in GF(2^128), beginning with the sector's. */
function spread(tweaks: Int32Array, first: Int32Array, perSector: number): void {
  for (let sector = 0, to = 0; sector < first.length; sector += 4) {
    let a = first[sector]!;
    let b = first[sector + 1]!;
    let c = first[sector + 2]!;
    let d = first[sector + 3]!;
    for (let block = 0; block < perSector; block++, to += 4) {
      tweaks[to] = a;
      tweaks[to + 1] = b;
      tweaks[to + 2] = c;
      tweaks[to + 3] = d;
      const carry = d >> 31;
      d = (d << 1) | (c >>> 31);
      c = (c << 1) | (b >>> 31);
      b = (b << 1) | (a >>> 31);
      a = (a << 1) ^ (carry & 0x87);
    }
  }
}

/** `key`: the one for data and the one for numbers, one after the other. */
export function xtsCipher(key: Uint8Array, numbers: SectorNumbers): TwoWayCipher {
  const { sectorSize } = numbers;
  const half = key.length / 2;
  const deciphers = decipherer(key.subarray(0, half), 'AES-XTS');
  const enciphers = encipherer(key.subarray(0, half), 'AES-XTS');
  const vectors = encipherer(key.subarray(half), 'AES-XTS');
  const tweaks = new Int32Array(CHUNK / 4);
  const mixed = new Int32Array(CHUNK / 4);
  const mixedBytes = new Uint8Array(mixed.buffer);
  const cross = (blocks: Cipheriv | Decipheriv, data: Uint8Array, at: Bytes): void =>
    inChunks(data, at, sectorSize, (part, from) => {
      const words = part.length / 4;
      const first = wordsOf(vectors.update(numbersOf(numbers, from, part.length / sectorSize)));
      spread(tweaks, first, sectorSize / BLOCK);
      mixedBytes.set(part);
      for (let i = 0; i < words; i++) mixed[i]! ^= tweaks[i]!;
      const out = wordsOf(blocks.update(mixedBytes.subarray(0, part.length)));
      for (let i = 0; i < words; i++) out[i]! ^= tweaks[i]!;
      part.set(new Uint8Array(out.buffer, out.byteOffset, part.length));
    });
  return {
    sectorSize,
    decipher: (data, at) => cross(deciphers, data, at),
    encipher: (data, at) => cross(enciphers, data, at),
  };
}

/** `vectorKey`: what the numbers are enciphered with; null: they are used as they are. */
export function cbcCipher(key: Uint8Array, vectorKey: Uint8Array | null, numbers: SectorNumbers): SectorCipher {
  const { sectorSize } = numbers;
  const blocks = decipherer(key, 'AES-CBC');
  const vectors = vectorKey === null ? null : encipherer(vectorKey, 'AES-CBC');
  const perSector = sectorSize / 4;
  const before = new Int32Array(CHUNK / 4);
  const beforeBytes = new Uint8Array(before.buffer);
  return {
    sectorSize,
    decipher: (data, at) =>
      inChunks(data, at, sectorSize, (part, from) => {
        const words = part.length / 4;
        const plainNumbers = numbersOf(numbers, from, part.length / sectorSize);
        const first = wordsOf(vectors === null ? plainNumbers : vectors.update(plainNumbers));
        const plain = wordsOf(blocks.update(part));
        // Each block is mixed with the enciphered one before it, the first of a sector with its vector.
        beforeBytes.set(part.subarray(0, part.length - BLOCK), BLOCK);
        for (let to = 0, vector = 0; to < words; to += perSector, vector += 4) {
          before.set(first.subarray(vector, vector + 4), to);
        }
        for (let i = 0; i < words; i++) plain[i]! ^= before[i]!;
        part.set(new Uint8Array(plain.buffer, plain.byteOffset, part.length));
      }),
  };
}

/**
 * A cipher by the name that Linux gives it: `aes-xts-plain64`, `aes-cbc-essiv:sha256`. Sectors are counted in units of
 * 512 bytes whatever their size, as dm-crypt does. Any other is refused by name.
 */
export function namedCipher(name: string, key: Uint8Array, sectorSize: number, first = 0): SectorCipher {
  const numbers = (bits: 32 | 64): SectorNumbers => ({ sectorSize, unit: 512, first, bits });
  switch (name) {
    case 'aes-xts-plain64':
      return xtsCipher(key, numbers(64));
    case 'aes-xts-plain':
      return xtsCipher(key, numbers(32));
    case 'aes-cbc-plain64':
      return cbcCipher(key, null, numbers(64));
    case 'aes-cbc-plain':
      return cbcCipher(key, null, numbers(32));
    case 'aes-cbc-essiv:sha256':
      return cbcCipher(key, createHash('sha256').update(key).digest(), numbers(64));
    default:
      throw new ImageError('unsupported', `the cipher ${JSON.stringify(name)} is not supported`);
  }
}
