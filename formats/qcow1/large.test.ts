/** A disk far too big to exist: tables that are missing cost nothing. */
import { expect, test } from 'vitest';
import type { Store } from '../../src/base/contracts.ts';
import { locate } from '../../test/kit/reference.ts';
import { qcow1 } from './index.ts';

const CLUSTER = 4096;
const TABLE = 512;
const SIZE = 4 * 2 ** 40;
const FIRST = CLUSTER;
const TABLES = SIZE / (CLUSTER * TABLE);
const SECOND = FIRST + TABLES * 8;
const DATA = SECOND + TABLE * 8;

/** 16 MiB of first table with one entry, in the middle, and one cluster in that table, its last one. */
function sparseStore(counts: { bytes: number }): Store {
  const at = (offset: number): number => {
    const bytes: Readonly<Record<number, number>> = {
      0: 0x51,
      1: 0x46,
      2: 0x49,
      3: 0xfb,
      7: 1,
      26: SIZE / 2 ** 40,
      32: 12,
      33: 9,
      46: CLUSTER / 256,
    };
    return bytes[offset] ?? 0;
  };
  const entry =
    (from: number, value: number) =>
    (offset: number): number =>
      offset < from || offset >= from + 8 ? 0 : Math.floor(value / 256 ** (from + 7 - offset)) % 256;
  const first = entry(FIRST + (TABLES / 2) * 8, SECOND);
  const second = entry(SECOND + (TABLE - 1) * 8, DATA);
  return {
    label: 'made up',
    async *list() {},
    open: async name => ({
      name,
      size: DATA + CLUSTER,
      read(into, from) {
        counts.bytes += into.length;
        for (let i = 0; i < into.length; i++) into[i] = at(from + i) + first(from + i) + second(from + i);
      },
      async [Symbol.asyncDispose]() {},
    }),
    async [Symbol.asyncDispose]() {},
  };
}

test('4 TiB with one cluster: little is read to open it, and a walk over the rest is short', async () => {
  const counts = { bytes: 0 };
  await using image = await qcow1.open('x', sparseStore(counts), { secrets: async () => [] });
  expect(counts.bytes).toBeLessThan(8192);
  const layer = image.points[0]!.disks[0]!.layer!;
  expect(layer.size).toBe(SIZE);
  const stored: unknown[] = [];
  let runs = 0;
  for (let from = 0; from < SIZE; runs++) {
    const found = await locate(layer, from, SIZE - from);
    if (found.kind !== 'zero') stored.push({ from, ...found, source: null });
    from += found.length;
  }
  const last = SIZE / 2 + (TABLE - 1) * CLUSTER;
  expect(stored).toEqual([{ from: last, kind: 'plain', at: DATA, length: CLUSTER, source: null }]);
  // 2,048 tables to a part of the first table.
  expect(runs).toBeLessThan(TABLES / 2048 + 8);
});
