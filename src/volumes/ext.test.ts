/** ext2, ext3 and ext4 as mke2fs makes them from a folder; the journal as debugfs writes it. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  type Expected,
  emptyImage,
  expectedOf,
  lacking,
  noise,
  scratch,
  tool,
  unixTree,
} from '../../test/kit/volume-images.ts';
import { digestOf, imageDisk, linesOf, volumesOf, walk } from '../../test/kit/volume-walk.ts';
import { contentSeek } from './content.ts';

const cannot = lacking('mke2fs', 'debugfs', 'e2fsck');
const folder = scratch();
const tree = path.join(folder, 'tree');
let expected: Expected;

beforeAll(() => {
  fs.mkdirSync(tree);
  unixTree(tree);
  expected = expectedOf(tree);
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

function made(name: string, ...options: string[]): string {
  const file = path.join(folder, name);
  emptyImage(file, 64 * 2 ** 20);
  tool('mke2fs', ['-q', '-F', '-L', 'my label', '-d', tree, ...options, file]);
  return file;
}

describe.skipIf(cannot !== '')(`ext ${cannot}`, () => {
  test.each([
    ['ext4', ['-t', 'ext4']],
    ['ext4', ['-t', 'ext4', '-b', '1024', '-I', '256', '-O', 'inline_data']],
    ['ext4', ['-t', 'ext4', '-O', 'bigalloc,meta_bg,^resize_inode', '-b', '1024']],
    ['ext3', ['-t', 'ext3', '-b', '1024']],
    ['ext2', ['-t', 'ext2', '-b', '2048', '-O', '^filetype']],
    ['ext2', ['-t', 'ext2', '-r', '0']],
  ] as const)('%s %j: every name, byte, mode and time', async (type, options) => {
    const file = made(`image-${type}`, ...options);
    await using disk = await imageDisk(file);
    const { volumes, notes } = await volumesOf(disk);
    expect(notes).toEqual([]);
    expect(volumes.map(({ name }) => name)).toEqual([`p0-${type}-my label`]);
    const walked = await walk(volumes[0]!.volume.root);
    const lines = linesOf(walked);
    expect(lines['lost+found']).toBe('dir');
    delete lines['lost+found'];
    const wanted = { ...expected.lines };
    if (options.some(option => option === 'inline_data')) {
      // mke2fs itself cuts a sparse file short here; debugfs says the same length.
      const size = /Size: (\d+)/.exec(tool('debugfs', ['-R', 'stat /sparse', file]))![1];
      expect(lines.sparse).toMatch(new RegExp(`^file ${size} `));
      wanted.sparse = lines.sparse!;
    }
    expect(lines).toEqual(wanted);
    for (const [name, stat] of expected.stats) {
      const { node } = walked.get(name)!;
      expect([name, node.mode, node.uid, node.mtime.getTime()]).toEqual([
        name,
        stat.mode % 0o10000,
        stat.uid,
        Math.floor(stat.mtimeMs / 1000) * 1000,
      ]);
    }
  });

  test('holes are known, and plain data is a place on the disk that holds it', async () => {
    await using disk = await imageDisk(made('holes', '-t', 'ext4', '-b', '4096'));
    const { volumes } = await volumesOf(disk);
    const entry = (await volumes[0]!.volume.root.list()).find(({ name }) => name === 'sparse')!;
    const node = await entry.node();
    if (node.kind !== 'file') throw new Error('no file');
    expect(node.allocated).toBeLessThan(400_000);
    const content = await node.open();
    expect(contentSeek(content, 0, 'data')).toBe(0);
    expect(contentSeek(content, 0, 'hole')).toBe(4096);
    expect(contentSeek(content, 20_000_000, 'data')).toBeNull();
    const where = content.range(3 * 1_000_003, 100);
    expect(where.kind).toBe('disk');
    const [direct, read] = [new Uint8Array(100), new Uint8Array(100)];
    await disk.read(direct, (where as { at: number }).at);
    await content.read(read, 3 * 1_000_003);
    expect(direct).toEqual(read);
    expect(read).toEqual(noise(3000, 53).subarray(0, 100));
  });

  /** Blocks in which two images differ. */
  const differing = (a: Buffer, b: Buffer, size: number): readonly number[] =>
    Array.from({ length: a.length / size }, (_, i) => i).filter(
      i => a.compare(b, i * size, (i + 1) * size, i * size, (i + 1) * size) !== 0,
    );

  test('what only the journal holds is read; without the journal it is not there', async () => {
    const before = made('journal-before', '-t', 'ext4', '-b', '4096');
    const after = path.join(folder, 'journal-after');
    fs.copyFileSync(before, after);
    fs.writeFileSync(path.join(folder, 'news'), noise(50_000, 99));
    tool(
      'debugfs',
      ['-w', '-f', '-', after],
      `mkdir fresh\nwrite ${path.join(folder, 'news')} fresh/news\nrm text.txt\n`,
    );
    const [old, fresh] = [fs.readFileSync(before), fs.readFileSync(after)];
    const blocks = differing(old, fresh, 4096).filter(block => block > 0);
    fs.writeFileSync(
      path.join(folder, 'blocks'),
      Buffer.concat(blocks.map(b => fresh.subarray(b * 4096, b * 4096 + 4096))),
    );
    const dirty = path.join(folder, 'journal-dirty');
    fs.copyFileSync(before, dirty);
    tool('debugfs', ['-w', '-f', '-', dirty], `jo\njw -b ${blocks.join(',')} ${path.join(folder, 'blocks')}\njc\n`);

    const linesIn = async (file: string): Promise<Record<string, string>> => {
      await using disk = await imageDisk(file);
      const { volumes, notes } = await volumesOf(disk);
      expect(notes).toEqual([]);
      return linesOf(await walk(volumes[0]!.volume.root));
    };
    const wanted = await linesIn(after);
    expect(wanted['fresh/news']).toMatch(/^file 50000 /);
    expect(wanted['text.txt']).toBeUndefined();
    expect(await linesIn(dirty)).toEqual(wanted);
    // Control: the same image with the journal's flag taken away shows the old state.
    tool('debugfs', ['-w', '-f', '-', dirty], 'feature -needs_recovery\n');
    const stale = await linesIn(dirty);
    expect(stale['fresh/news']).toBeUndefined();
    expect(stale['text.txt']).toBeDefined();
  });

  test('a damaged inode or extent node is one file’s error, found by its checksum', async () => {
    const file = made('damaged', '-t', 'ext4', '-b', '4096');
    const place = tool('debugfs', ['-R', 'imap /random.bin', file]);
    const [, block, offset] = /located at block (\d+), offset (0x[0-9a-f]+)/.exec(place)!;
    const bytes = fs.readFileSync(file);
    bytes[Number(block) * 4096 + Number(offset) + 0x34]! ^= 1;
    fs.writeFileSync(file, bytes);
    await using disk = await imageDisk(file);
    const { volumes } = await volumesOf(disk);
    const lines = linesOf(await walk(volumes[0]!.volume.root));
    expect(lines['random.bin']).toBe('error corrupt');
    expect(lines['text.txt']).toBe(expected.lines['text.txt']);
  });

  test('an unknown feature is refused by name', async () => {
    const file = made('future', '-t', 'ext4');
    const fd = fs.openSync(file, 'r+');
    const word = Buffer.alloc(4);
    fs.readSync(fd, word, 0, 4, 0x460);
    word.writeUInt32LE((word.readUInt32LE() | 0x4000_0000) >>> 0);
    fs.writeSync(fd, word, 0, 4, 0x460);
    fs.closeSync(fd);
    await using disk = await imageDisk(file);
    const { volumes, notes } = await volumesOf(disk);
    expect(volumes).toEqual([]);
    expect(notes).toEqual(['disk0 p0 cannot be read: ext4 features 0x40000000 are not known']);
  });

  test('reads of any part give the same bytes', async () => {
    await using disk = await imageDisk(made('parts', '-t', 'ext4', '-b', '1024'));
    const { volumes } = await volumesOf(disk);
    const entry = (await volumes[0]!.volume.root.list()).find(({ name }) => name === 'random.bin')!;
    const node = await entry.node();
    if (node.kind !== 'file') throw new Error('no file');
    const digests = await Promise.all([511, 4096, 65_537, 2_000_000].map(part => digestOf(node, part)));
    expect(new Set(digests)).toEqual(new Set([expected.lines['random.bin']!.split(' ')[2]]));
  });
});
