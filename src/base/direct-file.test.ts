/** Files around the page cache: the same bytes as through it, whatever the device wants of places and lengths. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, expect, test, vi } from 'vitest';
import { pattern } from '../../test/kit/disks.ts';
import { openFile, writtenAside } from './io.ts';
import { native } from './native.ts';
import { DIRECT_UNIT, deviceBytes } from './shared-bytes.ts';

const MIB = 2 ** 20;
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-direct-'));
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));
afterEach(() => {
  vi.restoreAllMocks();
});

/** Pieces that suit a device and pieces that do not, all over a file with holes; written, then read back. */
async function everyPiece(name: string): Promise<void> {
  const file = path.join(folder, name);
  const wanted = Buffer.alloc(8 * MIB + 777);
  const memory = deviceBytes(2 * MIB);
  const pieces: readonly (readonly [at: number, from: number, length: number])[] = [
    [0, 0, MIB],
    [MIB + 700, 700, MIB - 50],
    [2 * MIB, DIRECT_UNIT, MIB],
    [3 * MIB + 512, 0, MIB],
    [5 * MIB, 100, MIB],
    [6 * MIB, 0, MIB + 5],
    [7 * MIB + 5, 3, 65_536],
    [8 * MIB, 0, 777],
  ];
  const opened = await openFile(file, 'create');
  opened.bypassCache();
  await using aside = writtenAside(opened);
  for (const [n, [at, from, length]] of pieces.entries()) {
    pattern(memory, at, n + 1);
    wanted.set(memory.subarray(from, from + length), at);
    await aside.write(memory.subarray(from, from + length), at);
  }
  for (const [at, from, length] of pieces) {
    const into = memory.fill(0).subarray(from, from + length);
    await aside.read(into, at);
    expect(Buffer.compare(into, wanted.subarray(at, at + length)), `${length} at ${at}`).toBe(0);
  }
  const whole = new Uint8Array(wanted.length);
  await aside.read(whole, 0);
  expect(Buffer.compare(whole, wanted)).toBe(0);
  expect(aside.size).toBe(wanted.length);
  await aside.sync();
  expect(Buffer.compare(fs.readFileSync(file), wanted)).toBe(0);
}

test('pieces of every kind are where they belong', () => everyPiece('every'));

test.skipIf(native() === null)('a device that refuses them gets them through the page cache', async () => {
  // Everything seems to suit, so the kernel is asked to do what it cannot.
  vi.spyOn(native()!, 'address').mockReturnValue(0);
  await everyPiece('refused');
});

test.skipIf(native() === null)('a full device is told of, also around the page cache', async () => {
  const file = await openFile(path.join(folder, 'full'), 'create');
  file.bypassCache();
  await using aside = writtenAside(file);
  // Longer than files of this file system may be.
  await expect(aside.write(deviceBytes(MIB), 2 ** 52)).rejects.toMatchObject({ fault: 'too-big' });
});
