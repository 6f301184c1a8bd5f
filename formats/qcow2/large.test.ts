/** Images far too large for a disk: our own views, computed, read back by our own reader. */
import { expect, test } from 'vitest';
import type { Disk, Layer, Store, VirtualFile } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { readView } from '../../src/views/view.ts';
import { pattern, sparseDisk } from '../../test/kit/disks.ts';
import { random } from '../../test/kit/random.ts';
import { locate } from '../../test/kit/reference.ts';
import { qcow2, qcow2Format } from './index.ts';

const GiB = 2 ** 30;
const TiB = 2 ** 40;
const MiB = 2 ** 20;

interface Counts {
  reads: number;
  bytes: number;
}

/** A store whose one file is the view. */
function viewStore(view: VirtualFile, disk: Disk, counts: Counts): Store {
  return {
    label: 'view',
    async *list() {
      yield { name: 'x.qcow2', size: view.size, modified: new Date(0) };
    },
    async open(name) {
      if (name !== 'x.qcow2') throw new ImageError('not-found', 'no such file', { file: name });
      return {
        name,
        size: view.size,
        read(into, at) {
          counts.reads++;
          counts.bytes += into.length;
          return readView(view, disk, into, at);
        },
        async [Symbol.asyncDispose]() {},
      };
    },
    async [Symbol.asyncDispose]() {},
  };
}

async function withLayer(
  size: number,
  writable: boolean,
  use: (layer: Layer, counts: Counts, disk: Disk) => Promise<void>,
): Promise<void> {
  const disk = sparseDisk(size, 3, [
    { at: 0, length: MiB },
    { at: size / 2, length: MiB },
    { at: size - MiB, length: MiB },
  ]);
  const counts = { reads: 0, bytes: 0 };
  const view = qcow2Format.layout(disk, { writable, name: 'x' })[0]!;
  await using image = await qcow2.open('x.qcow2', viewStore(view, disk, counts), { secrets: async () => [] });
  expect(image.warnings).toEqual([]);
  await use(image.points[0]!.disks[0]!.layer!, counts, disk);
}

async function readsRight(layer: Layer, at: number): Promise<void> {
  const found = await locate(layer, at, 4096);
  expect(found).toMatchObject({ kind: 'plain' });
  if (found.kind !== 'plain') return;
  const got = new Uint8Array(found.length);
  const want = new Uint8Array(found.length);
  await found.source.read(got, found.at);
  pattern(want, at, 3);
  expect(Buffer.compare(got, want)).toBe(0);
}

test.each([2 * TiB, 16 * TiB, 80 * TiB])('opening %d bytes takes bounded reads', async size => {
  for (const writable of [false, true]) {
    await withLayer(size, writable, async (layer, counts) => {
      expect(counts.bytes).toBeLessThan(8 * MiB);
      expect(counts.reads).toBeLessThan(300);
      for (const at of [0, size / 2 + 512, size - 4096]) await readsRight(layer, at);
    });
  }
});

test('tables beyond the budget are dropped and read again', async () => {
  const size = 400 * GiB;
  await withLayer(size, true, async (layer, counts) => {
    const { below } = random(1);
    const before = process.memoryUsage().arrayBuffers;
    for (let i = 0; i < 3000; i++) {
      const at = below(size / 512) * 512;
      const found = await locate(layer, at, 512);
      expect(found.kind).toBe('plain');
    }
    await readsRight(layer, size / 2);
    // 800 pages in a memory of 256: about two of three misses.
    expect(counts.reads).toBeGreaterThan(1200);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(200 * MiB);
  });
});

test('holes of a compact view are absent, its data lies at a constant offset', async () => {
  await withLayer(2 * TiB, false, async (layer, _counts, disk) => {
    let data = 0;
    let base: number | null = null;
    for (let at = 0; at < layer.size; ) {
      const found = await locate(layer, at, layer.size - at);
      expect(['plain', 'absent']).toContain(found.kind);
      if (found.kind === 'plain') {
        base ??= found.at - at;
        expect(found.at - at).toBe(base);
        data += found.length;
      } else expect(disk.extent(at, found.length)).toEqual({ kind: 'zero', length: found.length });
      at += found.length;
    }
    expect(data).toBe(3 * MiB);
  });
});
