/** What is free inside the chunks of btrfs, as `btrfs inspect-internal` lists the extents of the same image. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { placesOf, withBlockGroupTree } from '../../../test/kit/btrfs-block-groups.ts';
import { memoryDisk } from '../../../test/kit/disks.ts';
import { emptyImage, lacking, mounted, noise, scratch, tool } from '../../../test/kit/volume-images.ts';
import { volumesOf } from '../../../test/kit/volume-walk.ts';
import { crc32c } from '../../base/checksum.ts';
import { eachUnused } from '../free.ts';

const MIB = 2 ** 20;
const UNIT = 4096;
const SIZE = 400 * MIB;
const LONG = process.env.BOOTMOUNT_LONG === '1';
const folder = scratch();
const image = path.join(folder, 'image');
const mnt = path.join(folder, 'mnt');
beforeAll(() => fs.mkdirSync(mnt));
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const inspect = (...args: readonly string[]): string => tool('btrfs', ['inspect-internal', ...args]);

/** A byte for each 4 KiB of the image that is free; everything is read from what btrfs-progs print. */
function judged(file: string, chunksOnly = false, device = 1): Uint8Array {
  const superblock = inspect('dump-super', file);
  const figure = (name: string): number => Number(new RegExp(`^${name}\\s+(\\d+)`, 'm').exec(superblock)![1]);
  const free = new Uint8Array(SIZE / UNIT);
  free.fill(1, 0, figure('dev_item.total_bytes') / UNIT);
  const use = (at: number, length: number): Uint8Array => free.fill(0, at / UNIT, (at + length) / UNIT);
  use(0, MIB);
  use(64 * MIB, 65_536);
  const chunks = inspect('dump-tree', '-t', 'chunk', file)
    .split(/item \d+ key \(FIRST_CHUNK_TREE CHUNK_ITEM /)
    .slice(1)
    .map(text => ({
      at: Number.parseInt(text, 10),
      length: Number(/length (\d+)/.exec(text)![1]),
      places: [...text.matchAll(new RegExp(`stripe \\d+ devid ${device} offset (\\d+)`, 'g'))].map(([, at]) =>
        Number(at),
      ),
    }));
  const extents = /item \d+ key \((\d+) (EXTENT|METADATA)_ITEM (\d+)\)/g;
  for (const [, at, kind, size] of inspect('dump-tree', '-t', 'extent', file).matchAll(extents)) {
    const chunk = chunks.find(its => Number(at) >= its.at && Number(at) < its.at + its.length)!;
    const length = kind === 'METADATA' ? figure('nodesize') : Number(size);
    for (const place of chunk.places) use(place + Number(at) - chunk.at, length);
  }
  if (chunksOnly) for (const { places, length } of chunks) for (const place of places) use(place, length);
  return free;
}

async function found(bytes: Buffer): Promise<Uint8Array> {
  const free = new Uint8Array(bytes.length / UNIT);
  const { volumes } = await volumesOf(memoryDisk(bytes as Buffer<ArrayBuffer>));
  let end = 0;
  await eachUnused(volumes[0]!, (_disk, at, length) => {
    expect([at >= end, at % UNIT, length % UNIT]).toEqual([true, 0, 0]);
    end = at + length;
    free.fill(1, at / UNIT, end / UNIT);
  });
  return free;
}

/** What is free after a change to the root of a tree, in all its copies, whose checksum is made right again. */
async function changed(tree: string, change: (block: Buffer) => void, sum = true): Promise<void> {
  const bytes = fs.readFileSync(image);
  const logical = BigInt(/^(?:leaf|node) (\d+)/m.exec(inspect('dump-tree', '-t', tree, image))![1]!);
  const places = placesOf(bytes, logical);
  for (const at of places) {
    const block = bytes.subarray(at, at + bytes.readUInt32LE(65_536 + 0x94));
    change(block);
    if (sum) block.writeUInt32LE(crc32c(block.subarray(32)));
  }
  expect(places).not.toEqual([]);
  await found(bytes);
}

async function compare(chunksOnly = false): Promise<number> {
  const [ours, theirs] = [await found(fs.readFileSync(image)), judged(image, chunksOnly)];
  expect(ours.findIndex((free, i) => free !== theirs[i])).toBe(-1);
  return ours.reduce((sum, free) => sum + free, 0);
}

/** Small and fragmented files, snapshots, clones of ranges, preallocation and files that are gone. */
function churn(into: string): void {
  const its = (name: string): string => path.join(into, name);
  const btrfs = (...args: readonly string[]): string => tool('btrfs', ['subvolume', ...args]);
  for (let i = 0; i < 300; i++) fs.writeFileSync(its(`file ${i}`), noise(3000 + ((i * 7919) % 30_000), i));
  btrfs('create', its('sub'));
  fs.writeFileSync(its('sub/text'), 'the same words again '.repeat(100_000));
  execFileSync('cp', ['--reflink=always', its('file 3'), its('sub/clone')]);
  tool('sync', ['-f', into]);
  btrfs('snapshot', into, its('snapshot'));
  btrfs('snapshot', '-r', its('sub'), its('read-only'));
  for (let i = 0; i < 300; i += 3) fs.rmSync(its(`file ${i}`));
  const fd = fs.openSync(its('fragments'), 'w');
  for (let i = 0; i < 600; i++) fs.writeSync(fd, noise(UNIT, i), 0, UNIT, ((i * 7) % 600) * 2 * UNIT);
  fs.fsyncSync(fd);
  fs.closeSync(fd);
  execFileSync('fallocate', ['-l', '3M', its('preallocated')]);
  for (let i = 0; i < 20; i++) fs.writeFileSync(its(`gone ${i}`), noise(200_000, i));
  tool('sync', ['-f', into]);
  for (let i = 0; i < 20; i += 2) fs.rmSync(its(`gone ${i}`));
  btrfs('delete', its('read-only'));
}

function make(options: readonly string[], work: (into: string) => void, mount = 'loop'): boolean {
  emptyImage(image, SIZE);
  tool('mkfs.btrfs', ['-q', '-f', ...options, image]);
  return mounted(['mount', '-o', mount, image, mnt], () => work(mnt));
}

const wanting = lacking('mkfs.btrfs', 'btrfs', 'mount', 'fallocate');
const cannot = process.getuid?.() === 0 ? wanting : 'needs root';

describe.skipIf(cannot !== '')(`free space of btrfs ${cannot}`, () => {
  const kinds = [
    ['-M', '-n', '4096'],
    [],
    ['-m', 'single', '-d', 'dup'],
    ['-m', 'raid0', '-d', 'raid0'],
    ['-O', '^skinny-metadata', '-R', '^free-space-tree'],
    ['-n', '65536'],
  ];
  test.for((LONG ? kinds : kinds.slice(0, 2)).map(kind => [kind] as const))('%j', async ([options], context) => {
    if (!make(options, churn, 'loop,compress=zstd')) return context.skip('no loop mounts here');
    // More than what is in no chunk.
    expect(await compare()).toBeGreaterThan(judged(image, true).reduce((sum, free) => sum + free, 0) + 1000);
  });

  test('block groups in a tree of their own', async context => {
    if (!make(['-O', 'no-holes'], () => {})) return context.skip('no loop mounts here');
    withBlockGroupTree(image);
    tool('btrfs', ['check', image]);
    await compare();
    expect(mounted(['mount', '-o', 'loop', image, mnt], () => churn(mnt))).toBe(true);
    tool('btrfs', ['check', image]);
    await compare();
  });

  test('all of the chunks is in use with a log tree, and where checksums are not looked at', async context => {
    const copy = path.join(folder, 'copy');
    const busy = make([], into => {
      churn(into);
      tool('sync', ['-f', into]);
      const fd = fs.openSync(path.join(into, 'logged'), 'w');
      fs.writeSync(fd, noise(500_000, 1));
      fs.fsyncSync(fd);
      fs.closeSync(fd);
      fs.copyFileSync(image, copy);
    });
    if (!busy) return context.skip('no loop mounts here');
    fs.renameSync(copy, image);
    expect(inspect('dump-super', image)).not.toMatch(/^log_root\s+0$/m);
    await compare(true);
    if (!LONG) return;
    expect(make(['--csum', 'xxhash'], churn)).toBe(true);
    await compare(true);
  });

  test('a tree in which a block is twice is damaged', async context => {
    const fill = (into: string): void => {
      for (let i = 0; i < 300; i++) fs.writeFileSync(path.join(into, `file ${i}`), noise(5000, i));
    };
    if (!make(['-M', '-n', '4096'], fill)) return context.skip('no loop mounts here');
    const [first, second] = [101, 101 + 33];
    await expect(changed('extent', node => node.copy(node, second + 17, first + 17, first + 33))).rejects.toThrow(
      'a tree block is damaged',
    );
    await expect(changed('extent', node => node.copy(node, second, first, first + 33))).rejects.toThrow('out of order');
  });

  test.skipIf(!LONG)('a mirror on two devices', async context => {
    const devices = ['one', 'two'].map(name => {
      emptyImage(path.join(folder, name), SIZE);
      return tool('losetup', ['-f', '--show', path.join(folder, name)]).trim();
    });
    try {
      tool('mkfs.btrfs', ['-q', '-f', '-d', 'raid1', '-m', 'raid1', ...devices]);
      if (!mounted(['mount', devices[0]!, mnt], () => churn(mnt))) return context.skip('no loop mounts here');
      for (const [i, name] of ['one', 'two'].entries()) {
        const ours = await found(fs.readFileSync(path.join(folder, name)));
        expect(ours.reduce((sum, free) => sum + free, 0)).toBeGreaterThan((300 * MIB) / UNIT);
        expect(Buffer.compare(ours, judged(devices[i]!, false, i + 1))).toBe(0);
      }
    } finally {
      tool('losetup', ['-d', ...devices]);
    }
  });

  describe('with a damaged map nothing is said to be free', () => {
    /** The last item of a type in a leaf: where its key is, and its data. */
    const item = (leaf: Buffer, type: number): { key: number; data: number } => {
      let key = 101 + (leaf.readUInt32LE(0x60) - 1) * 25;
      while (leaf[key + 8] !== type) key -= 25;
      return { key, data: 101 + leaf.readUInt32LE(key + 17) };
    };
    beforeAll(() => {
      emptyImage(image, 160 * MIB);
      tool('mkfs.btrfs', ['-q', '-f', image]);
    });

    test.each<[string, string, (leaf: Buffer) => void]>([
      ['a flipped bit', 'checksum', leaf => leaf.writeUInt8(leaf[200]! ^ 1, 200)],
      ['another generation', 'another time', leaf => leaf.writeUInt32LE(99, 0x50)],
      ['an extent of an unknown type', 'type 170', leaf => leaf.writeUInt8(170, item(leaf, 169).key + 8)],
      ['an extent that became a reference', 'in none', leaf => leaf.writeUInt8(176, item(leaf, 169).key + 8)],
      ['a group that counts less', 'counts', leaf => leaf.writeUInt8(7, item(leaf, 192).data + 3)],
      ['a group of another kind', 'another one', leaf => leaf.writeUInt8(1, item(leaf, 192).data + 16)],
      ['an extent in another place', 'damaged', leaf => leaf.writeUInt32LE(1, item(leaf, 169).key)],
    ])('%s', async (name, why, change) => {
      await expect(changed('extent', change, name !== 'a flipped bit')).rejects.toThrow(why);
    });

    test.each<[string, string, (superblock: Buffer) => void]>([
      ['errors', 'has errors', its => its.writeUInt8(5, 0x38)],
      ['an unknown feature', 'features', its => its.writeUInt8(0x13, 0xb4)],
      ['another count', 'counts others', its => its.writeUInt8(its[0x7a]! ^ 1, 0x7a)],
    ])('a superblock that has %s', async (_name, why, change) => {
      const bytes = fs.readFileSync(image);
      const superblock = bytes.subarray(65_536, 65_536 + UNIT);
      change(superblock);
      superblock.writeUInt32LE(crc32c(superblock.subarray(32)));
      await expect(found(bytes)).rejects.toThrow(why);
    });
  });
});
