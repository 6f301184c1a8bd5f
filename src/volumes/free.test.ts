/** Free space: as much as the tools of each file system count, and what a copy without it still holds. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { memoryDisk } from '../../test/kit/disks.ts';
import { emptyImage, lacking, mounted, noise, plainTree, scratch, tool } from '../../test/kit/volume-images.ts';
import { linesOf, volumesOf, walk } from '../../test/kit/volume-walk.ts';
import { addClearBits, eachUnused, freeRuns } from './free.ts';

const folder = scratch();
const tree = path.join(folder, 'tree');
const image = path.join(folder, 'image');
const mnt = path.join(folder, 'mnt');
const MIB = 2 ** 20;
const LONG = process.env.BOOTMOUNT_LONG === '1';
const root = process.getuid?.() === 0;

beforeAll(() => {
  fs.mkdirSync(tree);
  fs.mkdirSync(mnt);
  plainTree(tree);
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

/** Real writers leave their traces in what is free: files come and go, and the free space is full of old data. */
function churn(into: string): void {
  execFileSync('cp', ['-r', `${tree}/.`, into]);
  for (let i = 0; i < 40; i++) fs.writeFileSync(path.join(into, `gone ${i}`), noise(200_000, i));
  for (let i = 0; i < 40; i += 2) fs.rmSync(path.join(into, `gone ${i}`));
}

/**
 * Puts noise into all that is free: the same files, and a check that finds nothing wrong. `judged`: free bytes as
 * another program counts them; `least`: the share of those that has to be found.
 */
async function check(repair: readonly string[], judged: number, least: number): Promise<void> {
  const bytes = fs.readFileSync(image);
  const disk = memoryDisk(bytes as Buffer<ArrayBuffer>);
  const before = await volumesOf(disk);
  const lines = linesOf(await walk(before.volumes[0]!.volume.root));
  let [free, end] = [0, 0];
  const junk = noise(65_536, 9);
  const stretches: [number, number][] = [];
  await eachUnused(before.volumes[0]!, (_disk, at, length) => {
    expect(at).toBeGreaterThanOrEqual(end);
    end = at + length;
    free += length;
    stretches.push([at, length]);
  });
  for (const [at, length] of stretches) {
    for (let done = 0; done < length; done += junk.length) {
      bytes.set(junk.subarray(0, Math.min(junk.length, length - done)), at + done);
    }
  }
  expect(free).toBeLessThanOrEqual(judged);
  expect(free).toBeGreaterThanOrEqual(judged * least);
  const after = await volumesOf(memoryDisk(bytes as Buffer<ArrayBuffer>));
  expect(after.notes).toEqual(before.notes);
  expect(linesOf(await walk(after.volumes[0]!.volume.root))).toEqual(lines);
  fs.writeFileSync(image, bytes);
  tool(repair[0]!, [...repair.slice(1), image]);
}

describe.skipIf(lacking('mke2fs', 'dumpe2fs', 'e2fsck', 'debugfs') !== '')('ext', () => {
  const freeBytes = (): number => {
    const out = tool('dumpe2fs', ['-h', image]);
    const figure = (name: string): number => Number(new RegExp(`^${name}: +(\\d+)`, 'm').exec(out)![1]);
    return figure('Free blocks') * figure('Block size');
  };

  const kinds = [
    ['-t', 'ext4', '-b', '1024'],
    ['-t', 'ext4', '-b', '1024', '-O', '^flex_bg,^metadata_csum,uninit_bg'],
    ['-t', 'ext4', '-b', '1024', '-O', 'bigalloc,^resize_inode'],
    ['-t', 'ext4', '-b', '1024', '-O', 'meta_bg,^resize_inode,^metadata_csum'],
    ['-t', 'ext3', '-b', '1024', '-g', '4096'],
    ['-t', 'ext2', '-r', '0'],
  ];
  test.each((LONG ? kinds : kinds.slice(0, 2)).map(kind => [kind]))('%j', async options => {
    emptyImage(image, 40 * MIB);
    tool('mke2fs', ['-q', '-F', '-d', tree, ...options, image]);
    await check(['e2fsck', '-fn'], freeBytes(), 1);
  });

  test.skipIf(!root)('written by Linux', async context => {
    emptyImage(image, 60 * MIB);
    tool('mke2fs', ['-q', '-F', '-t', 'ext4', image]);
    if (!mounted(['mount', '-o', 'loop', image, mnt], () => churn(mnt))) return context.skip('no loop mounts here');
    await check(['e2fsck', '-fn'], freeBytes(), 1);
  });

  test('nothing is free where the map’s checksum is wrong', async () => {
    emptyImage(image, 16 * MIB);
    tool('mke2fs', ['-q', '-F', '-t', 'ext4', '-b', '1024', image]);
    const bitmap = Number(/Block bitmap at (\d+)/.exec(tool('dumpe2fs', [image]))![1]);
    const bytes = fs.readFileSync(image) as Buffer<ArrayBuffer>;
    // The first of two groups.
    const inFirst = async (): Promise<number> => {
      let free = 0;
      await eachUnused((await volumesOf(memoryDisk(bytes))).volumes[0]!, (_disk, at, length) => {
        free += Math.max(0, Math.min(8 * MIB, at + length) - at);
      });
      return free;
    };
    expect(await inFirst()).toBeGreaterThan(4 * MIB);
    bytes[bitmap * 1024 + 100]! ^= 1;
    await expect(inFirst()).rejects.toThrow('checksum');
  });
});

describe.skipIf(lacking('mkntfs', 'ntfs-3g', 'ntfsinfo', 'ntfsfix') !== '' || !root)('NTFS', () => {
  test('written by ntfs-3g; nothing is free in a dirty one', async context => {
    emptyImage(image, 40 * MIB);
    tool('mkntfs', ['-F', '-Q', '-q', image]);
    if (!mounted(['ntfs-3g', image, mnt], () => churn(mnt))) return context.skip('no FUSE here');
    const free = /Free Clusters: (\d+)/.exec(tool('ntfsinfo', ['-m', image]))![1];
    await check(['ntfsfix', '-n'], Number(free) * 4096, 1);
    // It marks the volume as one that has to be checked.
    tool('ntfsfix', [image]);
    const bytes = fs.readFileSync(image) as Buffer<ArrayBuffer>;
    const { volumes } = await volumesOf(memoryDisk(bytes));
    await expect(eachUnused(volumes[0]!, () => expect.unreachable())).rejects.toThrow('has to be checked');
  });
});

describe.skipIf(lacking('mkfs.fat', 'mcopy', 'fsck.fat', 'minfo') !== '')('FAT', () => {
  test.each([
    ['12', 4, 4],
    ['16', 32, 4],
    ['32', 40, 1],
  ])('FAT%s', async (bits, size, sectors) => {
    emptyImage(image, size * MIB);
    tool('mkfs.fat', ['-F', bits, '-s', String(sectors), image]);
    tool('mcopy', ['-s', '-Q', '-i', image, ...fs.readdirSync(tree).map(name => path.join(tree, name)), '::']);
    const out = tool('fsck.fat', ['-nv', image]);
    const [, used, all] = / (\d+)\/(\d+) clusters/.exec(out)!;
    await check(['fsck.fat', '-n'], (Number(all) - Number(used)) * sectors * 512, 1);
  });
});

describe.skipIf(lacking('mkfs.xfs', 'xfs_db', 'xfs_repair') !== '' || !root)('XFS', () => {
  test('written by Linux', async context => {
    emptyImage(image, 320 * MIB);
    tool('mkfs.xfs', ['-q', '-f', image]);
    if (!mounted(['mount', '-o', 'loop', image, mnt], () => churn(mnt))) return context.skip('no loop mounts here');
    const free = /fdblocks = (\d+)/.exec(tool('xfs_db', ['-r', '-c', 'sb 0', '-c', 'p fdblocks', image]))![1];
    // Blocks of the free lists count as free there.
    await check(['xfs_repair', '-n', '-f'], Number(free) * 4096, 0.99);
  });
});

describe.skipIf(lacking('mkfs.btrfs', 'btrfs') !== '')('btrfs', () => {
  test('filled by mkfs.btrfs', async () => {
    emptyImage(image, 160 * MIB);
    tool('mkfs.btrfs', ['-q', '-f', '--rootdir', tree, image]);
    const out = tool('btrfs', ['inspect-internal', 'dump-super', image]);
    const figure = (name: string): number => Number(new RegExp(`^${name}\\s+(\\d+)`, 'm').exec(out)![1]);
    const judged = figure('dev_item.total_bytes') - figure('bytes_used');
    // The first MiB, the copy of the superblock and the second copy of metadata are in use too.
    await check(['btrfs', 'check'], judged, 0.98);
  });
});

test('bits and stretches', () => {
  const found: [number, number][] = [];
  const runs = freeRuns((at, length) => found.push([at, length]));
  addClearBits(runs, Uint8Array.of(0xff, 0, 0b1000_0001, 0), 28, 1000, 10);
  addClearBits(runs, Uint8Array.of(0xfe), 8, 1280, 10);
  runs.end();
  expect(found).toEqual([
    [1080, 80],
    [1170, 60],
    [1240, 50],
  ]);
});
