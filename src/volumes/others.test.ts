/** XFS and btrfs as their own tools fill them, and, where loop devices can be had, as Linux does. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  type Expected,
  emptyImage,
  expectedOf,
  lacking,
  mounted,
  scratch,
  tool,
  unixTree,
} from '../../test/kit/volume-images.ts';
import { imageDisk, linesOf, volumesOf, walk } from '../../test/kit/volume-walk.ts';

const folder = scratch();
const tree = path.join(folder, 'tree');
const mnt = path.join(folder, 'mnt');
let expected: Expected;

beforeAll(() => {
  fs.mkdirSync(tree);
  fs.mkdirSync(mnt);
  unixTree(tree);
  expected = expectedOf(tree);
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

async function check(file: string, name: string, wanted: Expected, exactTimes: boolean): Promise<void> {
  await using disk = await imageDisk(file);
  const { volumes, notes } = await volumesOf(disk);
  expect([notes, volumes.map(volume => volume.name)]).toEqual([[], [name]]);
  const walked = await walk(volumes[0]!.volume.root);
  expect(linesOf(walked)).toEqual(wanted.lines);
  for (const [its, stat] of wanted.stats) {
    const { node } = walked.get(its)!;
    expect([its, node.mode, node.uid]).toEqual([its, stat.mode % 0o10000, stat.uid]);
    if (exactTimes) expect([its, node.mtime.getTime()]).toEqual([its, Math.floor(stat.mtimeMs)]);
    if (node.kind === 'file' && exactTimes) expect([its, Math.ceil(node.allocated / 512)]).toEqual([its, stat.blocks]);
  }
}

const noBtrfs = lacking('mkfs.btrfs');

describe.skipIf(noBtrfs !== '')(`btrfs ${noBtrfs}`, () => {
  test.each([[[]], [['-n', '4096', '-M']]])('filled by mkfs.btrfs %j', async options => {
    const file = path.join(folder, 'btrfs');
    emptyImage(file, 160 * 2 ** 20);
    tool('mkfs.btrfs', ['-q', '-f', '-L', 'data', ...options, '--rootdir', tree, file]);
    await check(file, 'p0-btrfs-data', expected, false);
  });
});

/** Mounting by the kernel needs root, a loop device and the file system's module. */
function mounts(make: string, file: string, options: string, work: () => void): string {
  const done = mounted(['mount', '-o', `loop${options}`, file, mnt], work);
  return done ? '' : `the kernel cannot mount what ${make} makes`;
}

const LONG = process.env.BOOTMOUNT_LONG === '1';
const noKernel = process.getuid?.() === 0 ? lacking('mkfs.btrfs', 'mkfs.xfs', 'mount') : 'needs root';

describe.skipIf(noKernel !== '')(`written by the kernel ${noKernel}`, () => {
  const subjects = [
    ['xfs', ['mkfs.xfs', '-q', '-f', '-L', 'data'], ''],
    ['xfs', ['mkfs.xfs', '-q', '-f', '-L', 'data', '-b', 'size=1024', '-i', 'size=512', '-n', 'size=8192'], ''],
    ['btrfs', ['mkfs.btrfs', '-q', '-f', '-L', 'data'], ',compress-force=zstd'],
    ['btrfs', ['mkfs.btrfs', '-q', '-f', '-L', 'data'], ',compress-force=lzo'],
    ['btrfs', ['mkfs.btrfs', '-q', '-f', '-L', 'data'], ',compress-force=zlib'],
  ] as const;
  test.each(LONG ? subjects : subjects.slice(1, 4))('%s %j %s', async (type, [make, ...args], options) => {
    const file = path.join(folder, 'kernel');
    emptyImage(file, 400 * 2 ** 20);
    tool(make!, [...args, file]);
    let theirs: Expected | undefined;
    const cannot =
      mounts(make!, file, options, () => execFileSync('cp', ['-a', `${tree}/.`, mnt])) ||
      mounts(make!, file, ',ro', () => {
        theirs = expectedOf(mnt);
      });
    if (cannot !== '') return console.warn(`skipped: ${cannot}`);
    expect(theirs!.lines).toEqual(expected.lines);
    await check(file, `p0-${type}-data`, theirs!, true);
  });

  test('an XFS copied while it is in use says that its log is not replayed', async () => {
    const file = path.join(folder, 'busy');
    const copy = path.join(folder, 'busy-copy');
    emptyImage(file, 320 * 2 ** 20);
    tool('mkfs.xfs', ['-q', '-f', file]);
    const cannot = mounts('mkfs.xfs', file, '', () => {
      fs.writeFileSync(path.join(mnt, 'news'), 'news');
      tool('sync', ['-f', mnt]);
      fs.copyFileSync(file, copy);
    });
    if (cannot !== '') return console.warn(`skipped: ${cannot}`);
    for (const [image, wanted] of [
      [copy, 1],
      [file, 0],
    ] as const) {
      await using disk = await imageDisk(image);
      expect((await volumesOf(disk)).notes).toHaveLength(wanted);
    }
  });
});
