/** ISO 9660 as genisoimage and xorriso write it; 7-Zip is the second opinion for what has no Unix names. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  type Expected,
  expectedOf,
  lacking,
  plainTree,
  scratch,
  tool,
  unixTree,
} from '../../test/kit/volume-images.ts';
import { imageDisk, linesOf, volumesOf, walk } from '../../test/kit/volume-walk.ts';

const cannot = lacking('genisoimage', 'xorriso', '7zz');
const folder = scratch();
const unix = path.join(folder, 'unix');
const plain = path.join(folder, 'plain');
const image = path.join(folder, 'image.iso');
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

async function read(): Promise<{
  name: string;
  lines: Record<string, string>;
  walked: Awaited<ReturnType<typeof walk>>;
}> {
  await using disk = await imageDisk(image);
  const { volumes, notes } = await volumesOf(disk);
  expect(notes).toEqual([]);
  const walked = await walk(volumes[0]!.volume.root);
  return { name: volumes[0]!.name, lines: linesOf(walked), walked };
}

describe.skipIf(cannot !== '')(`ISO 9660 ${cannot}`, () => {
  let expected: Expected;

  beforeAll(() => {
    fs.mkdirSync(unix);
    fs.mkdirSync(plain);
    unixTree(unix);
    plainTree(plain);
    expected = expectedOf(unix);
  });

  test('Rock Ridge: names of any bytes, modes, owners, links, deep folders', async () => {
    tool('genisoimage', ['-quiet', '-R', '-V', 'MY LABEL', '-o', image, unix]);
    const { name, lines, walked } = await read();
    expect(name).toBe('p0-iso9660-MY LABEL');
    delete lines.rr_moved;
    expect(lines).toEqual(expected.lines);
    for (const [its, stat] of expected.stats) {
      const { node } = walked.get(its)!;
      expect([its, node.mode, node.uid]).toEqual([its, stat.mode % 0o10000, stat.uid]);
      if (node.kind !== 'dir')
        expect([its, node.mtime.getTime()]).toEqual([its, Math.floor(stat.mtimeMs / 1000) * 1000]);
    }
  });

  test('Joliet: as 7-Zip reads it', async () => {
    tool('genisoimage', ['-quiet', '-J', '-joliet-long', '-V', 'joliet', '-o', image, plain]);
    const out = path.join(folder, '7zip');
    tool('7zz', ['x', `-o${out}`, '-y', image]);
    const { name, lines } = await read();
    expect(name).toBe('p0-iso9660-joliet');
    expect(lines).toEqual(expectedOf(out).lines);
    expect(Object.keys(lines).length).toBeGreaterThan(400);
  });

  test('neither: short names, without versions', async () => {
    const few = path.join(folder, 'few');
    fs.mkdirSync(path.join(few, 'sub'), { recursive: true });
    fs.writeFileSync(path.join(few, 'readme.txt'), 'read me');
    fs.writeFileSync(path.join(few, 'sub', 'plain'), 'no dot');
    tool('genisoimage', ['-quiet', '-o', image, few]);
    expect(Object.keys((await read()).lines)).toEqual(['README.TXT', 'SUB', 'SUB/PLAIN']);
  });

  test('with a partition table beside it, as installers have', async () => {
    tool('xorriso', ['-as', 'mkisofs', '-quiet', '-R', '-partition_offset', '16', '-V', 'HYBRID', '-o', image, unix]);
    const { name, lines } = await read();
    expect(name).toBe('p0-iso9660-HYBRID');
    expect(lines).toEqual(expected.lines);
  });

  test('a folder that contains itself ends', async () => {
    tool('genisoimage', ['-quiet', '-R', '-o', image, unix]);
    const bytes = fs.readFileSync(image);
    // The record of a folder in the root leads back to the root.
    const root = bytes.readUInt32LE(16 * 2048 + 156 + 2) * 2048;
    let at = root;
    while ((bytes[at + 25]! & 2) === 0 || bytes[at + 33]! <= 1) at += bytes[at]!;
    bytes.copy(bytes, at + 2, 16 * 2048 + 156 + 2, 16 * 2048 + 156 + 18);
    fs.writeFileSync(image, bytes);
    const { lines } = await read();
    expect(Object.values(lines)).toContain('error corrupt');
  });
});
