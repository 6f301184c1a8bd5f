import { expect, it } from 'vitest';
import { getU64, putAttributes, putU64 } from './protocol.ts';

it('splits 64-bit numbers without losing a bit, negative ones too', () => {
  const words = new Uint32Array(2);
  const view = new DataView(words.buffer);
  for (const value of [0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 512, 2 ** 53 - 1]) {
    putU64(words, 0, value);
    expect(view.getBigUint64(0, true)).toBe(BigInt(value));
    expect(getU64(words, 0)).toBe(value);
  }
  putU64(words, 0, -86_400);
  expect(view.getBigInt64(0, true)).toBe(-86_400n);
});

it('lays attributes out as struct fuse_attr', () => {
  const words = new Uint32Array(24).fill(0xdbdbdbdb);
  putAttributes(words, 1, {
    ino: 2 ** 52 - 1,
    size: 2 ** 43 + 1,
    blocks: 7,
    mtime: new Date('1969-12-31T23:59:58.250Z'),
    mode: 0o100444,
    links: 1,
    uid: 1000,
    gid: 2 ** 32 - 2,
    device: 0,
  });
  const view = new DataView(words.buffer, 4);
  expect([0, 8, 16].map(at => view.getBigUint64(at, true))).toEqual([2n ** 52n - 1n, 2n ** 43n + 1n, 7n]);
  expect([24, 32, 40].map(at => view.getBigInt64(at, true))).toEqual([-2n, -2n, -2n]);
  expect([48, 52, 56].map(at => view.getUint32(at, true))).toEqual([250e6, 250e6, 250e6]);
  // mode, nlink, uid, gid, rdev, blksize, flags
  expect([60, 64, 68, 72, 76, 80, 84].map(at => view.getUint32(at, true))).toEqual([
    0o100444,
    1,
    1000,
    2 ** 32 - 2,
    0,
    4096,
    0,
  ]);
  expect([words[0], words[23]]).toEqual([0xdbdbdbdb, 0xdbdbdbdb]);
});
