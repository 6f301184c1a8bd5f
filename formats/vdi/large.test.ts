/** Disks far too big to exist: what opening and reading them costs. */
import { expect, test } from 'vitest';
import type { Layer } from '../../src/base/contracts.ts';
import { pattern, sparseDisk } from '../../test/kit/disks.ts';
import { virtualStore } from '../../test/kit/format-checks.ts';
import { random } from '../../test/kit/random.ts';
import { locate } from '../../test/kit/reference.ts';
import { counted } from '../../test/kit/tampered.ts';
import { vdi, vdiFormat } from './index.ts';

const MIB = 2 ** 20;
const SIZE = 16 * 2 ** 40;
const keys = { secrets: async () => [] };
const DISK = sparseDisk(SIZE, 3, [
  { at: 0, length: MIB },
  { at: SIZE / 2, length: 3 * MIB },
  { at: SIZE - MIB, length: MIB },
]);

async function readsRight(layer: Layer, at: number): Promise<void> {
  const found = await locate(layer, at, 4096);
  if (found.kind !== 'plain') throw new Error(`${found.kind} at ${at}`);
  const [got, want] = [new Uint8Array(4096), new Uint8Array(4096)];
  await found.source.read(got, found.at);
  pattern(want, at, 3);
  expect(Buffer.compare(got, want)).toBe(0);
}

test.each([false, true])('16 TiB, writable %s: few reads to open, few more for each place', async writable => {
  const files = vdiFormat.layout(DISK, { writable, name: 'disk0' });
  const { store, reads } = counted(virtualStore(files, DISK, 'disk0'));
  await using image = await vdi.open('disk0.vdi', store, keys);
  expect(reads()).toBeLessThanOrEqual(3);
  const layer = image.points[0]!.disks[0]!.layer!;
  for (const at of [0, SIZE / 2 + 8192, SIZE - 4096]) await readsRight(layer, at);
  expect(reads()).toBeLessThanOrEqual(3 + 2 * 3);
});

test('parts of the map that were not used lately are dropped and read again', async () => {
  const files = vdiFormat.layout(DISK, { writable: true, name: 'disk0' });
  const { store, reads } = counted(virtualStore(files, DISK, 'disk0'));
  await using image = await vdi.open('disk0.vdi', store, keys);
  const layer = image.points[0]!.disks[0]!.layer!;
  const { below } = random(1);
  const opened = reads();
  for (let i = 0; i < 2000; i++) {
    const found = await locate(layer, below(SIZE / 512) * 512, 512);
    expect(found.kind).toBe('plain');
  }
  // 4,096 parts in a memory of 64: nearly every place is read anew.
  expect(reads() - opened).toBeGreaterThan(1900);
  await readsRight(layer, SIZE / 2);
});

test('a walk over 16 TiB of nothing takes few questions', async () => {
  const files = vdiFormat.layout(DISK, { writable: false, name: 'disk0' });
  await using image = await vdi.open('disk0.vdi', virtualStore(files, DISK, 'disk0'), keys);
  const layer = image.points[0]!.disks[0]!.layer!;
  let [runs, stored] = [0, 0];
  for (let at = 0; at < SIZE; runs++) {
    const found = await locate(layer, at, SIZE - at);
    if (found.kind === 'plain') stored += found.length;
    at += found.length;
  }
  // 4,096 blocks to a part of the map, and the borders of the data.
  expect(runs).toBeLessThan(SIZE / MIB / 4096 + 8);
  expect(stored).toBe(5 * MIB);
});
