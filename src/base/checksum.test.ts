import { expect, test } from 'vitest';
import { crc32c } from './checksum.ts';

test('the check value and the vectors of RFC 3720 B.4', () => {
  expect(crc32c(new TextEncoder().encode('123456789'))).toBe(0xe3069283);
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43);
  expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
});

/** Bit by bit, as the definition says. */
function slowly(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

test('at every alignment and length it is what the definition gives', () => {
  const memory = Uint8Array.from({ length: 200 }, (_, i) => (i * 157 + 11) & 255);
  for (let from = 0; from < 9; from++) {
    for (let to = from; to < 100; to++) {
      const part = memory.subarray(from, to);
      expect(crc32c(part)).toBe(slowly(part));
    }
  }
});

test('in parts it is the same as at once', () => {
  const data = Uint8Array.from({ length: 1000 }, (_, i) => (i * 31) & 255);
  for (const cut of [0, 1, 7, 8, 9, 500, 999, 1000]) {
    expect(crc32c(data.subarray(cut), crc32c(data.subarray(0, cut)))).toBe(crc32c(data));
  }
});
