/** A short run of every target, everything that once went wrong, and proof that the fuzzer notices what it looks for. */
import { describe, expect, test } from 'vitest';
import type { Adapter, Image } from '../../src/base/contracts.ts';
import { random } from '../kit/random.ts';
import { type Bounds, type Case, caseOf, collect, tryCase } from './case.ts';
import { corpus } from './corpus.ts';
import { DamagedFiles } from './damage.ts';
import { adapterTarget } from './target.ts';
import { prepare, TARGETS, targetOf, unusable } from './targets.ts';

const CASES = 150;
/** Other tests run at the same time. */
const PATIENT: Bounds = { slowMs: 15_000, memory: 64 * 2 ** 20 };

describe('damaged files end in bytes or in an ImageError', () => {
  for (const name of TARGETS) {
    test(name, async context => {
      const reason = unusable(await targetOf(name));
      if (reason !== null) return context.skip(reason);
      const prepared = await prepare(name);
      for (let n = 0; n < CASES; n++)
        expect(await tryCase(prepared.target, () => caseOf(prepared, 7, n), PATIENT), `case ${n}`).toBeNull();
    });
  }
});

test('what once went wrong goes well now', async () => {
  for (const { file, target, tried } of corpus())
    expect(await tryCase(await targetOf(target), tried, PATIENT), file).toBeNull();
});

const nothing: Image = {
  adapter: 'planted',
  name: '',
  encrypted: false,
  points: [],
  warnings: [],
  async [Symbol.asyncDispose]() {},
};

const kept: Uint8Array[] = [];

const planted: Readonly<Record<string, readonly [open: Adapter['open'], expected: RegExp]>> = {
  'an error that is no ImageError': [
    async () => {
      throw new TypeError('cannot read properties of undefined');
    },
    /TypeError/,
  ],
  'a name outside the store': [
    async (_, store) => {
      await store.open('../../etc/passwd');
      return nothing;
    },
    /asked for/,
  ],
  'a file that stays open': [
    async (name, store) => {
      await store.open(name);
      return nothing;
    },
    /left open/,
  ],
  'too much memory': [
    async () => {
      kept.push(new Uint8Array(100 * 2 ** 20).fill(1));
      return nothing;
    },
    /held/,
  ],
  'a case that takes long': [
    async () => {
      const spent = (): number => process.cpuUsage().user + process.cpuUsage().system;
      for (const began = spent(); spent() - began < 1_100_000; ) Math.hypot(...new Array(1000).fill(3));
      return nothing;
    },
    /took/,
  ],
};

describe('notices', () => {
  for (const [what, [open, expected]] of Object.entries(planted)) {
    test(what, async () => {
      const supports = { differencing: false, encryption: false, compression: false, write: false };
      const adapter: Adapter = { name: 'planted', title: '', extensions: [], supports, probe: () => 'certain', open };
      const target = adapterTarget(adapter, [], async () => []);
      const files = { x: new Uint8Array(4096).fill(1) };
      const tried = (): Case => ({ name: 'x', files: new DamagedFiles(files), numbers: random(1) });
      collect(); // what earlier tests left would make up for what the case holds, were it collected meanwhile
      expect(await tryCase(target, tried)).toMatch(expected);
      kept.length = 0;
    });
  }
});
