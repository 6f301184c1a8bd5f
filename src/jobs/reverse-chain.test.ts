/**
 * Reverse chains: the newest point is the full, and each older one is a layer of older content on the one after it in time.
 * `.bml` has no word for them: what a layer is made on need not be older than it.
 */
import { describe, expect, test } from 'vitest';
import { consolidateBml, dropBml, heldTimes } from '../../formats/bml/consolidate.ts';
import { bml } from '../../formats/bml/index.ts';
import { pattern, SECRET } from '../../formats/bml/kit.ts';
import { createBml } from '../../formats/bml/write.ts';
import type { Keyring, LayerCipher } from '../base/contracts.ts';
import { findPoint } from '../chain/find.ts';
import { timeName } from '../chain/names.ts';
import { openRepository } from '../chain/repository.ts';
import { type MemoryStore, memoryStore } from '../stores/memory.ts';
import { consolidate } from './consolidate.ts';
import { planPrune, prune } from './prune.ts';

const BLOCK = 4096;
const POINTS = 8;
const format = { consolidate: consolidateBml, drop: dropBml, heldTimes };
const none: Keyring = { secrets: async () => [] };
const ring: Keyring = { secrets: async () => [SECRET] };
const watch = { signal: new AbortController().signal, progress() {} };
const timeOf = (day: number): Date => new Date(Date.UTC(2026, 0, day + 1));
const nameOf = (day: number): string => timeName(timeOf(day));
const fileOf = (day: number): string => `web/${nameOf(day)}.bml`;

/** What the disk held on each day: it grew once, blocks were written and became zeros. */
function history(): readonly Uint8Array[] {
  const days: Uint8Array[] = [];
  for (let day = 0; day < POINTS; day++) {
    const disk = new Uint8Array((day < 3 ? 40 : 50) * BLOCK + 512);
    disk.set((days.at(-1) ?? disk).subarray(0, disk.length));
    for (let n = 0; n < (day === 0 ? 25 : 5); n++) {
      const block = (n * 7 + day * 3) % 40;
      disk.set(n === 3 ? new Uint8Array(BLOCK) : pattern(BLOCK, day * 100 + n), block * BLOCK);
    }
    days.push(disk);
  }
  return days;
}

interface Encryption {
  readonly secret: Uint8Array | null;
  readonly cipher?: LayerCipher;
}

/** The newest day as a full, then each older one as what was different before the day after it. */
async function reverseChain(days: readonly Uint8Array[], { secret, cipher }: Encryption): Promise<MemoryStore> {
  const store = memoryStore();
  for (let day = POINTS - 1; day >= 0; day--) {
    const after = days[day + 1];
    await using base = after === undefined ? null : await bml.open(fileOf(day + 1), store, ring);
    const disk = days[day]!;
    const spec = {
      set: 'web',
      time: timeOf(day),
      type: base === null ? ('full' as const) : ('incremental' as const),
      disks: [{ name: 'disk0', size: disk.length, sectorSize: 512 as const }],
      blockSize: BLOCK,
      parent: base === null ? null : { image: base, point: base.points[0]! },
      secret,
      compression: 1,
      ...(base === null && cipher !== undefined ? { cipher } : {}),
    };
    const options = { derivations: [{ kdf: 'raw' as const }], luksIterations: 1000 };
    await using writer = await createBml(fileOf(day), store, spec, options);
    for (let at = 0; at < disk.length; at += BLOCK) {
      const older = disk.subarray(at, at + BLOCK);
      const same = after !== undefined && Buffer.compare(older, after.subarray(at, at + older.length)) === 0;
      if (!same) await writer.write(0, at / BLOCK, older);
    }
    await writer.commit();
  }
  return store;
}

/** The days whose points are there; each reads as that day, and is sound. */
async function daysIn(store: MemoryStore, days: readonly Uint8Array[]): Promise<readonly number[]> {
  await using repository = await openRepository(store, [bml], ring);
  const found: number[] = [];
  for (const point of repository.sets[0]!.points) {
    const day = (point.time!.getTime() - timeOf(0).getTime()) / 86_400_000;
    await using disk = await point.openDisk(0);
    const bytes = new Uint8Array(disk.size);
    await disk.read(bytes, 0);
    expect(Buffer.compare(bytes, days[day]!), point.name).toBe(0);
    await using image = await bml.open(point.file, store, ring);
    await image.verify!({ ...watch, level: 3, found: problem => expect(problem).toBeNull() });
    found.push(day);
  }
  return found;
}

async function merge(store: MemoryStore, from: number, to: number): Promise<readonly string[]> {
  await using repository = await openRepository(store, [bml], none);
  const set = repository.sets[0]!;
  const range = { from: nameOf(from), to: nameOf(to), clones: [], planned() {} };
  return (await consolidate({ ...watch, set, store, format, ...range })).removed;
}

describe.each<readonly [string, Encryption]>([
  ['plain', { secret: null }],
  ['encrypted', { secret: SECRET }],
  ['of LUKS sectors', { secret: SECRET, cipher: 'aes-256-xts' }],
])('a reverse chain, %s', (_, encryption) => {
  const days = history();

  test('every point reads as its day; the latest is the newest, which is the full', async () => {
    const store = await reverseChain(days, encryption);
    expect(await daysIn(store, days)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    await using repository = await openRepository(store, [bml], ring);
    const latest = findPoint(repository, 'web@latest');
    expect(latest).toMatchObject({ name: nameOf(7), type: 'full', parent: null });
    expect(findPoint(repository, 'web@~1')).toMatchObject({ name: nameOf(6), parent: nameOf(7) });
    // Decrementals hold what changed: five blocks, or less, and what the disk grew by is gone.
    const stored = repository.sets[0]!.points.slice(0, -1).map(point => point.disks[0]!.stored);
    expect(Math.max(...stored)).toBeLessThan(8 * BLOCK);
  });

  test('a range of it is merged without the key, then all of it: what remains reads as before', async () => {
    const store = await reverseChain(days, encryption);
    expect(await merge(store, 6, 3)).toEqual([4, 5, 6].map(fileOf));
    expect(await daysIn(store, days)).toEqual([0, 1, 2, 3, 7]);
    await using repository = await openRepository(store, [bml], none);
    expect(repository.sets[0]!.points.map(point => point.parent)).toEqual(
      [1, 2, 3, 7].map(nameOf).concat([null as never]),
    );
    await expect(merge(store, 0, 3)).rejects.toMatchObject({ fault: 'usage' });
    expect(await merge(store, 7, 0)).toEqual([1, 2, 3, 7].map(fileOf));
    expect(await daysIn(store, days)).toEqual([0]);
    await using image = await bml.open(fileOf(0), store, ring);
    expect(image.points[0]).toMatchObject({ type: 'full', builtOn: null });
  });

  test('a merge that was stopped after any of the removals is completed by the same command', async () => {
    const store = await reverseChain(days, encryption);
    const before = new Map([6, 5, 4].map(day => [day, store.bytes(fileOf(day))]));
    await merge(store, 6, 3);
    // Those next to the point that stays are removed first.
    for (const left of [[6], [6, 5], [6, 5, 4]]) {
      for (const day of left) store.put(fileOf(day), before.get(day)!);
      expect(await daysIn(store, days)).toEqual([0, 1, 2, 3, ...left.toReversed(), 7]);
      expect(await merge(store, 6, 3)).toEqual(left.toReversed().map(fileOf));
      expect(await daysIn(store, days)).toEqual([0, 1, 2, 3, 7]);
    }
  });

  test('pruned by time it keeps what the rules say', async () => {
    const store = await reverseChain(days, encryption);
    const rules = { last: 2, daily: 0, weekly: 2, monthly: 0 };
    await using repository = await openRepository(store, [bml], none);
    const plan = planPrune(repository.sets[0]!, rules, []);
    await prune({ ...watch, plan, store, format, done() {} });
    // 2026-01-04 was a Sunday.
    expect(await daysIn(store, days)).toEqual([3, 6, 7]);
  });
});
