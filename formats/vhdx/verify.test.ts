import { describe, expect, test } from 'vitest';
import type { Problem, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { viewOf } from '../../src/base/struct.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { pattern } from '../../test/kit/disks.ts';
import { flipped } from '../../test/kit/tampered.ts';
import { bytesOf, dataGuid, type FixtureSpec, fixture, TABLE_AT } from './fixtures.ts';
import { vhdx } from './index.ts';
import { HEADERS_AT, MIB, REGION_TABLES_AT } from './structs.ts';

const keys = { secrets: async () => [] };
const data = new Uint8Array(MIB);
pattern(data, 0, 1);
const bits = Array.from({ length: MIB / 512 }, (_, i) => i % 3 === 0);

const FULL: FixtureSpec = {
  name: 'full',
  size: 5 * MIB,
  blocks: { 0: { state: 6, data }, 1: { state: 2 }, 3: { state: 6, data } },
};
const CHILD: FixtureSpec = {
  name: 'child',
  size: 5 * MIB,
  blocks: { 0: { state: 6, data }, 2: { state: 7, data, bits }, 4: { state: 3 } },
  parent: [['parent_linkage', `{${dataGuid('full')}}`]],
};
const DATA_AT = TABLE_AT + MIB;

async function verified(file: Uint8Array, level: 1 | 2 | 3, store: Store = memoryStore({ 'a.vhdx': file })) {
  const found: Problem[] = [];
  const progress: number[] = [];
  await using image = await vhdx.open('a.vhdx', store, keys);
  const result = await image.verify!({
    level,
    found: problem => found.push(problem),
    progress: done => progress.push(done),
    signal: new AbortController().signal,
  });
  return { found, progress, ...result };
}

for (const [title, spec] of [
  ['a disk', FULL],
  ['a child', CHILD],
] as const) {
  test(`${title} with nothing wrong has no problems`, async () => {
    for (const level of [1, 2, 3] as const) {
      const { found, progress, checked, bytes } = await verified(bytesOf(fixture(spec)), level);
      expect(found).toEqual([]);
      expect(progress.at(-1)).toBe(5 * MIB);
      expect(checked).toBeGreaterThanOrEqual(level === 1 ? 4 : 9);
      if (level === 3) expect(bytes).toBeGreaterThan(spec === FULL ? 2 * MIB : MIB);
    }
  });
}

test('copies that reading does without are looked at too', async () => {
  for (const at of [...HEADERS_AT, ...REGION_TABLES_AT]) {
    const file = bytesOf(fixture(FULL));
    file[at + 200] = 1;
    const { found } = await verified(file, 1);
    expect(found).toMatchObject([{ fault: 'corrupt', file: 'a.vhdx', offset: at }]);
  }
});

describe('entries', () => {
  const entry = (mib: number, state: number): bigint => BigInt(mib * MIB + state);
  const cases = [
    ['a state that does not exist', FULL, 2, 4n, 'cannot be in state 4'],
    ['a block shared with no parent', FULL, 2, entry(4, 7), 'cannot be in state 7'],
    ['bits without a meaning', FULL, 0, entry(5, 6) + 8n, 'bits without a meaning'],
    ['a block beyond the end', FULL, 2, entry(6, 6), 'beyond the end'],
    ['a block in the log', FULL, 2, entry(1, 6), "in the file's metadata"],
    ['two blocks in one place', FULL, 3, entry(5, 6), 'shares its place'],
    ['a bitmap over a block', CHILD, 4096, entry(4, 6), 'shares its place'],
    ['no bitmap', CHILD, 4096, 0n, 'bitmap of chunk 0 is missing'],
  ] as const;
  for (const [title, spec, slot, value, message] of cases) {
    test(title, async () => {
      const file = bytesOf(fixture(spec));
      viewOf(file).setBigUint64(TABLE_AT + slot * 8, value, true);
      expect((await verified(file, 1)).found).toEqual([]);
      const { found } = await verified(file, 2);
      expect(found).toMatchObject([{ fault: 'corrupt', offset: TABLE_AT + slot * 8 }]);
      expect(found[0]!.message).toContain(message);
      if (slot < 4096) expect(found[0]).toMatchObject({ disk: 'disk0', block: slot });
    });
  }
});

test('data that cannot be read is found by reading it', async () => {
  const inner = memoryStore({ 'a.vhdx': bytesOf(fixture(FULL)) });
  const bad = {
    ...inner,
    open: async (name: string) => {
      const source = await inner.open(name);
      return {
        ...source,
        size: source.size,
        read(into: Uint8Array, at: number) {
          if (at >= DATA_AT && at < DATA_AT + MIB) throw new ImageError('io', 'I/O failed (EIO)', { file: name, at });
          return source.read(into, at);
        },
      };
    },
  };
  expect((await verified(new Uint8Array(0), 2, bad)).found).toEqual([]);
  expect((await verified(new Uint8Array(0), 3, bad)).found).toMatchObject([
    { fault: 'io', offset: DATA_AT, block: 3, disk: 'disk0' },
  ]);
});

test('a byte that changes inside the data is not found: the format has no checksum there', async () => {
  const store = flipped(memoryStore({ 'a.vhdx': bytesOf(fixture(FULL)) }), 'a.vhdx', DATA_AT + 5, 1);
  expect((await verified(new Uint8Array(0), 3, store)).found).toEqual([]);
});

test('stops when it is told to', async () => {
  await using image = await vhdx.open('a.vhdx', memoryStore({ 'a.vhdx': bytesOf(fixture(FULL)) }), keys);
  const stop = new AbortController();
  stop.abort(new Error('enough'));
  const run = { level: 3, found() {}, progress() {}, signal: stop.signal } as const;
  await expect(image.verify!(run)).rejects.toThrow('enough');
});
