import { describe, expect, test } from 'vitest';
import { random } from '../../test/kit/random.ts';
import type { ByteFile, Bytes } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { memoryStore } from '../stores/memory.ts';
import { writeBehind } from './write-behind.ts';

const MIB = 2 ** 20;

/** Writes take a turn of the event loop; `before` may fail one. */
async function slowFile(before: (at: Bytes) => void = () => {}) {
  const store = memoryStore();
  const file = await store.create('f');
  let underway = 0;
  const counts = { most: 0, syncs: 0 };
  const slow: ByteFile = Object.assign(Object.create(file) as ByteFile, {
    async write(from: Uint8Array, at: Bytes) {
      counts.most = Math.max(counts.most, ++underway);
      await new Promise(resolve => setImmediate(resolve));
      underway--;
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
    const { slow, counts, bytes } = await slowFile();
    await using file = writeBehind(slow);
    const expected = new Uint8Array(12 * MIB);
    const { below, pick } = random(3);
    for (let n = 0, at = 0; n < 300; n++) {
      const data = new Uint8Array(1 + below(pick([100, 5000, 3 * MIB]))).fill(1 + (n % 255));
      at = below(3) === 0 || at + data.length > expected.length ? below(expected.length - data.length) : at;
      await file.write(data, at);
      expected.set(data, at);
      data.fill(0xee);
      at += data.length;
      if (below(20) > 0) continue;
      const got = new Uint8Array(Math.min(4096, at));
      await file.read(got, at - got.length);
      expect(Buffer.compare(got, expected.subarray(at - got.length, at))).toBe(0);
    }
    await file.settle();
    expect(counts).toEqual({ most: 1, syncs: expect.any(Number) });
    expect(Buffer.compare(bytes(), expected.subarray(0, bytes().length))).toBe(0);
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
