import { describe, expect, test } from 'vitest';
import { random } from '../../test/kit/random.ts';
import type { ByteFile, Bytes } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { DIRECT_UNIT } from '../base/shared-bytes.ts';
import { memoryStore } from '../stores/memory.ts';
import { writeBehind } from './write-behind.ts';

const MIB = 2 ** 20;

/** Writes take some turns of the event loop; `before` may fail one. */
async function slowFile(before: (at: Bytes) => void = () => {}, turnsOf: () => number = () => 1) {
  const store = memoryStore();
  const file = await store.create('f');
  const underway = new Set<readonly [Bytes, Bytes]>();
  const counts = { most: 0, overlapping: 0, syncs: 0 };
  const slow: ByteFile = Object.assign(Object.create(file) as ByteFile, {
    async write(from: Uint8Array, at: Bytes) {
      const range = [at, at + from.length] as const;
      for (const [start, end] of underway) if (start < range[1] && range[0] < end) counts.overlapping++;
      underway.add(range);
      counts.most = Math.max(counts.most, underway.size);
      for (let turns = turnsOf(); turns > 0; turns--) await new Promise(resolve => setImmediate(resolve));
      underway.delete(range);
      before(at);
      await file.write(from, at);
    },
    async sync() {
      counts.syncs++;
    },
  });
  return { slow, counts, bytes: () => store.bytes('f') };
}

describe('writing behind', () => {
  test('random writes and reads are as if they were done at once, one after another', async () => {
    const { below, pick } = random(3);
    const { slow, counts, bytes } = await slowFile(
      () => {},
      () => below(6),
    );
    await using file = writeBehind(slow);
    const expected = new Uint8Array(12 * MIB);
    for (let n = 0, at = 0; n < 300; n++) {
      const data = new Uint8Array(1 + below(pick([100, 5000, 3 * MIB]))).fill(1 + (n % 255));
      at = below(3) === 0 || at + data.length > expected.length ? below(expected.length - data.length) : at;
      await file.write(data, at);
      expected.set(data, at);
      data.fill(0xee);
      at += data.length;
      expect(file.size).toBeGreaterThanOrEqual(at);
      if (below(20) > 0) continue;
      const got = new Uint8Array(Math.min(4096, at));
      await file.read(got, at - got.length);
      expect(Buffer.compare(got, expected.subarray(at - got.length, at))).toBe(0);
    }
    await file.settle();
    expect(counts).toEqual({ most: 3, overlapping: 0, syncs: expect.any(Number) });
    expect(bytes().length).toBe(file.size);
    expect(Buffer.compare(bytes(), expected.subarray(0, bytes().length))).toBe(0);
  });

  test('what is written with gaps goes out as a device wants it, and holes stay holes', async () => {
    const edges: Bytes[] = [];
    const { slow, bytes } = await slowFile(at => edges.push(at));
    await using file = writeBehind(slow);
    const expected = new Uint8Array(9 * MIB);
    let at = 512;
    for (const [length, gap] of [
      [MIB, 512],
      [3 * MIB, 70_000],
      [5000, MIB - 100],
      [MIB, 3],
      [10, 0],
    ] as const) {
      const data = new Uint8Array(length).fill(7);
      await file.write(data, at);
      expected.set(data, at);
      at += length + gap;
    }
    await file.settle();
    expect(bytes().length).toBe(at);
    expect(Buffer.compare(bytes(), expected.subarray(0, at))).toBe(0);
    expect(edges.filter(edge => edge % DIRECT_UNIT !== 0)).toEqual([]);
    const unwritten = 4 * MIB + 512 + 512 + DIRECT_UNIT;
    expect(edges.some(edge => edge > unwritten && edge < unwritten + 70_000)).toBe(true);
  });

  test('a write that fails is reported, also when nothing is written any more', async () => {
    const { slow } = await slowFile(at => {
      if (at >= 2 * MIB) throw new ImageError('no-space', 'no space left');
    });
    await using file = writeBehind(slow);
    await file.write(new Uint8Array(2 * MIB), 0);
    await file.write(new Uint8Array(512), 2 * MIB);
    await expect(file.settle()).rejects.toMatchObject({ fault: 'no-space' });
    await expect(file.write(new Uint8Array(512), 0)).rejects.toMatchObject({ fault: 'no-space' });
    await expect(file.settle()).rejects.toMatchObject({ fault: 'no-space' });
  });

  test('a medium that refuses once, in the background, is not forgotten', async () => {
    const { slow } = await slowFile();
    let refused = false;
    const once = Object.assign(Object.create(slow) as ByteFile, {
      async sync() {
        if (refused) return;
        refused = true;
        throw new ImageError('io', 'I/O failed (EIO)');
      },
    });
    await using file = writeBehind(once);
    const data = new Uint8Array(2 * MIB);
    const all = async (): Promise<void> => {
      // Again and again over the same place: what counts is how much is written.
      for (let n = 0; n < 70; n++) await file.write(data, (n % 2) * 2 * MIB);
      await file.settle();
    };
    await expect(all()).rejects.toMatchObject({ fault: 'io' });
    await expect(file.settle()).rejects.toMatchObject({ fault: 'io' });
  });
});
