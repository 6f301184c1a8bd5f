/** Secrets, key slots, hostile costs, and nonces. */
import crypto from 'node:crypto';
import { describe, expect, test, vi } from 'vitest';
import { viewOf } from '../../src/base/struct.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { associatedData, COUNTER, GCM_TAG, type Place, sealInto, unsealNow } from './crypto.ts';
import { bml } from './index.ts';
import { buildKeyArea, hasArgon2, unlock, usualDerivations } from './keys.ts';
import { keyring, layerOf, openLayer, pattern, readAll, SECRET, specOf, type Write, writeLayer } from './kit.ts';
import { ENCRYPTED, KEY_AREA_SIZE, KEY_AREAS, SHORT, sealCrc } from './structs.ts';

const WRONG = Buffer.from('wrong');
const writes: readonly Write[] = [
  [0, 0, pattern(4096, 1)],
  [0, 5, pattern(4096, 3)],
];

async function encrypted() {
  const store = memoryStore();
  await writeLayer(store, 'a.bml', { secret: SECRET }, writes);
  return store;
}

test('without a key the points are listed and locked; with a wrong one that is said', async () => {
  const store = await encrypted();
  await using locked = await openLayer(store, 'a.bml');
  expect(locked.encrypted).toBe(true);
  expect(locked.points).toHaveLength(1);
  expect(locked.points[0]).toMatchObject({ set: 'machine', type: 'full', problem: { fault: 'locked' } });
  expect(locked.points[0]!.disks[0]).toMatchObject({ name: 'disk0', size: 40960, layer: null });
  await using wrong = await openLayer(store, 'a.bml', WRONG);
  expect(wrong.points[0]!.problem!.fault).toBe('wrong-key');
  await using second = await bml.open('a.bml', store, keyring(WRONG, SECRET));
  expect(second.points[0]!.problem).toBeNull();
});

test('a child needs the parent secret, shares its key and set, and opens with it', async () => {
  const store = await encrypted();
  await using parent = await openLayer(store, 'a.bml', SECRET);
  const child = (secret: Uint8Array | null) => bml.create!('b.bml', store, specOf({ parent, secret }));
  await expect(child(null)).rejects.toMatchObject({ fault: 'locked' });
  await expect(child(WRONG)).rejects.toMatchObject({ fault: 'wrong-key' });
  await writeLayer(store, 'b.bml', { parent, secret: SECRET }, [[0, 1, pattern(4096, 9)]]);
  await using image = await openLayer(store, 'b.bml', SECRET);
  const read = await readAll(layerOf(image));
  expect(Buffer.compare(read.subarray(0, 4096), pattern(4096, 1))).toBe(0);
  expect(Buffer.compare(read.subarray(4096, 8192), pattern(4096, 9))).toBe(0);
  const locked = await openLayer(store, 'a.bml');
  const onLocked = bml.create!('c.bml', store, specOf({ parent: locked, secret: SECRET }));
  await expect(onLocked).rejects.toMatchObject({ fault: 'locked' });
  await locked[Symbol.asyncDispose]();
});

test('a damaged copy of the key slots is made good by the other; both damaged is said', async () => {
  const store = await encrypted();
  const bytes = store.bytes('a.bml');
  for (const at of KEY_AREAS) {
    const one = bytes.slice();
    one[at + 100]! ^= 1;
    await using image = await openLayer(memoryStore({ 'a.bml': one }), 'a.bml', SECRET);
    expect(image.points[0]!.problem).toBeNull();
  }
  for (const at of KEY_AREAS) bytes[at + 100]! ^= 1;
  await using image = await openLayer(memoryStore({ 'a.bml': bytes }), 'a.bml', SECRET);
  expect(image.points[0]!.problem).toMatchObject({ fault: 'corrupt', where: { file: 'a.bml', at: KEY_AREAS[0] } });
});

test('no plaintext is in the file, and the same block twice is not the same twice', async () => {
  const store = memoryStore();
  const block = Buffer.alloc(4096, 'canary 4711 ');
  await writeLayer(store, 'a.bml', { secret: SECRET, compression: 0 }, [
    [0, 0, block],
    [0, 1, block],
  ]);
  const bytes = Buffer.from(store.bytes('a.bml'));
  expect(bytes.includes('canary')).toBe(false);
  await writeLayer(store, 'b.bml', { compression: 0 }, [[0, 0, block]]);
  expect(Buffer.from(store.bytes('b.bml')).includes('canary')).toBe(true);
});

describe('a hostile key slot', () => {
  const setId = new Uint8Array(16);
  const hostile = async (type: number, cost: number, rounds: number, lanes: number): Promise<Uint8Array> => {
    const area = await buildKeyArea([{ kdf: 'raw' }], SECRET, new Uint8Array(32), setId);
    const view = viewOf(area);
    area[64] = type;
    view.setUint32(68, cost, true);
    view.setUint32(72, rounds, true);
    view.setUint32(76, lanes, true);
    sealCrc(area);
    return area;
  };
  test.each([
    ['scrypt with N = 2^30', 2, 30, 8, 1],
    ['scrypt with 2 GiB', 2, 20, 16, 1],
    ['scrypt with p = 2^31', 2, 4, 8, 2 ** 31],
    ['argon2id with 4 TiB', 1, 2 ** 32 - 1, 3, 4],
    ['argon2id with 2^31 passes', 1, 65536, 2 ** 31, 4],
    ['argon2id without lanes', 1, 65536, 3, 0],
    ['an unknown function', 77, 1, 1, 1],
  ])('%s is refused in 10 ms', async (_name, type, cost, rounds, lanes) => {
    const area = await hostile(type, cost, rounds, lanes);
    const before = performance.now();
    await expect(unlock(area, [SECRET], setId, 'x.bml', 12288)).rejects.toMatchObject({ fault: 'unsupported' });
    expect(performance.now() - before).toBeLessThan(10);
  });

  test('thousands of slots are refused', async () => {
    const area = await hostile(3, 0, 0, 0);
    viewOf(area).setUint16(16, 60000, true);
    sealCrc(area);
    await expect(unlock(area, [SECRET], setId, 'x.bml', 12288)).rejects.toMatchObject({ fault: 'unsupported' });
  });
});

test('the usual slots open with each of their functions alone', async () => {
  const setId = new Uint8Array(16).fill(9);
  const master = new Uint8Array(32).fill(7);
  const usual = usualDerivations();
  expect(usual.map(how => how.kdf)).toEqual(hasArgon2() ? ['argon2id', 'scrypt'] : ['scrypt']);
  for (const how of [...usual, { kdf: 'raw' } as const]) {
    const area = await buildKeyArea([how], SECRET, master, setId);
    expect(area.length).toBe(KEY_AREA_SIZE);
    const found = await unlock(area, [SECRET], setId, 'x.bml', 12288);
    expect(found!.master.export()).toEqual(Buffer.from(master));
    expect(await unlock(area, [SECRET], new Uint8Array(16), 'x.bml', 12288)).toBeNull();
  }
});

test('no key and nonce are used twice, over rewrites, aborts and branches', async () => {
  const seen = new Set<string>();
  const keys = new Set<string>();
  let calls = 0;
  const original = crypto.createCipheriv;
  const recording = (algorithm: 'aes-256-gcm', key: crypto.CipherKey, nonce: Uint8Array, options: object) => {
    // Keys of slots are bytes; those of sessions are key objects.
    if (key instanceof crypto.KeyObject) {
      const its = key.export().toString('hex');
      keys.add(its);
      seen.add(`${its} ${Buffer.from(nonce).toString('hex')}`);
      calls++;
    }
    return original(algorithm, key, nonce, options);
  };
  const spy = vi.spyOn(crypto, 'createCipheriv').mockImplementation(recording as typeof original);
  try {
    const store = memoryStore();
    const rewrites = Array.from({ length: 40 }, (_, i): Write => [0, i % 3, pattern(4096, i)]);
    await writeLayer(store, '0.bml', { secret: SECRET }, rewrites);
    await using parent = await openLayer(store, '0.bml', SECRET);
    for (const name of ['1.bml', '2.bml']) await writeLayer(store, name, { parent, secret: SECRET }, rewrites);
    {
      await using aborted = await bml.create!('3.bml', store, specOf({ parent, secret: SECRET }));
      for (const [disk, block, state] of rewrites) await aborted.write(disk, block, state);
    }
    await writeLayer(store, '3.bml', { parent, secret: SECRET }, rewrites);
    // Every session has a salt of its own, so its key is another one even where the counters are the same.
    const salts = ['0', '1', '2', '3'].map(n =>
      Buffer.from(store.bytes(`${n}.bml`).slice(65536 + 48 + 32, 65536 + 48 + 48)).toString('hex'),
    );
    expect(new Set(salts).size).toBe(4);
  } finally {
    spy.mockRestore();
  }
  expect(calls).toBe(200);
  expect(seen.size).toBe(calls);
  expect(keys.size).toBe(5);
});

test('a sealed block opens as what it was sealed as, and as nothing else', () => {
  const key = crypto.createSecretKey(new Uint8Array(32).fill(5));
  const place: Place = {
    setId: new Uint8Array(16).fill(1),
    layer: new Uint8Array(16).fill(2),
    kind: 'data',
    disk: 3,
    index: 2 ** 33 + 4,
    level: 0,
  };
  const sealed = new Uint8Array(COUNTER + 100 + GCM_TAG);
  sealInto(sealed, key, 6, associatedData(place, 1, 4096, ENCRYPTED), pattern(100, 1));
  const others: readonly (readonly [string, Uint8Array<ArrayBuffer>])[] = [
    ['set', associatedData({ ...place, setId: new Uint8Array(16) }, 1, 4096, ENCRYPTED)],
    ['layer', associatedData({ ...place, layer: new Uint8Array(16) }, 1, 4096, ENCRYPTED)],
    ['kind', associatedData({ ...place, kind: 'node' }, 1, 4096, ENCRYPTED)],
    ['disk', associatedData({ ...place, disk: 4 }, 1, 4096, ENCRYPTED)],
    ['block', associatedData({ ...place, index: 2 ** 33 + 5 }, 1, 4096, ENCRYPTED)],
    ['block, high part', associatedData({ ...place, index: 4 }, 1, 4096, ENCRYPTED)],
    ['level', associatedData({ ...place, level: 1 }, 1, 4096, ENCRYPTED)],
    ['codec', associatedData(place, 0, 4096, ENCRYPTED)],
    ['plain length', associatedData(place, 1, 4095, ENCRYPTED)],
    ['flags', associatedData(place, 1, 4096, ENCRYPTED | SHORT)],
  ];
  const opens = (aad: Uint8Array<ArrayBuffer>): boolean =>
    unsealNow(key, sealed.subarray(0, COUNTER), aad, sealed.subarray(COUNTER)) !== null;
  expect(opens(associatedData(place, 1, 4096, ENCRYPTED))).toBe(true);
  expect(others.filter(([, aad]) => opens(aad)).map(([what]) => what)).toEqual([]);
  // Control: were the block not in it, the record of one would open as that of another.
  const without = (index: number): Uint8Array<ArrayBuffer> =>
    associatedData({ ...place, index }, 1, 4096, ENCRYPTED).fill(0, 40, 48);
  sealInto(sealed, key, 7, without(1), pattern(100, 1));
  expect(opens(without(2))).toBe(true);
});
