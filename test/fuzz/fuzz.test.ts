/** A short run of every format, and proof that the fuzzer notices what it looks for. */
import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';
import type { Adapter } from '../../src/base/contracts.ts';
import { adapters } from '../../src/registry.ts';
import { random } from '../kit/random.ts';
import { tryCase } from './case.ts';
import { mutate } from './mutate.ts';
import { FORMATS, seedsOf } from './seeds.ts';

const qemu = ((): boolean => {
  try {
    execFileSync('qemu-img', ['--version']);
    return true;
  } catch {
    return false;
  }
})();
const CASES = 150;
/** Other tests run at the same time. */
const PATIENT_MS = 15_000;

test.each(FORMATS)('%s: damaged images end in bytes or in an ImageError', async format => {
  if (!qemu && format !== 'bml') return;
  const adapter = adapters.find(a => a.name === format)!;
  for (const seed of await seedsOf(format)) {
    const numbers = random(7);
    const places = Uint32Array.from({ length: 2048 }, (_, i) => i * 4);
    for (let n = 0; n < CASES; n++)
      expect(await tryCase(adapter, seed, mutate(seed.image, places, numbers), numbers, PATIENT_MS)).toBeNull();
  }
});

const planted = (open: Adapter['open']): Adapter => ({
  name: 'planted',
  title: 'Planted',
  extensions: [],
  supports: { differencing: false, encryption: false, compression: false, write: false },
  probe: () => 'certain',
  open,
});

test.each<[string, Adapter['open'], RegExp]>([
  [
    'an error that is no ImageError',
    async () => {
      throw new TypeError('cannot read properties of undefined');
    },
    /TypeError/,
  ],
  [
    'a name outside the store',
    async (_, store) => {
      await store.open('../../etc/passwd');
      throw new Error('not reached');
    },
    /reached for/,
  ],
  [
    'too much memory',
    async () => {
      const all = new Uint8Array(100 * 2 ** 20).fill(1);
      await new Promise(resolve => setTimeout(resolve, 1));
      return {
        adapter: 'planted',
        name: '',
        encrypted: false,
        points: [],
        warnings: [`${all.length}`],
        async [Symbol.asyncDispose]() {},
        all,
      };
    },
    /held/,
  ],
  [
    'a case that takes long',
    async () => {
      await new Promise(resolve => setTimeout(resolve, 1100));
      return {
        adapter: 'planted',
        name: '',
        encrypted: false,
        points: [],
        warnings: [],
        async [Symbol.asyncDispose]() {},
      };
    },
    /took/,
  ],
])('notices %s', async (_, open, expected) => {
  const seed = { name: 'x', image: new Uint8Array(4096).fill(1) };
  const numbers = random(1);
  expect(await tryCase(planted(open), seed, mutate(seed.image, Uint32Array.of(0), numbers), numbers)).toMatch(expected);
});
