import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { random } from '../../test/kit/random.ts';
import { type DigestName, digestOf } from './digest.ts';
import { koffi } from './native.ts';

const { below } = random(9);
const noise = Uint8Array.from({ length: 2 ** 20 }, () => below(256));

test.each<DigestName>(['md5', 'sha256'])('%s, at once and on other threads, many at the same time', async name => {
  const expected = (data: Uint8Array): string => createHash(name).update(data).digest('hex');
  let later = 0;
  const one = async (data: Uint8Array): Promise<void> => {
    const digest = digestOf(name, data);
    if (digest instanceof Promise) later++;
    expect(Buffer.from(await digest).toString('hex')).toBe(expected(data));
  };
  await one(new Uint8Array(0));
  for (let i = 0; i < 20; i++) {
    await Promise.all(Array.from({ length: 8 }, (_, k) => one(noise.subarray(k, noise.length - i * 4097))));
  }
  expect(later > 0).toBe(koffi() !== null);
});
