/** The power fails before any operation: what was promised is there, and the same call completes what was not. */
import { beforeAll, describe, expect, test } from 'vitest';
import type { WritableStore } from '../../src/base/contracts.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { lossyStore, waysToLose } from '../../test/kit/lossy-store.ts';
import { random } from '../../test/kit/random.ts';
import { consolidateBml, dropBml } from './consolidate.ts';
import { layerOf, openLayer, pattern, readAll, SECRET, type Write, writeLayer } from './kit.ts';

const SIZE = 150 * 4096;
const NEVER = new AbortController().signal;
const WRITES: readonly (readonly Write[])[] = [
  Array.from({ length: 12 }, (_, i): Write => [0, i * 12, pattern(4096, i)]),
  [
    [0, 3, pattern(4096, 77)],
    [0, 12, 'zero'],
  ],
  [
    [0, 3, pattern(4096, 79)],
    [0, 149, pattern(4096, 80)],
  ],
  [[0, 24, pattern(4096, 81)]],
];
const nameOf = (i: number): string => `${i}.bml`;

let files: Record<string, Uint8Array>;
const contents: Uint8Array[] = [];

const write = async (store: WritableStore, i: number): Promise<void> => {
  await using parent = i === 0 ? null : await openLayer(store, nameOf(i - 1), SECRET);
  await writeLayer(store, nameOf(i), { size: SIZE, secret: SECRET, parent }, WRITES[i]!);
};

beforeAll(async () => {
  const store = memoryStore();
  for (const i of WRITES.keys()) {
    await write(store, i);
    await using image = await openLayer(store, nameOf(i), SECRET);
    contents.push(await readAll(layerOf(image)));
  }
  files = Object.fromEntries(WRITES.map((_, i) => [nameOf(i), store.bytes(nameOf(i))]));
});

interface Scenario {
  readonly start: readonly number[];
  run(store: WritableStore): Promise<unknown>;
  /** Points that are there before and after. */
  readonly stay: readonly number[];
  /** Those that are there when it is done. */
  readonly end: readonly number[];
}

const merge = (store: WritableStore, points: readonly number[]): Promise<unknown> =>
  consolidateBml(store, { files: points.map(nameOf), signal: NEVER, progress() {} });

const pointsIn = (found: Readonly<Record<string, Uint8Array>>): number[] =>
  Object.keys(found)
    .filter(name => name.endsWith('.bml'))
    .map(name => Number.parseInt(name, 10))
    .sort();

const SCENARIOS: Readonly<Record<string, Scenario>> = {
  'a first layer': { start: [], run: store => write(store, 0), stay: [], end: [0] },
  'a layer': { start: [0, 1], run: store => write(store, 2), stay: [0, 1], end: [0, 1, 2] },
  'a consolidation': {
    start: [0, 1, 2, 3],
    async run(store) {
      const there: number[] = [];
      for await (const { name } of store.list()) if (name.endsWith('.bml')) there.push(Number.parseInt(name, 10));
      await merge(
        store,
        [0, 1, 2].filter(i => there.includes(i)),
      );
    },
    stay: [2, 3],
    end: [2, 3],
  },
  'a removal': {
    start: [0, 1],
    async run(store) {
      for await (const { name } of store.list()) if (name === nameOf(1)) await dropBml(store, name);
    },
    stay: [0],
    end: [0],
  },
};

/** Every point that is there is sound and has its bytes. */
async function expectSound(found: Record<string, Uint8Array>, what: string): Promise<void> {
  const store = memoryStore(found);
  for (const i of pointsIn(found)) {
    await using image = await openLayer(store, nameOf(i), SECRET);
    expect(image.warnings).toEqual([]);
    expect(Buffer.compare(await readAll(layerOf(image)), contents[i]!), `${what}: bytes of ${i}`).toBe(0);
    const problems: unknown[] = [];
    await image.verify!({ level: 3, found: one => problems.push(one), progress() {}, signal: NEVER });
    expect(problems).toEqual([]);
  }
}

/** Answers at how many operations the power failed. */
async function everyLoss({ start, run, stay, end }: Scenario, lies: boolean, chances: number): Promise<number> {
  const { below } = random(7);
  const before = Object.fromEntries(start.map(i => [nameOf(i), files[nameOf(i)]!]));
  for (let stop = 0; ; stop++) {
    const lossy = lossyStore(before, stop, lies);
    const error = await run(lossy.store).then(
      () => null,
      (failure: unknown) => failure,
    );
    for (const pick of waysToLose(chances, below)) {
      const found = lossy.after(pick);
      const what = `operation ${stop} (${lossy.log[stop] ?? 'none'})`;
      expect(pointsIn(found), what).toEqual(expect.arrayContaining([...stay]));
      if (error === null) expect(pointsIn(found), what).toEqual(end);
      await expectSound(found, what);
      const again = memoryStore(found);
      // A layer that is there already is not made once more.
      await run(again).catch((failure: { fault?: string }) => {
        if (failure.fault !== 'exists') throw failure;
      });
      const left: Record<string, Uint8Array> = {};
      for await (const { name } of again.list()) left[name] = again.bytes(name);
      expect(pointsIn(left), what).toEqual(end);
      // Where nothing was to be done any more nobody has looked around either.
      if (pointsIn(found).length !== end.length) expect(Object.keys(left), what).toEqual(end.map(nameOf));
      await expectSound(left, what);
    }
    if (error === null) return stop;
  }
}

describe.each(Object.entries(SCENARIOS))('%s', (name, scenario) => {
  const chances = process.env.BOOTMOUNT_LONG === '1' ? 50 : 1;

  test('before any operation', { timeout: 60_000 * chances }, async () => {
    expect(await everyLoss(scenario, false, chances)).toBeGreaterThan(1);
  });

  test.skipIf(name === 'a removal')('control: a sync that is skipped is noticed', async () => {
    await expect(everyLoss(scenario, true, 1)).rejects.toThrow();
  });
});
