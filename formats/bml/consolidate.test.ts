/** Consolidation without a key (section 11): what stays is the same, and nothing is lost on the way. */
import { describe, expect, test } from 'vitest';
import { roundUp } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import { type MemoryStore, memoryStore } from '../../src/stores/memory.ts';
import { consolidateBml, dropBml, heldTimes } from './consolidate.ts';
import { failing } from './failing.ts';
import { layerOf, openLayer, pattern, readAll, SECRET, specOf, type Write, writeLayer } from './kit.ts';
import { headerFits } from './record.ts';
import { FIRST_RECORD, PAGE, RECORD_HEADER } from './structs.ts';
import { readTail, type Tail } from './superblock.ts';
import { createBml } from './write.ts';

const SIZE = 300 * 4096;
const NEVER = new AbortController().signal;

const merge = (store: Parameters<typeof consolidateBml>[0], ...files: readonly string[]) =>
  consolidateBml(store, { files, signal: NEVER, progress() {} });

const files = (from: number, to: number): string[] =>
  Array.from({ length: to - from + 1 }, (_, i) => `${from + i}.bml`);

interface Chain {
  readonly store: MemoryStore;
  readonly contents: Uint8Array[];
  readonly identities: string[];
}

/** Layers 0 to `count` - 1, each with a few changes. */
async function makeChain(secret: Uint8Array | null, count: number, first = 120): Promise<Chain> {
  const store = memoryStore();
  const contents: Uint8Array[] = [];
  const identities: string[] = [];
  for (let i = 0; i < count; i++) {
    await using parent = i === 0 ? null : await openLayer(store, `${i - 1}.bml`, secret);
    const writes = Array.from(
      { length: i === 0 ? first : 6 },
      (_, n): Write => [0, (n * 7 * (i + 1)) % 300, n % 5 === 4 ? 'zero' : pattern(4096, i * 500 + n)],
    );
    await writeLayer(store, `${i}.bml`, { size: SIZE, parent, secret }, writes);
    await using image = await openLayer(store, `${i}.bml`, secret);
    contents.push(await readAll(layerOf(image)));
    identities.push(image.points[0]!.identity);
  }
  return { store, contents, identities };
}

async function namesOf(store: MemoryStore): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of store.list()) names.push(name);
  return names;
}

/** Every file of the store is a readable point with the content that it had. */
async function expectSame({ store, contents, identities }: Chain, secret: Uint8Array | null): Promise<string[]> {
  const names = (await namesOf(store)).filter(name => name.endsWith('.bml'));
  for (const name of names) {
    const number = Number.parseInt(name, 10);
    await using image = await openLayer(store, name, secret);
    expect(image.points[0]).toMatchObject({ problem: null, identity: identities[number], sealed: true });
    expect(Buffer.compare(await readAll(layerOf(image)), contents[number]!), name).toBe(0);
  }
  return names;
}

async function verified(store: MemoryStore, name: string, secret: Uint8Array | null): Promise<unknown[]> {
  const found: unknown[] = [];
  await using image = await openLayer(store, name, secret);
  await image.verify!({ level: 3, found: p => found.push(p), progress() {}, signal: NEVER });
  return found;
}

async function tailOf(store: MemoryStore, name: string): Promise<Tail> {
  await using source = await store.open(name);
  return await readTail(source);
}

/** Header and body of each data record, by its disk and block. */
function dataRecords(file: Uint8Array): { readonly key: string; readonly at: number; readonly record: Uint8Array }[] {
  const found = [];
  for (let at = FIRST_RECORD; at + RECORD_HEADER < file.length; ) {
    const header = file.subarray(at, at + RECORD_HEADER);
    const view = viewOf(header);
    if (header[0] !== 0x42 || header[1] !== 0x52 || !headerFits(header)) {
      at += 64;
      continue;
    }
    const length = RECORD_HEADER + view.getUint32(32, true) + ((view.getUint32(12, true) & 1) === 1 ? 16 : 0);
    const key = `${view.getUint32(8, true)} ${view.getUint32(16, true)}`;
    if (header[4] === 1) found.push({ key, at, record: file.slice(at, at + length) });
    at += roundUp(length, 64);
  }
  return found;
}

describe.each([['plain', null] as const, ['encrypted', SECRET] as const])('consolidation, %s', (_, secret) => {
  test('of an inner range: the records of the newest layers, byte for byte, one per position', async () => {
    const chain = await makeChain(secret, 10);
    const { store } = chain;
    const before = files(2, 7).map(name => dataRecords(store.bytes(name)));
    const result = await merge(store, ...files(2, 7));
    expect(result).toMatchObject({ built: true, removed: files(2, 6).reverse(), bytes: store.bytes('7.bml').length });
    expect(await expectSame(chain, secret)).toEqual(['0.bml', '1.bml', '7.bml', '8.bml', '9.bml']);
    const after = dataRecords(store.bytes('7.bml'));
    expect(new Set(after.map(one => one.key)).size).toBe(after.length);
    const newest = new Map(before.flat().map(({ key, record }) => [key, record]));
    for (const { key, record } of after) expect(Buffer.compare(record, newest.get(key)!)).toBe(0);
    // Positions of the union that are not there are zero at the tip.
    const tip = chain.contents[7]!;
    for (const key of newest.keys()) {
      const block = Number(key.split(' ')[1]);
      const stored = after.some(one => one.key === key);
      const zero = tip.subarray(block * 4096, block * 4096 + 4096).every(byte => byte === 0);
      expect(stored).toBe(!zero);
    }
    const union = [...newest.values()].reduce((sum, record) => sum + roundUp(record.length, 64), 0);
    const nodes = 4 * PAGE;
    const index = roundUp(result.records * 49, PAGE);
    expect(result.bytes).toBeLessThan(FIRST_RECORD + (union + nodes + index + 4 * PAGE) * 1.01);
    for (const name of ['7.bml', '8.bml']) expect(await verified(store, name, secret)).toEqual([]);
    await using image = await openLayer(store, '7.bml', secret);
    await using older = await openLayer(store, '1.bml', secret);
    expect(image.points[0]).toMatchObject({ builtOn: older.points[0]!.id, type: 'incremental' });
    await using locked = await openLayer(store, '7.bml');
    expect(locked.points[0]!.builtOn).toBe(older.points[0]!.id);
  });

  test('of a whole chain: a full that needs no other file, and again on top of that', async () => {
    const chain = await makeChain(secret, 8);
    const { store, contents } = chain;
    await merge(store, ...files(0, 4));
    expect(await expectSame(chain, secret)).toEqual(['4.bml', '5.bml', '6.bml', '7.bml']);
    await using full = await openLayer(memoryStore({ '4.bml': store.bytes('4.bml') }), '4.bml', secret);
    expect(full.points[0]).toMatchObject({ type: 'full', builtOn: null, problem: null });
    await merge(store, '4.bml', '5.bml', '6.bml');
    expect(await expectSame(chain, secret)).toEqual(['6.bml', '7.bml']);
    expect(await heldTimes(store, '6.bml')).toHaveLength(7);
    await using parent = await openLayer(store, '7.bml', secret);
    await writeLayer(store, '8.bml', { size: SIZE, parent, secret }, [[0, 0, pattern(4096, 9999)]]);
    await using child = await openLayer(store, '8.bml', secret);
    const read = await readAll(layerOf(child));
    expect(Buffer.compare(read.subarray(0, 4096), pattern(4096, 9999))).toBe(0);
    expect(Buffer.compare(read.subarray(4096), contents[7]!.subarray(4096))).toBe(0);
    await merge(store, '6.bml', '7.bml', '8.bml');
    expect(await namesOf(store)).toEqual(['8.bml']);
    expect(await verified(store, '8.bml', secret)).toEqual([]);
  });

  test('stopped at any operation: the old chain or the new one, and the same call completes it', async () => {
    const made = await makeChain(secret, 5, 30);
    let finished = false;
    for (let stop = 0; !finished; stop++) {
      for (const dead of [true, false]) {
        const store = memoryStore(Object.fromEntries(files(0, 4).map(name => [name, made.store.bytes(name)])));
        const chain = { ...made, store };
        const result = await merge(failing(store, stop, dead).store, ...files(1, 3)).catch((error: unknown) => error);
        finished = !(result instanceof Error);
        const left = await expectSame(chain, secret);
        expect(left).toEqual(expect.arrayContaining(['0.bml', '3.bml', '4.bml']));
        if (left.includes('2.bml')) expect(left).toContain('1.bml');
        const again = files(1, 3).filter(name => left.includes(name));
        await merge(store, ...again);
        expect(await expectSame(chain, secret)).toEqual(['0.bml', '3.bml', '4.bml']);
        expect(await namesOf(store)).toHaveLength(3);
      }
      expect(stop).toBeLessThan(40);
    }
  });

  test('a flipped bit in a record is found without the key, and nothing is published', async () => {
    const { store } = await makeChain(secret, 4, 30);
    const bytes = store.bytes('1.bml');
    // One that no newer layer hides.
    const { at } = dataRecords(bytes).find(one => one.key === '0 14')!;
    bytes[at + RECORD_HEADER + 9]! ^= 4;
    store.put('1.bml', bytes);
    const before = await namesOf(store);
    const error = await merge(store, ...files(0, 2)).catch((e: unknown) => e);
    expect(error).toMatchObject({ fault: 'corrupt', where: { file: '1.bml', at } });
    expect(await namesOf(store)).toEqual(before);
    expect(Buffer.compare(store.bytes('1.bml'), bytes)).toBe(0);
  });

  test('each byte behind the list of held layers is looked at', async () => {
    const { store } = await makeChain(secret, 4);
    await merge(store, ...files(1, 2));
    const sound = store.bytes('2.bml');
    const { heldAt, held } = await tailOf(store, '2.bml');
    const end = heldAt + held * 16 + 4;
    expect(roundUp(end, 64) - end).toBeGreaterThan(0);
    for (let at = end; at < roundUp(end, 64); at++) {
      const bytes = sound.slice();
      bytes[at]! ^= 1;
      const found = await verified(memoryStore({ '2.bml': bytes, '0.bml': store.bytes('0.bml') }), '2.bml', secret);
      expect(found, `flip at ${at}`).toMatchObject([{ fault: 'corrupt', offset: end }]);
    }
  });

  test('a record that went to the wrong place is noticed when it is read back', async () => {
    const { store } = await makeChain(secret, 3, 30);
    const before = await namesOf(store);
    // The medium loses one write in the middle: what is there is a record of zeros.
    const lossy = {
      ...failing(store, -1, false).store,
      async create(name: string) {
        const file = await store.create(name);
        return {
          ...file,
          get size() {
            return file.size;
          },
          async write(from: Uint8Array, at: number) {
            const copy = at === FIRST_RECORD ? from.slice() : from;
            if (at === FIRST_RECORD) copy.copyWithin(0, 8192, 16384);
            await file.write(copy, at);
          },
        };
      },
    };
    await expect(merge(lossy, ...files(0, 2))).rejects.toMatchObject({ fault: 'corrupt' });
    expect(await namesOf(store)).toEqual(before);
  });

  test('two records swapped in the result: neither is served', async () => {
    const { store } = await makeChain(secret, 3, 30);
    await merge(store, ...files(0, 2));
    const bytes = store.bytes('2.bml');
    const records = dataRecords(bytes);
    const a = records[0]!;
    const b = records.find(one => one.key !== a.key && one.record.length === a.record.length)!;
    bytes.set(b.record, a.at);
    bytes.set(a.record, b.at);
    await using image = await openLayer(memoryStore({ '2.bml': bytes }), '2.bml', secret);
    const layer = layerOf(image);
    for (const { key } of [a, b]) {
      const block = Number(key.split(' ')[1]);
      await layer.load(block * 4096, 4096);
      await expect(layer.unpack(block, new Uint8Array(4096))).rejects.toMatchObject({ fault: 'corrupt' });
    }
  });

  test('a reader that was there before goes on reading, also when its files are gone', async () => {
    const chain = await makeChain(secret, 6);
    const { store, contents } = chain;
    await using image = await openLayer(store, '5.bml', secret);
    await merge(store, ...files(0, 3));
    expect(await namesOf(store)).toEqual(['3.bml', '4.bml', '5.bml']);
    expect(Buffer.compare(await readAll(layerOf(image)), contents[5]!)).toBe(0);
  });

  test('a damaged trailer loses nothing, a damaged index page is an error and not a hole', async () => {
    const { store, contents } = await makeChain(secret, 3);
    await merge(store, ...files(0, 1));
    const sound = store.bytes('1.bml');
    const torn = sound.slice();
    torn[torn.length - 100]! ^= 1;
    await using image = await openLayer(memoryStore({ '1.bml': torn, '2.bml': store.bytes('2.bml') }), '2.bml', secret);
    expect(Buffer.compare(await readAll(layerOf(image)), contents[2]!)).toBe(0);
    const bytes = sound.slice();
    const trailer = viewOf(bytes.subarray(bytes.length - PAGE));
    const indexAt = trailer.getUint32(48, true);
    const pages = Math.ceil(trailer.getUint32(56, true) / 85);
    for (let page = 0; page < pages; page++) bytes[indexAt + page * PAGE + 60]! ^= 1;
    const damaged = memoryStore({ '1.bml': bytes, '2.bml': store.bytes('2.bml') });
    await using child = await openLayer(damaged, '2.bml', secret);
    await expect(readAll(layerOf(child))).rejects.toMatchObject({ fault: 'corrupt' });
    expect((await verified(damaged, '1.bml', secret)).length).toBeGreaterThan(0);
  });
});

describe('what is refused, with everything left as it was', () => {
  async function refused(store: MemoryStore, names: readonly string[]): Promise<unknown> {
    const before = await namesOf(store);
    const error = await merge(store, ...names).catch((e: unknown) => e);
    expect(await namesOf(store)).toEqual(before);
    return error;
  }

  test('a branch from an inner point, by its name; up to the branching it goes', async () => {
    const { store } = await makeChain(null, 5, 30);
    await using parent = await openLayer(store, '2.bml');
    await writeLayer(store, 'branch.bml', { size: SIZE, parent }, [[0, 1, pattern(4096, 3)]]);
    const error = await refused(store, files(1, 4));
    expect(error).toMatchObject({ fault: 'usage', message: expect.stringContaining('branch.bml builds on layer') });
    await merge(store, ...files(1, 2));
    await merge(store, ...files(3, 4));
    expect(await namesOf(store)).toEqual(['0.bml', '2.bml', '4.bml', 'branch.bml']);
    await using branch = await openLayer(store, 'branch.bml');
    expect(branch.points[0]!.problem).toBeNull();
    await readAll(layerOf(branch));
  });

  test('a branch whose own beginning was consolidated, although nothing of the point under it is left', async () => {
    const store = memoryStore();
    const on = async (name: string, parent: string | null): Promise<void> => {
      await using image = parent === null ? null : await openLayer(store, parent);
      await writeLayer(store, name, { size: SIZE, parent: image }, []);
    };
    await on('0.bml', null);
    await on('1.bml', '0.bml');
    await on('2.bml', '0.bml');
    await on('3.bml', '1.bml');
    await merge(store, '1.bml', '3.bml');
    expect(await refused(store, ['0.bml', '2.bml'])).toMatchObject({
      fault: 'usage',
      message: expect.stringContaining('3.bml builds on layer'),
    });
  });

  test('a point left out of the range; another set; a file that cannot be read', async () => {
    const { store } = await makeChain(null, 4, 30);
    expect(await refused(store, ['1.bml', '3.bml'])).toMatchObject({ fault: 'usage' });
    expect(await refused(store, ['2.bml', '1.bml'])).toMatchObject({ fault: 'usage' });
    await writeLayer(store, 'other.bml', {}, []);
    expect(await refused(store, ['other.bml', '3.bml'])).toMatchObject({
      fault: 'usage',
      where: { file: 'other.bml' },
    });
    const bytes = store.bytes('0.bml');
    bytes.fill(0xff, bytes.length - PAGE);
    bytes.fill(0xff, PAGE, 3 * PAGE);
    store.put('damaged.bml', bytes);
    expect(await refused(store, ['1.bml', '2.bml'])).toMatchObject({
      fault: 'corrupt',
      message: expect.stringContaining('damaged.bml cannot be read'),
    });
  });

  test('while a layer is being written, and a layer while it runs; a dead writer is no obstacle', async () => {
    const { store, contents } = await makeChain(null, 4, 30);
    await using parent = await openLayer(store, '3.bml');
    {
      await using _writer = await createBml('4.bml', store, specOf({ size: SIZE, parent }));
      const error = await merge(store, ...files(1, 3)).catch((e: unknown) => e);
      expect(error).toMatchObject({ fault: 'busy', message: expect.stringMatching(/a layer is being written/) });
    }
    expect(await namesOf(store)).toEqual(files(0, 3));
    const held = failing(store, 1, true);
    await expect(merge(held.store, ...files(1, 3))).rejects.toThrow();
    expect((await namesOf(store)).filter(name => name.endsWith('.partial'))).toHaveLength(1);
    await using writer = await createBml('4.bml', store, specOf({ size: SIZE, parent }));
    await expect(createBml('4.bml', store, specOf({ size: SIZE, parent }))).rejects.toMatchObject({ fault: 'busy' });
    await writer.commit();
    expect(await namesOf(store)).toEqual(files(0, 4));
    // An image that was opened before a consolidation is no parent any more.
    await merge(store, ...files(1, 3));
    await expect(createBml('5.bml', store, specOf({ size: SIZE, parent }))).rejects.toMatchObject({ fault: 'busy' });
    await using image = await openLayer(store, '4.bml');
    expect(Buffer.compare(await readAll(layerOf(image)), contents[3]!)).toBe(0);
  });

  test('dropping a point on which another builds; a leaf goes', async () => {
    const { store } = await makeChain(null, 3, 30);
    await expect(dropBml(store, '1.bml')).rejects.toMatchObject({ fault: 'usage' });
    await dropBml(store, '2.bml');
    await dropBml(store, '1.bml');
    expect(await namesOf(store)).toEqual(['0.bml']);
  });
});
