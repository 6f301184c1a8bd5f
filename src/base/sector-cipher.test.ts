/** Against OpenSSL, one sector at a time. */
import { createCipheriv, createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { random } from '../../test/kit/random.ts';
import { decipheredDisk } from './deciphered-disk.ts';
import { namedCipher } from './sector-cipher.ts';

function noise(length: number, seed: number): Buffer {
  const { below } = random(seed);
  return Buffer.from(Uint8Array.from({ length }, () => below(256)));
}

/** What dm-crypt would have written. `iv` makes a sector's vector from its number as 16 bytes. */
function enciphered(
  plain: Buffer,
  sectorSize: number,
  first: bigint,
  algorithm: string,
  key: Buffer,
  iv: Vector = vector,
) {
  const out: Buffer[] = [];
  for (let at = 0; at < plain.length; at += sectorSize) {
    const number = Buffer.alloc(16);
    number.writeBigUInt64LE(first + BigInt(at / 512));
    const cipher = createCipheriv(algorithm, key, iv(number, key)).setAutoPadding(false);
    out.push(cipher.update(plain.subarray(at, at + sectorSize)));
  }
  return Buffer.concat(out);
}
type Vector = (number: Buffer, key: Buffer) => Buffer;
const vector: Vector = number => number;
const low32: Vector = number => Buffer.concat([number.subarray(0, 4), Buffer.alloc(12)]);
const essiv: Vector = (number, key) =>
  createCipheriv('aes-256-ecb', createHash('sha256').update(key).digest(), null).update(number);

const SIZE = 200 * 4096;
const plain = noise(SIZE, 1);

describe('sector ciphers', () => {
  test.each([
    ['aes-xts-plain64', 64, 512, 0, 'aes-256-xts', vector],
    ['aes-xts-plain64', 64, 4096, 0, 'aes-256-xts', vector],
    ['aes-xts-plain64', 32, 512, 2 ** 40, 'aes-128-xts', vector],
    ['aes-xts-plain', 64, 512, 2 ** 32 - 3, 'aes-256-xts', low32],
    ['aes-cbc-essiv:sha256', 32, 512, 7, 'aes-256-cbc', essiv],
    ['aes-cbc-essiv:sha256', 16, 2048, 0, 'aes-128-cbc', essiv],
    ['aes-cbc-plain64', 24, 512, 2 ** 33, 'aes-192-cbc', vector],
    ['aes-cbc-plain', 32, 512, 2 ** 32 - 3, 'aes-256-cbc', low32],
  ] as const)('%s, key of %i bytes, sectors of %i from %i', async (name, keySize, sectorSize, first, algorithm, iv) => {
    const key = noise(keySize, 2);
    const stored = enciphered(plain, sectorSize, BigInt(first), algorithm, key, iv);
    const cipher = namedCipher(name, key, sectorSize, first);
    const data = Buffer.from(stored);
    cipher.decipher(data, 0);
    expect(data.equals(plain)).toBe(true);
    // Any part, at any place in memory, through a disk that begins somewhere.
    const below = {
      sectorSize: 512 as const,
      read: (into: Uint8Array, at: number) => into.set(stored.subarray(at - 512, at - 512 + into.length)),
    };
    await using disk = decipheredDisk({ id: 'x', below, start: 512, size: SIZE + 100, cipher });
    expect(disk.size).toBe(SIZE);
    const { below: under } = random(3);
    for (let i = 0; i < 200; i++) {
      const at = under(SIZE);
      const into = new Uint8Array(100_003).subarray(3, 3 + 1 + under(Math.min(100_000, SIZE - at)));
      await disk.read(into, at);
      expect(Buffer.compare(into, plain.subarray(at, at + into.length))).toBe(0);
    }
  });

  test('what is not supported is refused by name', () => {
    for (const name of ['serpent-xts-plain64', 'aes-xts-random', 'aes-cbc-essiv:sha512', 'aes-ecb', '']) {
      expect(() => namedCipher(name, Buffer.alloc(64), 512)).toThrow(`the cipher ${JSON.stringify(name)}`);
    }
    expect(() => namedCipher('aes-xts-plain64', Buffer.alloc(20), 512)).toThrow('a key of 80 bits');
  });
});
