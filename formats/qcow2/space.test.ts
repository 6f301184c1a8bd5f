import { expect, test } from 'vitest';
import { memoryStore } from '../../src/stores/memory.ts';
import { random } from '../../test/kit/random.ts';
import { HostSpace } from './space.ts';

test('every count is the number of users, over many refcount blocks', async () => {
  const size = 512;
  const store = memoryStore();
  const space = new HostSpace(await store.create('f'), size);
  const { below, pick } = random(1);
  const used: number[] = [];
  const use = (at: number, length: number): void => {
    for (let c = Math.floor(at / size); c < Math.ceil((at + length) / size); c++) used[c] = (used[c] ?? 0) + 1;
  };
  const packed: { at: number; length: number }[] = [];
  for (let i = 0; i < 4000; i++) {
    if (pick([true, false])) {
      const clusters = 1 + below(3);
      use(await space.take(clusters), clusters * size);
    } else {
      for (let n = below(6); n >= 0; n--) {
        const length = 1 + below(pick([40, 511]));
        const at = await space.takePacked(length);
        packed.push({ at, length });
        use(at, length);
      }
    }
  }
  const { refcountsAt, refcountClusters } = await space.finish();
  use(refcountsAt, refcountClusters * size);
  const file = new DataView(store.bytes('f').buffer);
  const table = Array.from({ length: refcountClusters * 64 }, (_, i) => Number(file.getBigUint64(refcountsAt + i * 8)));
  for (const block of table) if (block !== 0) use(block, size);
  const counts = table.flatMap(block =>
    block === 0 ? [] : Array.from({ length: size / 2 }, (_, i) => file.getUint16(block + i * 2)),
  );
  const last = space.end / size;
  expect(counts.slice(0, last)).toEqual(Array.from({ length: last }, (_, i) => used[i] ?? 0));
  expect(counts.slice(last).every(count => count === 0)).toBe(true);
  const sorted = packed.toSorted((a, b) => a.at - b.at);
  for (const [i, { at, length }] of sorted.entries())
    expect(at + length).toBeLessThanOrEqual(sorted[i + 1]?.at ?? Number.POSITIVE_INFINITY);
});
