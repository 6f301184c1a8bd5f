/** A file system inside LUKS2, inside a partition. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  type Expected,
  emptyImage,
  expectedOf,
  lacking,
  plainTree,
  scratch,
  tool,
} from '../../test/kit/volume-images.ts';
import { imageDisk, linesOf, volumesOn, walk } from '../../test/kit/volume-walk.ts';
import { MetadataCache } from './source.ts';
import { openVolumes } from './volumes.ts';

const cannot = lacking('mke2fs', 'cryptsetup', 'sfdisk');
const folder = scratch();
const file = path.join(folder, 'disk');
const MIB = 2 ** 20;
let expected: Expected;

afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

describe.skipIf(cannot !== '')(`volumes inside LUKS ${cannot}`, () => {
  beforeAll(() => {
    const tree = path.join(folder, 'tree');
    fs.mkdirSync(tree);
    plainTree(tree);
    expected = expectedOf(tree);
    const volume = path.join(folder, 'volume');
    emptyImage(volume, 16 * MIB);
    tool('mke2fs', ['-q', '-F', '-t', 'ext4', '-L', 'secret', '-d', tree, volume]);
    emptyImage(file, 80 * MIB);
    tool('sfdisk', ['-q', file], 'label: gpt\nsize=8M\nsize=48M, name="vault"\n');
    const key = path.join(folder, 'key');
    fs.writeFileSync(key, 'let me in');
    fs.truncateSync(volume, 48 * MIB);
    const costs = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];
    tool('cryptsetup', [
      'reencrypt',
      '--encrypt',
      '-q',
      '--reduce-device-size',
      '32M',
      ...costs,
      '--key-file',
      key,
      volume,
    ]);
    const fd = fs.openSync(file, 'r+');
    fs.writeSync(fd, fs.readFileSync(volume), 0, 48 * MIB, 9 * MIB);
    fs.closeSync(fd);
  });

  test('without a key the volume is named and locked; with a wrong one too', async () => {
    await using disk = await imageDisk(file);
    const none = await volumesOn([disk]);
    const [locked] = none.locked;
    expect(none.volumes).toEqual([]);
    expect(locked).toEqual({ name: 'p2-luks2', type: 'luks2', reason: 'encrypted with LUKS2, and there is no key' });
    const wrong = await volumesOn([disk], 'let me out');
    expect([wrong.volumes, wrong.notes]).toEqual([[], []]);
    expect(wrong.locked).toMatchObject([{ reason: 'no key given opens a keyslot of LUKS2' }]);
  });

  test('with the key it is read as a plain one', async () => {
    await using disk = await imageDisk(file);
    const { volumes, locked, notes } = await volumesOn([disk], 'let me out', 'let me in');
    expect([locked, notes]).toEqual([[], []]);
    expect(volumes.map(({ name }) => name)).toEqual(['p2-ext4-secret']);
    const lines = linesOf(await walk(volumes[0]!.volume.root));
    delete lines['lost+found'];
    expect(lines).toEqual(expected.lines);
    expect(volumes[0]!.place(0, 512)).toBeNull();
  });

  test('a stretch that is to be left out is not looked into', async () => {
    await using disk = await imageDisk(file);
    const tried: string[] = [];
    const found = await openVolumes({
      disks: [{ disk, name: 'disk0' }],
      cache: new MetadataCache(0),
      keys: { secrets: async () => [] },
      skip: new Set(['disk0 p2']),
      opening: its => tried.push(its),
    });
    expect(found).toMatchObject({
      volumes: [],
      locked: [],
      unknown: [{ its: 'disk0 p1' }],
      notes: ['disk0 p2 is left out'],
    });
    expect(tried).toEqual(['disk0 p1']);
  });
});
