/** FAT12, FAT16 and FAT32 as mkfs.fat and mtools write them; exFAT from images of other systems. */
import fs from 'node:fs';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';
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
import { imageDisk, linesOf, volumesOf, walk } from '../../test/kit/volume-walk.ts';

const cannot = lacking('mkfs.fat', 'mcopy');
const folder = scratch();
const tree = path.join(folder, 'tree');
let expected: Expected;

beforeAll(() => {
  fs.mkdirSync(tree);
  plainTree(tree);
  expected = expectedOf(tree);
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

function made(name: string, size: number, ...options: string[]): string {
  const file = path.join(folder, name);
  emptyImage(file, size);
  tool('mkfs.fat', ['-n', 'MY LABEL', ...options, file]);
  // Only names that the copy has: the volume's own come after.
  const names = fs.readdirSync(tree).map(entry => path.join(tree, entry));
  tool('mcopy', ['-s', '-m', '-Q', '-i', file, ...names, '::']);
  return file;
}

describe.skipIf(cannot !== '')(`FAT ${cannot}`, () => {
  test.each([
    ['fat12', 8 * 2 ** 20, ['-F', '12', '-s', '8']],
    ['fat16', 32 * 2 ** 20, ['-F', '16']],
    ['fat32', 40 * 2 ** 20, ['-F', '32', '-s', '1']],
    ['fat32', 512 * 2 ** 20, ['-F', '32', '-S', '4096']],
  ] as const)('%s of %i bytes %j: every name and byte', async (type, size, options) => {
    const file = made(`image-${type}-${size}`, size, ...options);
    await using disk = await imageDisk(file);
    const { volumes, notes } = await volumesOf(disk);
    expect(notes).toEqual([]);
    expect(volumes.map(({ name }) => name)).toEqual([`p0-${type}-MY LABEL`]);
    const walked = await walk(volumes[0]!.volume.root);
    expect(linesOf(walked)).toEqual(expected.lines);
    const { node } = walked.get('random.bin')!;
    expect(Math.abs(node.mtime.getTime() - expected.stats.get('random.bin')!.mtimeMs)).toBeLessThan(15 * 3_600_000);
  });

  test('a chain that leads to itself, or ends early, is one file’s error', async () => {
    const file = made('loop', 32 * 2 ** 20, '-F', '16');
    const bytes = fs.readFileSync(file);
    const fatAt = bytes.readUInt16LE(14) * bytes.readUInt16LE(11);
    const rootAt = fatAt + bytes[16]! * bytes.readUInt16LE(22) * bytes.readUInt16LE(11);
    let first = 0;
    for (let at = rootAt; bytes[at] !== 0 && first === 0; at += 32) {
      if (bytes.toString('latin1', at, at + 11) === 'RANDOM  BIN') first = bytes.readUInt16LE(at + 26);
    }
    expect(first).toBeGreaterThan(1);
    for (const next of [first, 0xffff, 0, 0xfff7]) {
      bytes.writeUInt16LE(next, fatAt + 2 * (first + 3));
      fs.writeFileSync(file, bytes);
      await using disk = await imageDisk(file);
      const { volumes } = await volumesOf(disk);
      const lines = linesOf(await walk(volumes[0]!.volume.root));
      expect(lines['random.bin']).toBe('error corrupt');
      expect(lines['text.txt']).toBe(expected.lines['text.txt']);
    }
  });
});

const SAMPLES = path.resolve(import.meta.dirname, '../../../shared/images/filesystems');
const sample = path.join(SAMPLES, 'msuhanov+dfir_ntfs/exfat_lin_part.raw.gz');

describe.skipIf(!fs.existsSync(sample))('exFAT: needs the images of other systems', () => {
  test('a partition that Linux made', async () => {
    const file = path.join(folder, 'exfat.raw');
    fs.writeFileSync(file, gunzipSync(fs.readFileSync(sample)));
    await using disk = await imageDisk(file);
    const { volumes, notes } = await volumesOf(disk);
    expect(notes).toEqual([]);
    expect(volumes.map(({ name }) => name)).toEqual(['p1-exfat-1234567890a']);
    const lines = Object.values(linesOf(await walk(volumes[0]!.volume.root)));
    expect(lines).toHaveLength(20);
    expect(lines.filter(line => line.startsWith('error'))).toEqual([]);
  });
});
