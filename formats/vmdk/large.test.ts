/** Large disks: few reads to open, bounded memory, right bytes at the borders. */
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Disk } from '../../src/base/contracts.ts';
import { UnitCache } from '../../src/chain/cache.ts';
import { chainDisk } from '../../src/chain/disk.ts';
import { localStore } from '../../src/stores/local.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { pattern, sparseDisk } from '../../test/kit/disks.ts';
import { virtualStore } from '../../test/kit/format-checks.ts';
import { missing, qemuImg, qemuIo } from '../../test/kit/oracles.ts';
import { openStack } from '../../test/kit/reference.ts';
import { scratch } from '../../test/kit/samples.ts';
import { counted } from '../../test/kit/tampered.ts';
import { descriptor, hosted } from './fixtures.ts';
import { vmdk, vmdkFormat } from './index.ts';

const GIB = 2 ** 30;
const MIB = 2 ** 20;
const keys = { secrets: async () => [] };

/** A disk full of data, as a sparse file that does not exist. */
function full(size: number) {
  const disk = sparseDisk(size, 1, [{ at: 0, length: size }]);
  const files = vmdkFormat.layout(disk, { writable: false, name: 'full' });
  return { disk, store: counted(virtualStore(files, disk, 'full')) };
}

test('opening takes the same few reads whatever the size', async () => {
  const readsFor = async (size: number): Promise<number> => {
    const { store } = full(size);
    await using image = await vmdk.open('full.vmdk', store.store, keys);
    expect(image.points[0]!.disks[0]!.size).toBe(size);
    return store.reads();
  };
  expect(await readsFor(2000 * GIB)).toBeLessThanOrEqual(await readsFor(GIB));
  expect(await readsFor(2000 * GIB)).toBeLessThan(16);
});

test('a read in a large disk reads its own tables only', async () => {
  const { disk, store } = full(2000 * GIB);
  await using stack = await openStack({ adapter: vmdk, store: store.store, name: 'full.vmdk', keys });
  const before = store.reads();
  const [got, want] = [new Uint8Array(MIB), new Uint8Array(MIB)];
  await stack.read(got, 1500 * GIB - 5000);
  await disk.read(want, 1500 * GIB - 5000);
  expect(Buffer.compare(got, want)).toBe(0);
  // Directory, tables, data.
  expect(store.reads() - before).toBeLessThanOrEqual(8);
});

/** Follows the disk from its start to `end`. */
async function walk(chain: Disk, end: number): Promise<void> {
  for (let at = 0; at < end; ) {
    const extent = chain.extent(at, end - at);
    if (extent === null) await chain.load(at, end - at);
    else {
      expect(extent.kind).toBe('data');
      at += extent.length;
    }
  }
}

/** 8 MiB of tables stay in memory: what 128 GiB need. */
test.each([
  [100, true],
  [process.env.BOOTMOUNT_LONG === '1' ? 1900 : 200, false],
])('after %d GiB the tables of the start are still there: %s', async (gib, isThere) => {
  const { store } = full(2000 * GIB);
  await using stack = await openStack({ adapter: vmdk, store: store.store, name: 'full.vmdk', keys });
  const layer = stack.layers[0]!;
  const chain = chainDisk({ layers: [layer], id: 'x', sectorSize: 512, cache: new UnitCache(0) });
  await walk(chain, gib * GIB);
  expect(layer.locate(0, 512) !== null).toBe(isThere);
});

describe('parts of 2 GiB', () => {
  test.skipIf(missing(['qemu-io']) !== null).each(['twoGbMaxExtentSparse', 'twoGbMaxExtentFlat'])(
    '%s: data across the borders',
    async subformat => {
      const folder = scratch();
      try {
        const file = path.join(folder, 'd.vmdk');
        await qemuImg.create(file, 'vmdk', '5000M', ['-o', `subformat=${subformat}`]);
        const borders = [2 * GIB, 4 * GIB];
        const commands = borders.map((at, i) => `write -P ${i + 1} ${at - 70_144} 140288`);
        await qemuIo(file, 'vmdk', commands);
        await using stack = await openStack({ adapter: vmdk, store: localStore(folder), name: 'd.vmdk', keys });
        expect(stack.size).toBe(5000 * MIB);
        for (const [i, border] of borders.entries()) {
          const got = new Uint8Array(200_000);
          await stack.read(got, border - 100_000);
          const want = new Uint8Array(got.length).fill(i + 1, 100_000 - 70_144, 100_000 + 70_144);
          expect(Buffer.compare(got, want)).toBe(0);
        }
      } finally {
        fs.rmSync(folder, { recursive: true });
      }
    },
  );

  test('a disk of many stream-optimized parts numbers its units through', async () => {
    const files: Record<string, Uint8Array> = {};
    const lines: string[] = [];
    const want = new Uint8Array(300 * 3 * 4096);
    for (let i = 0; i < 300; i++) {
      const grains = [0, 1, 2].map(n => {
        const content = want.subarray((i * 3 + n) * 4096, (i * 3 + n + 1) * 4096);
        pattern(content, 0, i * 3 + n);
        return content;
      });
      files[`d-s${String(i).padStart(3, '0')}.vmdk`] = hosted({ grains, grainSize: 4096, stream: true });
      lines.push(`RW 24 SPARSE "d-s${String(i).padStart(3, '0')}.vmdk"`);
    }
    const store = counted(memoryStore({ ...files, 'd.vmdk': Buffer.from(descriptor(lines)) }));
    await using stack = await openStack({ adapter: vmdk, store: store.store, name: 'd.vmdk', keys });
    const chain = chainDisk({ layers: [stack.layers[0]!], id: 'x', sectorSize: 512, cache: new UnitCache(MIB) });
    const got = new Uint8Array(want.length);
    await chain.read(got, 0);
    expect(Buffer.compare(got, want)).toBe(0);
    await stack[Symbol.asyncDispose]();
    expect(store.open()).toBe(0);
  });
});
