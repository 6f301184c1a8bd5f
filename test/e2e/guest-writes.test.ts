/** Guests write through QEMU's own drivers to a clone of every format; `npm run soak:views` does it 100,000 times each. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { qcow2Format } from '../../formats/qcow2/index.ts';
import { sparseDisk } from '../kit/disks.ts';
import { FORMATS, type GuestViews, guestRun, guestViews } from '../kit/guest-views.ts';
import { fuseMissing, missing } from '../kit/oracles.ts';
import { scratch } from '../kit/samples.ts';
import { runCli } from './run-cli.ts';

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

  test('what a QCOW2 guest freed and used again is read through its tables, by every verb', async () => {
    const run = { operations: 150, perOpening: 150, depth: 16, seed: 8 };
    const { model, wrong } = await guestRun(views, 'qcow2', run);
    expect(wrong).toEqual([]);
    const [file, out] = [views.file('qcow2'), path.join(folder, 'out.raw')];
    expect(await runCli(['convert', path.dirname(file), out])).toMatchObject({ code: 0 });
    expect(Buffer.compare(fs.readFileSync(out), model)).toBe(0);
    // Negative control: where the layout put the guest's bytes at first, others lie by now.
    const [shown] = qcow2Format.layout(sparseDisk(model.length, 0, []), { writable: true, name: 'disk0' });
    let at = 0;
    for (let piece = shown!.pieceAt(0); piece.kind !== 'disk'; piece = shown!.pieceAt(at))
      at = piece.from + piece.length;
    expect(Buffer.compare(fs.readFileSync(file).subarray(at, at + model.length), model)).not.toBe(0);
  });

  // Last: the clones differ from their models afterwards.
  test('a write that is lost is noticed', async () => {
    const run = { operations: 150, perOpening: 150, depth: 16, seed: 7, lose: 40 };
    expect((await guestRun(views, 'vhdx', run)).wrong).not.toEqual([]);
  });
});
