import { expect, test } from 'vitest';
import { random } from '../../test/kit/random.ts';
import { RecordSum } from './record-sum.ts';

const of = (...records: readonly (readonly [at: number, crc: number])[]): string => {
  const sum = new RecordSum();
  for (const [at, crc] of records) sum.add(at, crc);
  return `${sum.low} ${sum.high}`;
};

test('the order does not matter, the places do', () => {
  const { below } = random(7);
  // Neighbours, and places that differ in one bit, up to 2^52.
  const places = Array.from({ length: 44 }, (_, i) => 65536 + 64 * 2 ** i);
  for (let n = 0; n < 20_000; n++) {
    const [a, b] = [places[below(44)]!, places[below(44)]!];
    // CRCs that differ in one bit: what a linear sum would let cancel out.
    const one = below(2 ** 32);
    const two = (one ^ (1 << below(32))) >>> 0;
    expect(of([a, one], [b, two])).toBe(of([b, two], [a, one]));
    if (a !== b) expect(of([a, one], [b, two])).not.toBe(of([a, two], [b, one]));
    expect(of([a, one])).not.toBe(of([a, two]));
  }
});

test('a record that is taken out leaves what was there before', () => {
  const sum = new RecordSum();
  sum.add(65536, 1);
  const { low, high } = sum;
  sum.add(2 ** 40, 0xffff_ffff);
  sum.remove(2 ** 40, 0xffff_ffff);
  expect(sum.equals({ low, high })).toBe(true);
  sum.remove(65536, 1);
  expect([sum.low, sum.high]).toEqual([0, 0]);
});

test('is what the specification says', () => {
  expect(of([65536, 0xaca8_115e])).toBe(`${0x6b8f_27f2} ${0x8d30_1233}`);
});
