/** Secrets come and go; blocks stay as they are, and at no moment is a set without a way in. */
import { beforeAll, describe, expect, test } from 'vitest';
import type { ByteFile } from '../../src/base/contracts.ts';
import { type MemoryStore, memoryStore } from '../../src/stores/memory.ts';
import { editKeys, type KeyEdit, listKeys } from './key-edit.ts';
import { CHEAP, layerOf, openLayer, pattern, readAll, SECRET, writeLayer } from './kit.ts';
import { FIRST_RECORD, KEY_AREA_SIZE, KEY_AREAS } from './structs.ts';

const NEW = Buffer.from('battery staple');
const THIRD = Buffer.from('horse');
const NAMES = ['0.bml', '1.bml', '2.bml'];
let files: Record<string, Uint8Array>;

const fresh = (): MemoryStore => memoryStore(files);

/** A set of two chains: 0 and 1, and a second full. */
beforeAll(async () => {
  const store = memoryStore();
  await writeLayer(store, '0.bml', { secret: SECRET }, [[0, 1, pattern(4096, 1)]]);
  await using parent = await openLayer(store, '0.bml', SECRET);
  await writeLayer(store, '1.bml', { secret: SECRET, parent }, [[0, 2, pattern(4096, 2)]]);
  await writeLayer(store, '2.bml', { secret: SECRET }, [[0, 3, pattern(4096, 3)]]);
  files = Object.fromEntries(NAMES.map(name => [name, store.bytes(name)]));
});

const edit = (store: MemoryStore, change: KeyEdit, present: readonly Uint8Array[] = [SECRET], stop = Infinity) => {
  let writes = 0;
  return editKeys(store, {
    files: NAMES,
    edit: change,
    present,
    derivations: CHEAP,
    async openForWriting(name) {
      const file = (await store.open(name)) as ByteFile;
      return {
        ...file,
        get size() {
          return file.size;
        },
        async write(from, at) {
          const torn = writes++ === stop;
          await file.write(torn ? from.subarray(0, 5000) : from, at);
          if (torn) throw new Error('planted');
        },
      };
    },
  });
};

async function opens(store: MemoryStore, secret: Uint8Array): Promise<boolean[]> {
  const found: boolean[] = [];
  for (const name of NAMES) {
    await using image = await openLayer(store, name, secret);
    if (image.points[0]!.problem === null) await readAll(layerOf(image));
    found.push(image.points[0]!.problem === null);
  }
  return found;
}

const all = [true, true, true];
const none = [false, false, false];

/** Nothing outside the key areas differs. */
function expectDataUntouched(store: MemoryStore): void {
  for (const name of NAMES) {
    const [now, before] = [store.bytes(name), files[name]!.slice()];
    for (const at of KEY_AREAS) {
      now.fill(0, at, at + KEY_AREA_SIZE);
      before.fill(0, at, at + KEY_AREA_SIZE);
    }
    expect(Buffer.compare(now, before)).toBe(0);
    expect(now.length).toBeGreaterThan(FIRST_RECORD);
  }
}

describe('a set with two fulls', () => {
  test('add, change, remove: who can read, and that nothing else is written', async () => {
    const store = fresh();
    expect(await edit(store, { kind: 'add', secret: NEW, label: 'office' })).toBe(3);
    expect([await opens(store, SECRET), await opens(store, NEW)]).toEqual([all, all]);
    expect(await edit(store, { kind: 'add', secret: NEW, label: '' })).toBe(0);
    const [group] = await listKeys(store, NAMES);
    expect(group!.slots.map(slot => [slot.type, slot.label])).toEqual([
      ['scrypt', ''],
      ['scrypt', 'office'],
    ]);
    expect(await edit(store, { kind: 'change', secret: THIRD, label: '' }, [NEW])).toBe(3);
    expect([await opens(store, SECRET), await opens(store, NEW), await opens(store, THIRD)]).toEqual([all, none, all]);
    const ids = (await listKeys(store, NAMES)).map(one => one.slots[0]!.id);
    await expect(edit(store, { kind: 'remove', id: ids[0]! }, [NEW])).rejects.toMatchObject({ fault: 'wrong-key' });
    // Each full has slots of its own; a key that was added has one id in all of them.
    expect(await edit(store, { kind: 'remove', id: ids[0]! }, [SECRET])).toBe(2);
    expect(await opens(store, SECRET)).toEqual([false, false, true]);
    const [third] = (await listKeys(store, NAMES)).map(one => one.slots.at(-1)!.id);
    await expect(edit(store, { kind: 'remove', id: 'abcd' }, [THIRD])).rejects.toMatchObject({ fault: 'not-found' });
    await expect(edit(store, { kind: 'remove', id: third! }, [THIRD])).rejects.toMatchObject({ fault: 'usage' });
    expect(await opens(store, THIRD)).toEqual(all);
    expectDataUntouched(store);
  });

  test('a later layer has the keys that its parent has now', async () => {
    const store = fresh();
    await edit(store, { kind: 'change', secret: NEW, label: '' });
    await using parent = await openLayer(store, '1.bml', NEW);
    await writeLayer(store, '3.bml', { secret: NEW, parent }, [[0, 4, pattern(4096, 4)]]);
    await using child = await openLayer(store, '3.bml', NEW);
    expect(child.points[0]!.problem).toBeNull();
    await using closed = await openLayer(store, '3.bml', SECRET);
    expect(closed.points[0]!.problem).toMatchObject({ fault: 'wrong-key' });
  });

  test('the last key stays; a wrong one changes nothing', async () => {
    const store = memoryStore({ '0.bml': files['0.bml']! });
    const one = {
      files: ['0.bml'],
      derivations: CHEAP,
      openForWriting: async () => (await store.open('0.bml')) as ByteFile,
    };
    const [group] = await listKeys(store, ['0.bml']);
    const { id } = group!.slots[0]!;
    await expect(editKeys(store, { ...one, edit: { kind: 'remove', id }, present: [SECRET] })).rejects.toMatchObject({
      fault: 'usage',
      message: expect.stringContaining('last key'),
    });
    await expect(
      editKeys(store, { ...one, edit: { kind: 'add', secret: NEW, label: '' }, present: [THIRD] }),
    ).rejects.toMatchObject({ fault: 'wrong-key' });
    expect(Buffer.compare(store.bytes('0.bml'), files['0.bml']!)).toBe(0);
    await editKeys(store, { ...one, edit: { kind: 'add', secret: NEW, label: '' }, present: [SECRET] });
    await editKeys(store, { ...one, edit: { kind: 'remove', id: id.slice(0, 8) }, present: [NEW] });
    await using image = await openLayer(store, '0.bml', SECRET);
    expect(image.points[0]!.problem).toMatchObject({ fault: 'wrong-key' });
  });

  test('stopped at any write: each file opens with the old key or the new one, and the same call completes it', async () => {
    for (let stop = 0; stop < 6; stop++) {
      const store = fresh();
      const change: KeyEdit = { kind: 'change', secret: NEW, label: '' };
      await expect(edit(store, change, [SECRET], stop)).rejects.toThrow('planted');
      const [old, now] = [await opens(store, SECRET), await opens(store, NEW)];
      expect(old.map((yes, i) => yes || now[i])).toEqual(all);
      await edit(store, change);
      expect([await opens(store, SECRET), await opens(store, NEW)]).toEqual([none, all]);
      expect((await listKeys(store, NAMES)).flatMap(one => one.differing)).toEqual([]);
      expectDataUntouched(store);
    }
  });
});
