import { expect, test } from 'vitest';
import { lazyDisk, memoryDisk, pattern } from '../../test/kit/disks.ts';
import { random } from '../../test/kit/random.ts';
import { HOLE, readBlocks } from './sparse.ts';

const SIZE = 40 * HOLE + 777;

/** Runs of data and of zeros. */
function runs(seed: number): Uint8Array {
  const { below, pick } = random(seed);
  const content = new Uint8Array(SIZE);
  for (let at = 0; at < SIZE; at += below(4 * HOLE)) {
    const end = Math.min(SIZE, at + 1 + below(pick([4096, HOLE, 4 * HOLE])));
    pattern(content.subarray(at, end), at, seed + 1);
    at = end;
  }
  return content;
}

test('whole blocks of zeros are left as they are, and all else is filled, whatever was there before', async () => {
  let left = 0;
  for (let seed = 0; seed < 50; seed++) {
    const content = runs(seed);
    const at = HOLE * random(seed).below(8);
    const wanted = content.subarray(at);
    const into = new Uint8Array(SIZE - at).fill(0xee);
    const filled = await readBlocks(lazyDisk(memoryDisk(content), 3 * HOLE), into, at);
    let end = 0;
    for (const part of [...filled, { at: into.length, length: 0 }]) {
      left += part.at - end;
      expect(Buffer.compare(wanted.subarray(end, part.at), Buffer.alloc(part.at - end))).toBe(0);
      expect(Buffer.compare(into.subarray(end, part.at), Buffer.alloc(part.at - end, 0xee))).toBe(0);
      for (const edge of [end, part.at]) if (edge !== into.length) expect(edge % HOLE).toBe(0);
      end = part.at + part.length;
      expect(Buffer.compare(into.subarray(part.at, end), wanted.subarray(part.at, end))).toBe(0);
    }
  }
  expect(left).toBeGreaterThan(100 * HOLE);
});
