/** What Linux and ntfs-3g can be made to write: a sparse file of 1 TiB, names of every byte, paths beyond 4,096 bytes. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { emptyImage, lacking, mounted, noise, scratch, tool } from '../../test/kit/volume-images.ts';
import { imageDisk, volumesOf } from '../../test/kit/volume-walk.ts';
import { contentSeek } from './content.ts';
import type { VolumeDir, VolumeNode } from './contracts.ts';
import { nameOf } from './names.ts';

const TIB = 2 ** 40;
const MIB = 2 ** 20;
const ISLANDS = [0, 500 * 2 ** 30 + 4096, TIB - 100_000];
const LEVELS = 60;
const folder = scratch();
const mnt = path.join(folder, 'mnt');
const image = path.join(folder, 'image');
beforeAll(() => fs.mkdirSync(mnt));
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

/** Every byte but NUL and the slash, alone and after a letter. */
const NAMES: readonly Buffer[] = Array.from({ length: 255 }, (_, i) => i + 1)
  .filter(byte => byte !== 0x2f)
  .flatMap(byte => [...(byte === 0x2e ? [] : [Buffer.of(byte)]), Buffer.of(0x61, byte)]);

function write(into: string, anyBytes: boolean): void {
  const fd = fs.openSync(path.join(into, 'sparse'), 'w');
  for (const [i, at] of ISLANDS.entries()) fs.writeSync(fd, noise(70_000, i), 0, 70_000, at);
  fs.ftruncateSync(fd, TIB);
  fs.closeSync(fd);
  fs.mkdirSync(path.join(into, 'names'));
  if (anyBytes) for (const name of NAMES) fs.writeFileSync(Buffer.concat([Buffer.from(`${into}/names/`), name]), name);
  // Longer than a path may be: made step by step.
  const cwd = process.cwd();
  process.chdir(into);
  for (let i = 0; i < LEVELS; i++) {
    fs.mkdirSync(`${'deep'.repeat(25)}${i}`);
    process.chdir(`${'deep'.repeat(25)}${i}`);
  }
  fs.writeFileSync('end', 'the end');
  process.chdir(cwd);
}

async function childOf(dir: VolumeDir, name: string): Promise<VolumeNode> {
  return (await dir.list()).find(entry => entry.name === name)!.node();
}

async function check(anyBytes: boolean): Promise<void> {
  await using disk = await imageDisk(image);
  const { volumes, notes } = await volumesOf(disk);
  expect(notes).toEqual([]);
  const { root } = volumes[0]!.volume;
  const sparse = await childOf(root, 'sparse');
  if (sparse.kind !== 'file') throw new Error('no file');
  expect(sparse.size).toBe(TIB);
  expect(sparse.allocated).toBeLessThan(2 * MIB);
  const content = await sparse.open();
  for (const [i, at] of ISLANDS.entries()) {
    const into = new Uint8Array(80_000);
    await content.read(into, at);
    expect(Buffer.compare(into.subarray(0, 70_000), noise(70_000, i))).toBe(0);
    expect(into.subarray(70_000).every(byte => byte === 0)).toBe(true);
  }
  expect(contentSeek(content, 2 * MIB, 'data')! - ISLANDS[1]!).toBeLessThan(1);
  expect(contentSeek(content, 2 * MIB, 'data')! - ISLANDS[1]!).toBeGreaterThan(-70_000);
  const names = await childOf(root, 'names');
  if (names.kind !== 'dir') throw new Error('no folder');
  const found = await names.list();
  expect(found.map(({ name }) => name).toSorted()).toEqual(anyBytes ? NAMES.map(nameOf).toSorted() : []);
  let dir: VolumeDir = root;
  for (let i = 0; i < LEVELS; i++) dir = (await childOf(dir, `${'deep'.repeat(25)}${i}`)) as VolumeDir;
  expect(await childOf(dir, 'end')).toMatchObject({ kind: 'file', size: 7 });
}

const cannot = process.getuid?.() === 0 ? lacking('mount', 'umount') : 'needs root';

describe.skipIf(cannot !== '')(`awkward content ${cannot}`, () => {
  test.for([
    ['ext4', 120, ['mke2fs', '-q', '-F', '-t', 'ext4'], ['mount', '-o', 'loop']],
    ['XFS', 320, ['mkfs.xfs', '-q', '-f'], ['mount', '-o', 'loop']],
    ['btrfs', 200, ['mkfs.btrfs', '-q', '-f'], ['mount', '-o', 'loop']],
    ['NTFS', 60, ['mkntfs', '-F', '-Q', '-q'], ['ntfs-3g']],
  ] as const)('%s', async ([type, size, make, mount], context) => {
    if (lacking(make[0], mount[0]) !== '') return context.skip(lacking(make[0], mount[0]));
    emptyImage(image, size * MIB);
    tool(make[0], [...make.slice(1), image]);
    const done = mounted([...mount, image, mnt], () => write(mnt, type !== 'NTFS'));
    if (!done) return context.skip('cannot be mounted here');
    await check(type !== 'NTFS');
  });
});
