/** Names looked up one by one in folders with an index, as the tools of each file system, and Linux, make them. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { emptyImage, lacking, mounted, scratch, tool } from '../../test/kit/volume-images.ts';
import { imageDisk, lookedUp, volumesOf } from '../../test/kit/volume-walk.ts';
import { nameBytes, nameOf } from './names.ts';

const LONG = process.env.BOOTMOUNT_LONG === '1';
/** The tools that fill a file system from a folder take too long for more. */
const FEW = 3000;
const NAMES = LONG ? 100_000 : FEW;
const STEP = 3;
const folder = scratch();
const tree = path.join(folder, 'tree');
const mnt = path.join(folder, 'mnt');
const image = path.join(folder, 'image');
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const WORDS = ['a', 'Müller', 'README', 'x'.repeat(60), '漢字', '~$', '..b'];
/** Names of all lengths, some of them bytes that are no text. */
function fill(into: string, count: number, anyBytes: boolean): void {
  fs.mkdirSync(into, { recursive: true });
  for (let i = 0; i < count; i++) fs.writeFileSync(path.join(into, `${WORDS[i % WORDS.length]} ${i}`), '');
  if (!anyBytes) return;
  for (let i = 128; i < 256; i++) fs.writeFileSync(Buffer.concat([Buffer.from(`${into}/`), Buffer.of(i, 0x61, i)]), '');
}

beforeAll(() => {
  fs.mkdirSync(mnt);
  fill(path.join(tree, 'many'), FEW, true);
  fill(path.join(tree, 'few'), 3, false);
});

/** Names that were found in the image, all of them right. */
async function found(): Promise<number> {
  await using disk = await imageDisk(image);
  const { volumes } = await volumesOf(disk);
  return (await lookedUp(volumes[0]!.volume.root, STEP)).names;
}

const ENOUGH = FEW / STEP;

describe.skipIf(lacking('mke2fs', 'e2fsck', 'tune2fs') !== '')('ext', () => {
  test.each(LONG ? ['half_md4', 'tea', 'legacy'] : ['half_md4'])('hashed by %s', async hash => {
    emptyImage(image, 32 * 2 ** 20);
    tool('mke2fs', ['-q', '-F', '-t', 'ext4', '-b', '1024', '-N', '4000', '-d', tree, image]);
    tool('tune2fs', ['-E', `hash_alg=${hash}`, image]);
    // e2fsck makes the indexes; it ends with 1 when it changed something.
    try {
      tool('e2fsck', ['-f', '-y', '-D', image]);
    } catch (error) {
      expect((error as { status: number }).status).toBe(1);
    }
    expect(await found()).toBeGreaterThan(ENOUGH);
  });

  test.skipIf(!LONG)('written by Linux', async context => {
    emptyImage(image, 256 * 2 ** 20);
    tool('mke2fs', ['-q', '-F', '-t', 'ext4', '-b', '1024', '-N', '110000', image]);
    const done = mounted(['mount', '-o', 'loop', image, mnt], () => fill(path.join(mnt, 'many'), NAMES, true));
    if (!done) return context.skip('no loop mounts here');
    expect(await found()).toBeGreaterThan(ENOUGH);
  });
});

describe.skipIf(lacking('mkntfs', 'ntfs-3g') !== '' || process.getuid?.() !== 0)('NTFS', () => {
  test('written by ntfs-3g', async context => {
    emptyImage(image, 256 * 2 ** 20);
    tool('mkntfs', ['-F', '-Q', '-q', image]);
    const done = mounted(['ntfs-3g', image, mnt], () => fill(path.join(mnt, 'many'), NAMES, false));
    if (!done) return context.skip('no FUSE here');
    expect(await found()).toBeGreaterThan(ENOUGH);
  });
});

describe.skipIf(lacking('mkfs.btrfs') !== '')('btrfs', () => {
  test('filled by mkfs.btrfs', async () => {
    emptyImage(image, 300 * 2 ** 20);
    tool('mkfs.btrfs', ['-q', '-f', '--rootdir', tree, image]);
    expect(await found()).toBeGreaterThan(ENOUGH);
  });
});

describe.skipIf(lacking('mkfs.xfs', 'mount') !== '' || process.getuid?.() !== 0)('XFS', () => {
  const sizes = [[], ['-b', 'size=1024'], ['-n', 'size=16384']];
  test.each(LONG ? sizes : sizes.slice(1, 2))('written by the kernel %j %j', async (...options) => {
    emptyImage(image, 400 * 2 ** 20);
    tool('mkfs.xfs', ['-q', '-f', ...options, image]);
    const done = mounted(['mount', '-o', 'loop', image, mnt], () => {
      fill(path.join(mnt, 'many'), NAMES, true);
      // Stale entries in the index.
      for (let i = 0; i < NAMES; i += 5) fs.rmSync(path.join(mnt, 'many', `${WORDS[i % WORDS.length]} ${i}`));
    });
    if (!done) return console.warn('skipped: the kernel cannot mount XFS from a file');
    expect(await found()).toBeGreaterThan(ENOUGH / 2);
  });
});

test('names go back to the bytes that they were made of', () => {
  for (const bytes of [[0x61], [0xff, 0x61], [0xc3, 0xa4], [0xed, 0xb2, 0x80], [0xf0, 0x9f, 0x98, 0x80, 0x80]]) {
    expect(nameBytes(nameOf(Uint8Array.from(bytes)))).toEqual(Buffer.from(bytes));
  }
  expect(nameBytes('\ud800')).toBeNull();
  expect(nameBytes('\udcc3\udca4')).toBeNull();
});
