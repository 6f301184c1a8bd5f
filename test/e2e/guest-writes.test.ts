/** Guests write through QEMU's own drivers to a clone of every format; `npm run soak-views` does it 100,000 times each. */
import fs from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FORMATS, type GuestViews, guestRun, guestViews } from '../kit/guest-views.ts';
import { fuseMissing, missing } from '../kit/oracles.ts';
import { scratch } from '../kit/samples.ts';

const reason = fuseMissing() ?? missing(['qemu-nbd', 'qemu-img']);

describe.skipIf(reason !== null)('guest writes', () => {
  let folder = '';
  let views: GuestViews;
  beforeAll(async () => {
    folder = scratch();
    views = await guestViews(folder, FORMATS);
  });
  afterAll(async () => {
    await views[Symbol.asyncDispose]();
    fs.rmSync(folder, { recursive: true, force: true });
  });

  for (const format of FORMATS) {
    test(`${format}: write, write zeroes, discard, flush, reopen, 16 at once`, async () => {
      const run = { operations: 300, perOpening: 150, depth: 16, seed: 5 };
      const { counts, openings, wrong } = await guestRun(views, format, run);
      expect(wrong).toEqual([]);
      expect(openings).toBe(2);
      expect(Object.keys(counts).length).toBe(6);
    });
  }

  test('QEMU compares every read with a raw twin', async () => {
    const run = { operations: 200, perOpening: 200, depth: 16, seed: 6, blkverify: true };
    expect((await guestRun(views, 'qcow2', run)).wrong).toEqual([]);
  });

  // Last: the clones differ from their models afterwards.
  test('a write that is lost is noticed', async () => {
    const run = { operations: 150, perOpening: 150, depth: 16, seed: 7, lose: 40 };
    expect((await guestRun(views, 'vhdx', run)).wrong).not.toEqual([]);
  });
});
