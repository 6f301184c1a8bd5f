import { createHash } from 'node:crypto';
import { deflateSync, zstdCompressSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { callAside } from './aside.ts';
import { digestOf } from './digest.ts';
import { inflateInto } from './inflate.ts';
import { unzstdInto } from './zstd.ts';

test('no more than 64 at a time, each gets its turn, and errors keep nobody waiting', async () => {
  let [now, most] = [0, 0];
  const one = (i: number): Promise<number> =>
    callAside(told => {
      most = Math.max(most, ++now);
      setImmediate(() => {
        now--;
        told(i % 7 === 0 ? new Error('failed') : null, i);
      });
    });
  const ends = await Promise.allSettled(Array.from({ length: 1000 }, (_, i) => one(i)));
  expect([now, most]).toEqual([0, 64]);
  expect(ends.map(end => (end.status === 'fulfilled' ? end.value : -1))).toEqual(
    Array.from({ length: 1000 }, (_, i) => (i % 7 === 0 ? -1 : i)),
  );
  await expect(
    callAside(() => {
      throw new Error('cannot begin');
    }),
  ).rejects.toThrow('cannot begin');
  expect(await one(1)).toBe(1);
});

const plain = Buffer.alloc(200_000, 'as many as a mount has readers of small blocks ');
const md5 = createHash('md5').update(plain).digest();
const [frame, stream] = [zstdCompressSync(plain), deflateSync(plain)];

test.each([
  ['digests', async () => expect(Buffer.compare(await digestOf('md5', plain), md5)).toBe(0)],
  ['zstd', async () => expect(await unzstdInto(frame, new Uint8Array(plain.length))).toBe(plain.length)],
  ['deflate', async () => expect(await inflateInto(stream, new Uint8Array(plain.length), 'zlib')).toBe(plain.length)],
] as const)('a thousand at once: %s', async (_, one) => {
  // So long that they go to other threads.
  for (let i = 0; i < 30; i++) await one();
  await Promise.all(Array.from({ length: 1000 }, one));
});
