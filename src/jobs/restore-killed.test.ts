/** A restore that is killed, or loses its power, at any operation: no file of that name, or the right one; and it completes. */
import { expect, test } from 'vitest';
import { memoryDisk, pattern } from '../../test/kit/disks.ts';
import { lossyStore, waysToLose } from '../../test/kit/lossy-store.ts';
import { random } from '../../test/kit/random.ts';
import type { Bytes, WritableStore } from '../base/contracts.ts';
import { memoryStore } from '../stores/memory.ts';
import { type RestoreTarget, restore } from './restore.ts';

const MIB = 2 ** 20;
const SIZE = 9 * MIB + 512;
const PARTIAL = 'out.partial';
const JOURNAL = 'out.partial.json';

function content(): Uint8Array {
  const bytes = new Uint8Array(SIZE);
  for (let at = 0; at < SIZE - MIB; at += 3 * MIB) pattern(bytes.subarray(at, at + 70_000), at, 7);
  bytes[SIZE - 1] = 1;
  return bytes;
}

async function namesOf(store: WritableStore): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of store.list()) names.push(name);
  return names;
}

/** As on a file system: the journal is replaced by a durable file, the name is given last. */
function targetIn(store: WritableStore): RestoreTarget {
  const has = async (name: string): Promise<boolean> => (await namesOf(store)).includes(name);
  const discard = async (...names: readonly string[]): Promise<void> => {
    for (const name of names) if (await has(name)) await store.remove(name);
  };
  return {
    name: 'out',
    open: async () => ((await has(PARTIAL)) ? store.reopen(PARTIAL) : store.create(PARTIAL)),
    async readJournal() {
      if (!(await has(JOURNAL))) return null;
      await using file = await store.open(JOURNAL);
      const text = new Uint8Array(file.size);
      await file.read(text, 0);
      return Buffer.from(text).toString();
    },
    async writeJournal(text) {
      await discard('new');
      await using file = await store.create('new');
      await file.write(Buffer.from(text), 0);
      await file.sync();
      await store.rename('new', JOURNAL);
    },
    async finish() {
      await store.rename(PARTIAL, 'out');
      await discard(JOURNAL);
    },
    discard: () => discard(PARTIAL, JOURNAL),
  };
}

const bytes = content();

const run = (store: WritableStore, stopAt: Bytes = Number.POSITIVE_INFINITY): Promise<unknown> => {
  const stop = new AbortController();
  return restore({
    disk: memoryDisk(bytes),
    identity: 'point/disk0',
    format: 'raw',
    target: targetIn(store),
    write: null,
    reopen: () => Promise.reject(new Error('raw is not opened again')),
    // What is there has to be right also when nobody looks at it again.
    readBack: false,
    checking() {},
    progress: done => done >= stopAt && stop.abort(new Error('stopped')),
    signal: stop.signal,
  });
};

/** What a run leaves that was interrupted in the middle: the next one goes on with it. */
async function interrupted(): Promise<Record<string, Uint8Array>> {
  const store = memoryStore();
  await expect(run(store, 4 * MIB)).rejects.toThrow('stopped');
  return Object.fromEntries((await namesOf(store)).map(name => [name, store.bytes(name)]));
}

async function everyStop(start: Readonly<Record<string, Uint8Array>>, lies: boolean): Promise<number> {
  const { below } = random(5);
  for (let stop = 0; ; stop++) {
    const lossy = lossyStore(start, stop, lies);
    const error = await run(lossy.store).then(
      () => null,
      (failure: unknown) => failure,
    );
    for (const pick of waysToLose(process.env.BOOTMOUNT_LONG === '1' ? 20 : 0, below)) {
      const what = `operation ${stop} (${lossy.log[stop] ?? 'none'})`;
      const store = memoryStore(lossy.after(pick));
      const names = await namesOf(store);
      expect(names.includes('out'), what).toBe(
        error === null || (lossy.log[stop] === 'remove' && names.includes('out')),
      );
      if (!names.includes('out')) await run(store);
      expect(Buffer.compare(store.bytes('out'), bytes), what).toBe(0);
    }
    if (error === null) return stop;
  }
}

test('from the start', async () => {
  expect(await everyStop({}, false)).toBeGreaterThan(15);
});

test('going on where an earlier run was stopped', async () => {
  const start = await interrupted();
  expect(Object.keys(start)).toEqual([PARTIAL, JOURNAL]);
  expect(await everyStop(start, false)).toBeGreaterThan(10);
});

test('control: a sync that is skipped is noticed', async () => {
  await expect(everyStop({}, true)).rejects.toThrow();
});
