import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { lazyDisk, memoryDisk, pattern, sparseDisk } from '../../test/kit/disks.ts';
import type { Bytes, Disk, LayerId, LayerWriter } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { backup } from './backup.ts';

const BLOCK = 4096;
const signal = new AbortController().signal;
const progress = (): void => {};

interface FakeLayer {
  readonly writer: LayerWriter;
  readonly blocks: Map<number, Uint8Array | 'zero' | 'absent'>;
  committed: boolean;
  /** Writes under way at once, at most. */
  busiest: number;
  active: number;
}

function fakeLayer(fail: (block: number) => boolean = () => false): FakeLayer {
  const layer: FakeLayer = { writer: null as never, blocks: new Map(), committed: false, busiest: 0, active: 0 };
  const writer: LayerWriter = {
    stored: 0,
    async write(_disk, block, data) {
      layer.busiest = Math.max(layer.busiest, ++layer.active);
      await new Promise(resolve => setImmediate(resolve));
      layer.active--;
      if (fail(block)) throw new ImageError('no-space', 'no space left');
      // Copied only now: a caller that reuses its buffer too early would show.
      layer.blocks.set(block, typeof data === 'string' ? data : data.slice());
    },
    async commit() {
      layer.committed = true;
      return 'layer' as LayerId;
    },
    async [Symbol.asyncDispose]() {},
  };
  return Object.assign(layer, { writer });
}

/** What the layer shows over its parent, in a disk of `size` bytes. */
function shown(layer: FakeLayer, parent: Uint8Array, size: number): Uint8Array {
  const disk = new Uint8Array(size);
  disk.set(parent.subarray(0, size));
  for (const [block, data] of layer.blocks) {
    const part = disk.subarray(block * BLOCK, (block + 1) * BLOCK);
    if (data === 'zero') part.fill(0);
    else if (data !== 'absent') part.set(data);
  }
  return disk;
}

const run = (layer: FakeLayer, source: Disk, parent: Disk | null, stop = signal): ReturnType<typeof backup> =>
  backup({ sources: [source], parents: [parent], writer: layer.writer, blockSize: BLOCK, progress, signal: stop });

/** Contents made of blocks of which each is one of a few: zeros, two patterns, or half of one. */
const contents = fc
  .tuple(fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 40 }), fc.integer({ min: 0, max: 7 }))
  .map(([kinds, cut]) => {
    const disk = new Uint8Array(kinds.length * BLOCK - cut * 512);
    for (const [i, kind] of kinds.entries()) {
      const part = disk.subarray(i * BLOCK, (i + 1) * BLOCK);
      if (kind === 1 || kind === 2) pattern(part, i * BLOCK, kind);
      if (kind === 3) pattern(part.subarray(0, 512), i * BLOCK, 1);
    }
    return disk;
  });

describe('backup', () => {
  test('a layer over its parent shows the source, whatever their contents and sizes', async () => {
    await fc.assert(
      fc.asyncProperty(contents, contents, async (before, now) => {
        const layer = fakeLayer();
        const result = await run(layer, lazyDisk(memoryDisk(now), 16384), lazyDisk(memoryDisk(before), 16384));
        expect(Buffer.compare(shown(layer, before, now.length), now)).toBe(0);
        expect(layer.blocks.size).toBe(result.changed + result.zeroed);
        const full = fakeLayer();
        await run(full, memoryDisk(now), null);
        expect(Buffer.compare(shown(full, new Uint8Array(0), now.length), now)).toBe(0);
      }),
      { numRuns: 300 },
    );
  });

  test('that comparison notices one lost block', async () => {
    const now = new Uint8Array(10 * BLOCK);
    pattern(now, 0, 1);
    const layer = fakeLayer();
    await run(layer, memoryDisk(now), null);
    layer.blocks.delete(9);
    expect(Buffer.compare(shown(layer, new Uint8Array(0), now.length), now)).not.toBe(0);
  });

  test('an unchanged disk stores nothing, and equal blocks are never stored again', async () => {
    const now = new Uint8Array(64 * BLOCK);
    pattern(now.subarray(0, 20 * BLOCK), 0, 1);
    const before = now.slice();
    const same = fakeLayer();
    expect(await run(same, memoryDisk(now), memoryDisk(before))).toMatchObject({ changed: 0, zeroed: 0 });
    expect(same.committed).toBe(true);
    now[7 * BLOCK + 5]! ^= 1;
    const one = fakeLayer();
    await run(one, memoryDisk(now), memoryDisk(before));
    expect([...one.blocks.keys()]).toEqual([7]);
  });

  test('what is known to be zero is never read: 16 TiB with three runs of data', async () => {
    const runs = [
      { at: 0, length: BLOCK },
      { at: 2 ** 41 + 512, length: 3 * BLOCK },
      { at: 2 ** 44 - BLOCK, length: BLOCK },
    ];
    const inner = sparseDisk(2 ** 44, 1, runs);
    const read: { at: Bytes; length: Bytes }[] = [];
    const source: Disk = {
      ...inner,
      read(into, at) {
        read.push({ at, length: into.length });
        return inner.read(into, at);
      },
    };
    const layer = fakeLayer();
    const result = await run(layer, source, sparseDisk(2 ** 44, 1, []));
    expect(read).toEqual(runs);
    expect(result.read).toBe(5 * BLOCK);
    expect(Math.max(...layer.blocks.keys())).toBe(2 ** 44 / BLOCK - 1);
    expect(layer.blocks.size).toBe(6);
  });

  test('several blocks are under way, and not more than the windows hold', async () => {
    const now = new Uint8Array(16 * 2 ** 20);
    pattern(now, 0, 3);
    const layer = fakeLayer();
    const result = await run(layer, lazyDisk(memoryDisk(now)), null);
    expect(result).toMatchObject({ read: now.length, changed: now.length / BLOCK });
    expect(layer.busiest).toBeGreaterThan(8);
    expect(layer.busiest).toBeLessThanOrEqual((4 * 2 ** 20) / BLOCK);
    expect(Buffer.compare(shown(layer, new Uint8Array(0), now.length), now)).toBe(0);
  });

  test('a failure is told once everything has ended, and nothing is committed', async () => {
    const now = new Uint8Array(4 * 2 ** 20);
    pattern(now, 0, 3);
    const full = fakeLayer(block => block === 100);
    await expect(run(full, memoryDisk(now), null)).rejects.toMatchObject({ fault: 'no-space' });
    expect(full.active).toBe(0);
    expect(full.committed).toBe(false);
    const parent: Disk = {
      ...memoryDisk(now.slice()),
      async read() {
        throw new ImageError('corrupt', 'the checksum does not hold', { file: 'parent', at: 7 });
      },
    };
    const layer = fakeLayer();
    await expect(run(layer, memoryDisk(now), parent)).rejects.toMatchObject({ fault: 'corrupt' });
    expect(layer.committed).toBe(false);
  });

  test('an abort ends it before the commit', async () => {
    const now = new Uint8Array(8 * 2 ** 20);
    pattern(now, 0, 3);
    const stop = new AbortController();
    const layer = fakeLayer(block => {
      if (block === 300) stop.abort(new ImageError('io', 'stopped'));
      return false;
    });
    await expect(run(layer, memoryDisk(now), null, stop.signal)).rejects.toThrow('stopped');
    expect(layer.committed).toBe(false);
    expect(layer.active).toBe(0);
  });
});
