import { deflateRawSync, deflateSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { random } from '../../test/kit/random.ts';
import { inflateInto, type Wrapping } from './inflate.ts';
import { Pace } from './pace.ts';

const { below } = random(5);
const noise = Uint8Array.from({ length: 65_536 }, () => below(256));
const text = Buffer.alloc(65_536, 'what lies here is said once more, ');
const PACK = { raw: deflateRawSync, zlib: deflateSync } as const;

describe.each<Wrapping>(['raw', 'zlib'])('%s', wrapping => {
  const pack = PACK[wrapping];
  const failed = async (packed: Uint8Array, room: number): Promise<string> => {
    try {
      return `${await inflateInto(packed, new Uint8Array(room), wrapping)} bytes`;
    } catch (error) {
      return (error as Error).message;
    }
  };

  test('comes out as it went in, whatever follows, many at once, and nothing is written behind the room', async () => {
    const one = async (plain: Uint8Array): Promise<void> => {
      const packed = Buffer.concat([pack(plain), noise.subarray(0, below(600))]);
      const into = new Uint8Array(plain.length + 20).fill(0xee);
      expect(await inflateInto(packed, into.subarray(0, plain.length), wrapping)).toBe(plain.length);
      expect(Buffer.compare(into.subarray(0, plain.length), plain)).toBe(0);
      expect(into.subarray(plain.length).every(byte => byte === 0xee)).toBe(true);
    };
    for (const plain of [noise, text, text.subarray(0, 1), noise.subarray(0, 5000)]) {
      for (let i = 0; i < 10; i++) await one(plain);
      await Promise.all(Array.from({ length: 60 }, () => one(plain)));
    }
  });

  test('what is damaged, too long or cut off', async () => {
    expect(await failed(pack(text), 65_535)).toMatch(/more than 65535 bytes|Cannot create a Buffer larger/);
    expect(await failed(Buffer.alloc(100, 0xff), 512)).toMatch(/damaged|invalid|incorrect/);
    const cut = pack(noise).subarray(0, 30_000);
    expect(await failed(cut, 65_536)).toMatch(wrapping === 'zlib' ? /end early|unexpected end/ : /^\d+ bytes$/);
    // The next one is not affected.
    expect(await failed(pack(text), 65_536)).toBe('65536 bytes');
  });
});

test('a checksum that does not hold is damage', async () => {
  const packed = deflateSync(noise);
  packed[packed.length - 1]! ^= 1;
  await expect((async () => inflateInto(packed, new Uint8Array(65_536), 'zlib'))()).rejects.toThrow();
});

test('work that takes long goes to other threads, and one in a while is done at once', () => {
  const pace = new Pace();
  for (let i = 0; i < 10; i++) pace.took(0.01);
  expect(pace.isQuick()).toBe(true);
  for (let i = 0; i < 20; i++) pace.took(0.5);
  const asked = Array.from({ length: 128 }, () => pace.isQuick());
  expect(asked.filter(quick => quick)).toHaveLength(2);
  for (let i = 0; i < 200; i++) pace.took(0.001);
  expect(pace.isQuick()).toBe(true);
});
