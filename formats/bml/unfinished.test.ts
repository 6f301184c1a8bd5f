/** Killed runs: the next one goes on, stores nothing twice, and never encrypts two things alike. */
import { expect, test } from 'vitest';
import type { LayerCipher } from '../../src/base/contracts.ts';
import { type MemoryStore, memoryStore } from '../../src/stores/memory.ts';
import { random } from '../../test/kit/random.ts';
import { failing } from './failing.ts';
import { CHEAP, layerOf, openLayer, pattern, readAll, SECRET, specOf, type Write } from './kit.ts';
import { noncesOf } from './raw-records.ts';
import { FIRST_RECORD, RECORD_HEADER } from './structs.ts';
import { createBml } from './write.ts';

const BLOCK = 65_536;
const BLOCKS = 36;
const CUT = 1024;
const size = BLOCKS * BLOCK - CUT;

const disk = (seed: number): readonly Write[] =>
  Array.from({ length: BLOCKS }, (_, i): Write => {
    // A few blocks differ from run to run, as those of a machine at work do.
    const changed = i % 9 === seed % 9 ? 1000 + seed : 0;
    return [0, i, pattern(i === BLOCKS - 1 ? BLOCK - CUT : BLOCK, i + changed)];
  });

const contents = (writes: readonly Write[]): Buffer => Buffer.concat(writes.map(([, , data]) => data as Uint8Array));

/** One run of a writer. Bytes that it found; throws where it was killed. */
async function run(
  store: Parameters<typeof createBml>[1],
  name: string,
  secret: Uint8Array | null,
  parent: Awaited<ReturnType<typeof openLayer>> | null,
  writes: readonly Write[],
  cipher: LayerCipher = 'aes-256-gcm',
): Promise<number> {
  const spec = specOf({ size, blockSize: BLOCK, secret, parent, cipher });
  await using writer = await createBml(name, store, spec, { derivations: CHEAP, luksIterations: 1000 });
  for (const [on, block, state] of writes) await writer.write(on, block, state);
  await writer.commit();
  return writer.found ?? 0;
}

async function namesOf(store: MemoryStore): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of store.list()) names.push(name);
  return names;
}

async function problemsOf(store: MemoryStore, name: string, secret: Uint8Array | null): Promise<unknown[]> {
  const found: unknown[] = [];
  await using image = await openLayer(store, name, secret);
  expect(image.warnings).toEqual([]);
  const signal = new AbortController().signal;
  await image.verify!({ level: 3, found: problem => found.push(problem), progress() {}, signal });
  return found;
}

test.each([
  ['plain', null, undefined] as const,
  ['encrypted', SECRET, 'aes-256-gcm'] as const,
  ['of LUKS sectors', SECRET, 'aes-256-xts'] as const,
])(
  'killed at any operation, the next run completes the layer with what is there now, %s',
  async (_, secret, cipher) => {
    let finished = false;
    let most = 0;
    for (let stop = 0; !finished; stop++) {
      const store = memoryStore();
      const killed = await run(failing(store, stop, true).store, 'a.bml', secret, null, disk(stop), cipher).catch(
        (error: unknown) => error,
      );
      finished = typeof killed === 'number';
      if (finished) break;
      const found = await run(store, 'a.bml', secret, null, disk(stop + 1), cipher).catch(error => {
        if ((error as { fault?: string }).fault === 'exists') return -1;
        throw error;
      });
      most = Math.max(most, found);
      await using image = await openLayer(store, 'a.bml', secret);
      const expected = contents(disk(found < 0 ? stop : stop + 1));
      expect(Buffer.compare(await readAll(layerOf(image)), expected), `stopped at ${stop}`).toBe(0);
      expect(await problemsOf(store, 'a.bml', secret)).toEqual([]);
      expect(await namesOf(store)).toEqual(['a.bml']);
      // What was stored before is not stored again: the file is hardly longer than that of a run that was not stopped.
      if (found > 2 ** 20) expect(store.bytes('a.bml').length).toBeLessThan(FIRST_RECORD + size * 1.3);
    }
    expect(most).toBeGreaterThan(size / 2);
  },
);

test('two hundred killed runs: no nonce twice under a key, and the last run completes', async () => {
  const { below } = random(4);
  const store = memoryStore();
  const seen = new Map<string, string>();
  const twice: string[] = [];
  const scan = async (): Promise<void> => {
    for (const name of await namesOf(store)) twice.push(...noncesOf(store.bytes(name), seen));
  };
  await run(store, '0.bml', SECRET, null, disk(0));
  await using parent = await openLayer(store, '0.bml', SECRET);
  let killed = 0;
  for (let n = 1; killed < 200; n++) {
    const writes = disk(n).filter((_, i) => i % 3 === n % 3 || i < 20);
    const stopped = await run(failing(store, 1 + below(13), true).store, '1.bml', SECRET, parent, writes).catch(
      (error: unknown) => error,
    );
    if (typeof stopped === 'number') await store.remove('1.bml');
    else killed++;
    // Whatever lies there now, somebody may have copied.
    await scan();
  }
  await run(store, '1.bml', SECRET, parent, disk(5));
  await scan();
  expect(twice).toEqual([]);
  expect(seen.size).toBeGreaterThan(400);
  await using image = await openLayer(store, '1.bml', SECRET);
  expect(Buffer.compare(await readAll(layerOf(image)), contents(disk(5)))).toBe(0);
  expect(await problemsOf(store, '1.bml', SECRET)).toEqual([]);
  // Control: the scan does see other content under a nonce that it knows.
  const forged = store.bytes('1.bml');
  for (let i = FIRST_RECORD; i < forged.length; i += 64) {
    if (forged[i] !== 0x42 || forged[i + 4] !== 1) continue;
    forged[i + RECORD_HEADER + 9]! ^= 1;
    break;
  }
  expect(noncesOf(forged, seen)).toHaveLength(1);
});

test('another set, another block size or another secret: nothing of it is used', async () => {
  const leave = async (secret: Uint8Array | null): Promise<MemoryStore> => {
    const store = memoryStore();
    await run(failing(store, 8, true).store, 'a.bml', secret, null, disk(0)).catch(() => {});
    expect(await namesOf(store)).toHaveLength(1);
    return store;
  };
  for (const [left, now] of [
    [null, SECRET],
    [SECRET, null],
    [SECRET, Buffer.from('another one')],
  ]) {
    const store = await leave(left!);
    expect(await run(store, 'a.bml', now!, null, disk(1))).toBe(0);
    await using image = await openLayer(store, 'a.bml', now!);
    expect(Buffer.compare(await readAll(layerOf(image)), contents(disk(1)))).toBe(0);
    expect(await namesOf(store)).toEqual(['a.bml']);
  }
  const other = await leave(SECRET);
  expect(await run(other, 'a.bml', SECRET, null, disk(0), 'aes-256-xts')).toBe(0);
  const store = await leave(null);
  {
    const spec = specOf({ size, blockSize: 4096 });
    await using writer = await createBml('a.bml', store, spec, { derivations: CHEAP });
    expect(writer.found).toBe(0);
  }
  expect(await namesOf(store)).toEqual([]);
});
