/**
 * 100,000 names in one folder, written and listed by Linux or ntfs-3g, and each looked up: with `BOOTMOUNT_LONG=1`, since
 * filling takes minutes. FAT ends a folder at 65,536 entries of 32 bytes, of which a long name takes several.
 */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { emptyImage, lacking, mounted, scratch, tool } from '../../test/kit/volume-images.ts';
import { imageDisk, volumesOf } from '../../test/kit/volume-walk.ts';

const MIB = 2 ** 20;
const COUNT = Number(process.env.BOOTMOUNT_MANY ?? 100_000);
const folder = scratch();
const mnt = path.join(folder, 'mnt');
const image = path.join(folder, 'image');
beforeAll(() => fs.mkdirSync(mnt));
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const root = process.getuid?.() === 0 ? '' : 'needs root';
const cannot = process.env.BOOTMOUNT_LONG === '1' ? root : 'BOOTMOUNT_LONG=1 runs it';

describe.skipIf(cannot !== '')(`very many names ${cannot}`, () => {
  test.for([
    ['ext4', 600, ['mke2fs', '-q', '-F', '-t', 'ext4', '-N', '110000'], ['mount', '-o', 'loop']],
    ['XFS', 600, ['mkfs.xfs', '-q', '-f'], ['mount', '-o', 'loop']],
    ['btrfs', 600, ['mkfs.btrfs', '-q', '-f'], ['mount', '-o', 'loop']],
    ['NTFS', 300, ['mkntfs', '-F', '-Q', '-q'], ['ntfs-3g']],
    ['exFAT', 600, ['mkfs.exfat'], ['mount.exfat-fuse']],
  ] as const)('%s', { timeout: 1_800_000 }, async ([, size, make, mount], context) => {
    if (lacking(make[0], mount[0]) !== '') return context.skip(lacking(make[0], mount[0]));
    emptyImage(image, size * MIB);
    tool(make[0], [...make.slice(1), image]);
    let judged: readonly string[] = [];
    const done = mounted([...mount, image, mnt], () => {
      fs.mkdirSync(path.join(mnt, 'many'));
      for (let i = 0; i < COUNT; i++)
        fs.closeSync(fs.openSync(path.join(mnt, 'many', `file number ${i * 7}.txt`), 'w'));
      judged = fs.readdirSync(path.join(mnt, 'many')).sort();
    });
    if (!done) return context.skip('cannot be mounted here');
    expect(judged).toHaveLength(COUNT);
    await using disk = await imageDisk(image);
    const top = (await volumesOf(disk)).volumes[0]!.volume.root;
    const many = await (await top.list()).find(({ name }) => name === 'many')!.node();
    if (many.kind !== 'dir') return expect.unreachable();
    const entries = await many.list();
    expect(entries.map(({ name }) => name).sort()).toEqual(judged);
    for (let i = 0; i < entries.length; i += 997) {
      const { name } = entries[i]!;
      const node = await (many.lookup === undefined ? entries[i]!.node() : many.lookup(name));
      expect(node).toMatchObject({ kind: 'file', size: 0 });
    }
  });
});
