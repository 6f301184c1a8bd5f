import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Unpacking } from '../base/contracts.ts';
import { pidNamespace, startOf } from '../base/files.ts';
import { type LocalScratch, localScratch, type ScratchSpec } from './scratch.ts';

let folder: string;
beforeEach(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-scratch-'));
});
afterEach(() => fs.rmSync(folder, { recursive: true, force: true }));

const MIB = 2 ** 20;
const make = (spec: Partial<ScratchSpec> = {}): LocalScratch =>
  localScratch({ folder: path.join(folder, 'unpacked'), most: null, keep: true, hint: 'say more', ...spec });
const names = (): readonly string[] => fs.readdirSync(path.join(folder, 'unpacked')).toSorted();

/** `parts` counts how often the content was asked for. */
function unpacking(version: string, content: Uint8Array, most: number | null = null): Unpacking & { runs: number } {
  const what = {
    runs: 0,
    name: 'a.vma.zst',
    version,
    packed: 1000,
    most,
    async *content(reached: (packed: number) => void) {
      what.runs++;
      reached(500);
      for (let at = 0; at < content.length; at += MIB) yield content.subarray(at, at + MIB);
      reached(1000);
    },
  };
  return what;
}

async function bytesOf(scratch: LocalScratch, what: Unpacking): Promise<Buffer> {
  await using source = await scratch.unpacked(what);
  const all = Buffer.alloc(source.size);
  await source.read(all, 0);
  return all;
}

const DATA = Buffer.alloc(3 * MIB + 77, 0x5a);
DATA.fill(0, MIB, 2 * MIB);

test('unpacked once, for all who ask at once and later, with zeros as holes', async () => {
  const what = unpacking('v1', DATA);
  const first = make();
  const both = await Promise.all([bytesOf(first, what), bytesOf(first, what)]);
  expect(both.every(all => all.equals(DATA))).toBe(true);
  expect((await bytesOf(make(), what)).equals(DATA)).toBe(true);
  expect(what.runs).toBe(1);
  expect(names()).toEqual(['v1.unpacked']);
  expect(fs.statSync(path.join(folder, 'unpacked/v1.unpacked')).blocks * 512).toBeLessThan(2.5 * MIB);
});

test('without keep, what was made goes and what was there stays', async () => {
  await bytesOf(make(), unpacking('old', DATA));
  {
    await using passing = make({ keep: false });
    const [old, own] = [unpacking('old', DATA), unpacking('own', DATA)];
    await Promise.all([bytesOf(passing, old), bytesOf(passing, own)]);
    expect([old.runs, own.runs]).toEqual([0, 1]);
  }
  expect(names()).toEqual(['old.unpacked']);
});

test('more than the limit is refused, naming what it takes and what helps; nothing is left of it', async () => {
  const error = await bytesOf(make({ most: 100 * MIB }), unpacking('big', Buffer.alloc(200 * MIB, 1), 900 * MIB)).catch(
    (e: unknown) => e,
  );
  expect(error).toMatchObject({ fault: 'no-space', hint: 'say more', where: { file: 'a.vma.zst' } });
  expect((error as Error).message).toContain('takes up to 900 MiB, more than the limit of 100 MiB');
  expect(names()).toEqual([]);
});

test('a compressed file that is larger than the limit is not even begun', async () => {
  const what = { ...unpacking('big', DATA), packed: 200 * MIB };
  await expect(bytesOf(make({ most: 100 * MIB }), what)).rejects.toMatchObject({ fault: 'no-space' });
  expect(what.runs).toBe(0);
});

test('what was not used for longest makes room, and never what is in use', async () => {
  const scratch = make({ most: 69 * MIB });
  for (const [i, version] of ['a', 'b', 'c'].entries()) {
    await bytesOf(make(), unpacking(version, DATA));
    const time = new Date(1_700_000_000_000 + i * 1000);
    fs.utimesSync(path.join(folder, `unpacked/${version}.unpacked`), time, time);
  }
  await bytesOf(scratch, unpacking('a', DATA));
  await bytesOf(scratch, unpacking('d', Buffer.alloc(2 * MIB, 7)));
  expect(names()).toEqual(['a.unpacked', 'c.unpacked', 'd.unpacked']);
});

test('more than can be in the file is damage', async () => {
  await expect(bytesOf(make(), unpacking('v', DATA, 2 * MIB))).rejects.toMatchObject({ fault: 'corrupt' });
  expect(names()).toEqual([]);
});

test('what a program that was killed left goes; what one that runs is writing stays', async () => {
  const inside = path.join(folder, 'unpacked');
  fs.mkdirSync(inside);
  const namespace = pidNamespace().replaceAll(/\D/g, '');
  const left = `v-0.${namespace}-${process.pid}-1.part`;
  const running = `v-1.${namespace}-${process.ppid}-${startOf(process.ppid)}.part`;
  const elsewhere = `v-2.1-${process.pid}-1.part`;
  for (const name of [left, running, elsewhere]) fs.writeFileSync(path.join(inside, name), 'x');
  await bytesOf(make(), unpacking('v', DATA));
  expect(names()).toEqual([running, elsewhere, 'v.unpacked'].toSorted());
});

test('a run that fails is run again by the next who asks', async () => {
  const scratch = make();
  const broken: Unpacking = {
    ...unpacking('v', DATA),
    // biome-ignore lint/correctness/useYield: it fails before it has anything.
    async *content() {
      throw new Error('the disk is gone');
    },
  };
  await expect(bytesOf(scratch, broken)).rejects.toThrow('gone');
  expect((await bytesOf(scratch, unpacking('v', DATA))).equals(DATA)).toBe(true);
});
