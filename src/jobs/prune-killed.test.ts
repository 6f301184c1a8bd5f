/** Pruning that is killed, or loses its power, at any operation, also while files are removed: whole sets, and it completes. */
import { expect, test } from 'vitest';
import { consolidateBml, dropBml, heldTimes } from '../../formats/bml/consolidate.ts';
import { bml } from '../../formats/bml/index.ts';
import { pattern, SECRET } from '../../formats/bml/kit.ts';
import { createBml } from '../../formats/bml/write.ts';
import { lossyStore, waysToLose } from '../../test/kit/lossy-store.ts';
import { random } from '../../test/kit/random.ts';
import type { Keyring, Store, WritableStore } from '../base/contracts.ts';
import { timeName } from '../chain/names.ts';
import { openRepository } from '../chain/repository.ts';
import { memoryStore } from '../stores/memory.ts';
import { planPrune, prune } from './prune.ts';

const LONG = process.env.BOOTMOUNT_LONG === '1';
const BLOCK = 4096;
const SIZE = 40 * BLOCK;
/** What the point of each day is made on. */
type Parents = readonly (number | null)[];
/** Each on the one before, but for a second full and a branch that ends in a leaf. */
const FORWARD: Parents = [null, 0, 1, 2, 2, 4, null, 6, 7, 8];
/** A reverse chain: the newest is the full, each older one is made on the one after it, but for a branch. */
const REVERSE: Parents = [1, 2, 4, 4, 5, 6, 7, 8, 9, null];
const format = { consolidate: consolidateBml, drop: dropBml, heldTimes };
const ring: Keyring = { secrets: async () => [SECRET] };
const none: Keyring = { secrets: async () => [] };
const dayOf = (i: number): Date => new Date(Date.UTC(2026, 0, i + 1));
const fileOf = (i: number): string => `web/${timeName(dayOf(i))}.bml`;

let files: Record<string, Uint8Array>;
/** Contents of each point, by its file. */
let disks: Map<string, Uint8Array>;

async function disksIn(store: Store): Promise<Map<string, Uint8Array>> {
  const found = new Map<string, Uint8Array>();
  await using repository = await openRepository(store, [bml], ring);
  for (const point of repository.sets.flatMap(set => set.points)) {
    await using disk = await point.openDisk(0);
    const bytes = new Uint8Array(disk.size);
    await disk.read(bytes, 0);
    found.set(point.file, bytes);
  }
  return found;
}

async function make(parents: Parents): Promise<void> {
  const store = memoryStore();
  const order = [...parents.keys()];
  if (parents[0] !== null) order.reverse();
  for (const i of order) {
    const under = parents[i] ?? null;
    await using parent = under === null ? null : await bml.open(fileOf(under), store, ring);
    const spec = {
      set: 'web',
      time: dayOf(i),
      type: under === null ? ('full' as const) : ('incremental' as const),
      disks: [{ name: 'disk0', size: SIZE, sectorSize: 512 as const }],
      blockSize: BLOCK,
      parent: parent === null ? null : { image: parent, point: parent.points[0]! },
      secret: SECRET,
      compression: 1,
    };
    await using writer = await createBml(fileOf(i), store, spec, { derivations: [{ kdf: 'raw' }] });
    for (let n = 0; n < (under === null ? 12 : 3); n++) {
      await writer.write(0, (n * 3 + i) % 40, pattern(BLOCK, i * 100 + n));
    }
    await writer.commit();
  }
  files = Object.fromEntries(parents.map((_, i) => [fileOf(i), store.bytes(fileOf(i))]));
  disks = await disksIn(store);
}

/** The two newest and the newest of two weeks: 2026-01-04 was a Sunday. What goes are leaves, and runs between. */
async function pruneOnce(store: WritableStore): Promise<readonly string[]> {
  await using repository = await openRepository(store, [bml], none);
  const plan = planPrune(repository.sets[0]!, { last: 2, daily: 0, weekly: 2, monthly: 0 }, []);
  const { signal } = new AbortController();
  await prune({ plan, store, format, signal, progress() {}, done() {} });
  return plan.decisions.filter(one => one.keep).map(one => one.point.file);
}

async function expectSame(store: Store, what: string): Promise<readonly string[]> {
  const found = await disksIn(store);
  for (const [file, bytes] of found) expect(Buffer.compare(bytes, disks.get(file)!), `${what}: ${file}`).toBe(0);
  return [...found.keys()];
}

/** Answers how many operations there were, and how many of them were removals. */
async function everyStop(lies: boolean): Promise<{ operations: number; removals: number }> {
  const { below } = random(3);
  const kept = [3, 8, 9].map(fileOf);
  for (let stop = 0; ; stop++) {
    const lossy = lossyStore(files, stop, lies);
    const error = await pruneOnce(lossy.store).then(
      () => null,
      (failure: unknown) => failure,
    );
    for (const pick of waysToLose(LONG ? 20 : 0, below)) {
      const what = `operation ${stop} (${lossy.log[stop] ?? 'none'})`;
      const store = memoryStore(lossy.after(pick));
      expect(await expectSame(store, what)).toEqual(expect.arrayContaining(kept));
      expect(await pruneOnce(store), what).toEqual(kept);
      expect(await expectSame(store, what), what).toEqual(kept);
    }
    if (error === null) {
      return { operations: stop, removals: lossy.log.filter(one => one === 'remove').length };
    }
  }
}

test.each([['forward', FORWARD] as const, ['reverse', REVERSE] as const])(
  'of a %s chain every point that is kept stays as it was; the same rules again complete it',
  { timeout: LONG ? 1_200_000 : 120_000 },
  async (_, parents) => {
    await make(parents);
    const { operations, removals } = await everyStop(false);
    expect(operations).toBeGreaterThan(20);
    expect(removals).toBeGreaterThan(6);
  },
);

test('control: a sync that is skipped is noticed', async () => {
  await make(FORWARD);
  await expect(everyStop(true)).rejects.toThrow();
});
