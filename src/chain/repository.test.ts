/** What a folder of backups shows: names of sets, files of many-file formats, folders that are not listed. */
import { expect, test } from 'vitest';
import { raw } from '../../formats/raw/index.ts';
import type { Adapter, Image, LayerId, Store } from '../base/contracts.ts';
import { adapters } from '../registry.ts';
import { memoryStore } from '../stores/memory.ts';
import { openRepository } from './repository.ts';

const NO_KEYS = { secrets: async () => [] };
const empty = new Uint8Array(0);

/** Files whose content is the name of their set. */
const named: Adapter = {
  name: 'named',
  title: 'Named',
  extensions: [],
  supports: { differencing: false, encryption: false, compression: false, write: false },
  probe: () => 'certain',
  async open(name, store): Promise<Image> {
    await using source = await store.open(name);
    const set = new Uint8Array(source.size);
    await source.read(set, 0);
    return {
      adapter: 'named',
      name,
      encrypted: false,
      warnings: [],
      points: [
        {
          id: name as LayerId,
          parent: null,
          set: new TextDecoder().decode(set),
          time: null,
          type: 'full',
          disks: [],
          identity: name,
          problem: null,
        },
      ],
      async [Symbol.asyncDispose]() {},
    };
  },
};

const setsOf = async (...sets: readonly string[]): Promise<Record<string, readonly string[]>> => {
  const files = sets.map((set, i) => [`${i}.x`, new TextEncoder().encode(set)]);
  await using repository = await openRepository(memoryStore(Object.fromEntries(files)), [named], NO_KEYS);
  return Object.fromEntries(repository.sets.map(({ name, points }) => [name, points.map(({ file }) => file)]));
};

test('sets whose names become the same folder name stay two sets', async () => {
  expect(await setsOf('a/b', 'a-b', 'a/b', 'a@b')).toEqual({
    'a-b': ['1.x'],
    'a-b-2': ['0.x', '2.x'],
    'a-b-3': ['3.x'],
  });
});

const filesBesides = {
  'clonezilla/disk': empty,
  'clonezilla/clonezilla-img': empty,
  'clonezilla/sda-pt.sf': empty,
  'clonezilla/Info-packages.txt': empty,
  'clonezilla/parts': new TextEncoder().encode('sda1\n'),
  'vm1/vmconfig.virtnbdbackup.0.xml': empty,
  'vm1/sda.virtnbdbackup.0.qcow.json': empty,
  'vm1/checkpoints/virtnbdbackup.0.xml': empty,
  'vzdump-qemu-100-2026_11_20-10_00_00.vma.zst.notes': empty,
  'vzdump-qemu-100-2026_11_20-10_00_00.log': empty,
  'store/vm/100/owner': empty,
  'store/vm/100/2026-11-20T10:00:00Z/index.json.blob': empty,
  'store/vm/100/2026-11-20T10:00:00Z/drive-scsi0.img.fidx': empty,
  'xo-vm-backups/x/20261120T100000Z.json': empty,
};

test('files of an image that are not opened by themselves are no unknown files', async () => {
  const store = memoryStore({ ...filesBesides, 'notes.txt': empty, disk: empty, 'loose/drive.fidx': empty });
  await using repository = await openRepository(store, adapters, NO_KEYS);
  expect(repository.unknown).toEqual([
    'disk',
    'loose/drive.fidx',
    'notes.txt',
    // Without its magic it is no manifest.
    'store/vm/100/2026-11-20T10:00:00Z/index.json.blob',
  ]);
});

test('the chunks of a datastore and the blocks of a VHD directory are not looked at', async () => {
  const chunks = ['ds/.chunks/0000/0000aa', '.chunks/ffff/ffffbb', 'xo/data/a.vhd/blocks/0/1'];
  const files = memoryStore(Object.fromEntries(chunks.map(name => [name, empty])));
  const opened: string[] = [];
  const watched: Store = {
    ...files,
    open: name => {
      opened.push(name);
      return files.open(name);
    },
  };
  await using repository = await openRepository(watched, adapters, NO_KEYS);
  expect([opened, repository.unknown]).toEqual([[], []]);
  await using all = await openRepository(watched, [raw], NO_KEYS);
  expect(opened.toSorted()).toEqual(chunks.toSorted());
  expect(all.sets).toEqual([]);
});
