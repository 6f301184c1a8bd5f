import { describe, expect, test } from 'vitest';
import type { Disk } from '../../src/base/contracts.ts';
import { Footer, geometryFor } from '../../src/base/vhd.ts';
import { readView, seekView } from '../../src/views/view.ts';
import { lazyDisk, memoryDisk, pattern, sparseDisk } from '../../test/kit/disks.ts';
import { vhdFormat } from './index.ts';
import { BLOCK, MAX_SIZE } from './layout.ts';

const MIB = 1_048_576;
const viewOf = (disk: Disk, writable = false, name = 'disk0') => vhdFormat.layout(disk, { writable, name })[0]!;

async function footerOf(disk: Disk, writable: boolean, name = 'disk0') {
  const file = viewOf(disk, writable, name);
  const raw = new Uint8Array(512);
  await readView(file, disk, raw, file.size - 512);
  return Footer.parse(raw);
}

/** Counts questions about extents, and how far the longest one reached. */
function watched(disk: Disk) {
  const seen = { questions: 0, longest: 0 };
  const counting: Disk = {
    ...disk,
    extent(at, limit) {
      seen.questions++;
      seen.longest = Math.max(seen.longest, limit);
      return disk.extent(at, limit);
    },
  };
  return { disk: counting, seen };
}

describe('the footer', () => {
  const disk = sparseDisk(40 * MIB, 1, []);

  test('names a creator whose size is believed, and the exact size', async () => {
    for (const writable of [false, true]) {
      const footer = await footerOf(disk, writable);
      expect(Buffer.from(footer.creatorApplication).toString()).toBe('win ');
      expect(footer).toMatchObject({
        currentSize: 40 * MIB,
        originalSize: 40 * MIB,
        creatorVersion: 0xa0000,
        timeStamp: 0,
      });
      expect(footer.diskType).toBe(writable ? 2 : 3);
    }
  });

  test('has a UUID of its own for every disk and name, and the same one on every mount', async () => {
    const uuids = [
      await footerOf(disk, false),
      await footerOf(disk, false, 'disk1'),
      await footerOf(sparseDisk(40 * MIB, 1, [], 'other'), false),
    ].map(footer => Buffer.from(footer.uniqueId).toString('hex'));
    expect(new Set(uuids).size).toBe(3);
    expect(Buffer.from((await footerOf(disk, false)).uniqueId).toString('hex')).toBe(uuids[0]);
  });

  test('geometry: the specification’s algorithm, never more than the size', () => {
    // Values that other software wrote into its footers for these sizes.
    expect(geometryFor(136_365_211_648 / 512)).toEqual({ cylinders: 65_278, heads: 16, sectorsPerTrack: 255 });
    expect(geometryFor(10_485_760 / 512)).toEqual({ cylinders: 301, heads: 4, sectorsPerTrack: 17 });
    for (const sectors of [1, 68, 20_480, 1_000_000, 66_059_279, 66_059_280, MAX_SIZE / 512]) {
      const { cylinders, heads, sectorsPerTrack } = geometryFor(sectors);
      expect(cylinders * heads * sectorsPerTrack).toBeLessThanOrEqual(sectors);
      expect(cylinders).toBeLessThanOrEqual(65_535);
    }
  });
});

test('a writable view is the disk and a footer: guest data at its own offset', async () => {
  const content = new Uint8Array(3 * MIB);
  pattern(content, 0, 1);
  const disk = memoryDisk(content);
  const file = viewOf(disk, true);
  expect(file.size).toBe(3 * MIB + 512);
  expect(file.pieceAt(12_345)).toEqual({ kind: 'disk', at: 0, from: 0, length: 3 * MIB });
});

test('data starts at multiples of 4 KiB', () => {
  const disk = sparseDisk(100 * MIB, 1, [{ at: 0, length: 100 * MIB }]);
  const file = viewOf(disk);
  let blocks = 0;
  for (let at = 0; at < file.size; ) {
    const piece = file.pieceAt(at);
    if (piece.kind === 'disk') {
      expect(piece.from % 4096).toBe(0);
      blocks++;
    }
    at = piece.from + piece.length;
  }
  expect(blocks).toBe(50);
});

test('a read asks about its own blocks, however large and full the disk is', async () => {
  const size = MAX_SIZE;
  const { disk, seen } = watched(sparseDisk(size, 1, [{ at: 0, length: size }]));
  const file = viewOf(disk);
  await readView(file, disk, new Uint8Array(131_072), Math.floor(size / 2));
  expect(seen.questions).toBeLessThan(8);
  expect(seen.longest).toBeLessThanOrEqual(BLOCK);
});

test('a search through 2 TiB of nothing takes few questions', async () => {
  const { disk, seen } = watched(sparseDisk(MAX_SIZE, 1, [{ at: MAX_SIZE - 512, length: 512 }]));
  const file = viewOf(disk);
  const table = 8_388_608;
  const data = (await seekView(file, disk, table, 'data'))!;
  expect(file.size - data).toBeLessThan(2 * BLOCK);
  expect(seen.questions).toBeLessThan(60_000);
});

test('a hole that is only found out later has the same bytes', async () => {
  const disk = sparseDisk(20 * MIB, 1, [{ at: 7 * MIB, length: 100 }]);
  const [now, later] = [viewOf(disk), viewOf(lazyDisk(disk))];
  const slow = lazyDisk(disk);
  const [a, b] = [new Uint8Array(now.size), new Uint8Array(later.size)];
  await readView(now, disk, a, 0);
  await readView(viewOf(slow), slow, b, 0);
  expect(Buffer.compare(a, b)).toBe(0);
});

test('a block that turns out to be empty after its bitmap was placed has a bitmap of zeros', async () => {
  const disk = lazyDisk(sparseDisk(20 * MIB, 1, [{ at: 7 * MIB, length: 100 }]));
  const file = viewOf(disk);
  const first = file.size - 512 - 10 * (BLOCK + 4096);
  const piece = file.pieceAt(first);
  expect(piece.kind).toBe('made');
  for (let at = 0; at < 4 * MIB; at += MIB) await disk.load(at, 1);
  const bitmap = new Uint8Array(512).fill(0xcc);
  if (piece.kind === 'made') await piece.fill(bitmap, 0);
  expect(bitmap.every(byte => byte === 0)).toBe(true);
  expect(file.pieceAt(first).kind).toBe('zero');
});
