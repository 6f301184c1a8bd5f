/** Volumes through the parser child: the same files as the tools of the file system made, and nothing read twice. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  type Expected,
  emptyImage,
  expectedOf,
  lacking,
  scratch,
  tool,
  unixTree,
} from '../../test/kit/volume-images.ts';
import { imageDisk } from '../../test/kit/volume-walk.ts';
import type { Disk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { Parser } from './parser.ts';
import { nodeAt } from './path.ts';
import { type DisksOfPoint, openPointFiles, type PointFile, type PointFiles, type PointNode } from './point-files.ts';
import { walkBelow } from './walk.ts';

const cannot = lacking('mke2fs', 'cryptsetup');
const folder = scratch();
const place = (name: string): string => path.join(folder, name);
const disks: Disk[] = [];
let parser: Parser;
let expected: Expected;

async function pointOf(file: string, seen?: DisksOfPoint['seen']): Promise<DisksOfPoint> {
  const disk = await imageDisk(file);
  disks.push(disk);
  const { size, sectorSize } = disk;
  return {
    disks: [{ name: 'disk0', size, sectorSize }],
    openDisk: async () => disk,
    ...(seen === undefined ? {} : { seen }),
  };
}

async function lineOf(node: PointNode): Promise<string> {
  if (node.kind === 'link') return `link ${node.target}`;
  if (node.kind !== 'file') return node.kind;
  const content = await node.open();
  const hash = createHash('sha256');
  const part = new Uint8Array(700_001);
  for (let at = 0; at < content.size; at += part.length) {
    const target = part.subarray(0, Math.min(part.length, content.size - at));
    await content.read(target, at);
    hash.update(target);
  }
  return `file ${node.size} ${hash.digest('hex')}`;
}

beforeAll(() => {
  if (cannot !== '') return;
  const tree = place('tree');
  fs.mkdirSync(tree);
  unixTree(tree);
  expected = expectedOf(tree);
  emptyImage(place('plain'), 2 ** 25);
  tool('mke2fs', ['-q', '-F', '-t', 'ext4', '-d', tree, place('plain')]);
  emptyImage(place('luks'), 2 ** 24);
  fs.mkdirSync(place('small'));
  fs.writeFileSync(place('small/hello'), 'hello');
  tool('mke2fs', ['-q', '-F', '-t', 'ext4', '-L', 'vault', '-d', place('small'), place('luks')]);
  fs.truncateSync(place('luks'), 3 * 2 ** 24);
  fs.writeFileSync(place('key'), 'let me in');
  const costs = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000', '--key-file', place('key')];
  tool('cryptsetup', ['reencrypt', '--encrypt', '-q', '--reduce-device-size', '32M', ...costs, place('luks')]);
  parser = new Parser();
});
afterAll(async () => {
  await parser?.[Symbol.asyncDispose]();
  for (const disk of disks) await disk[Symbol.asyncDispose]();
  fs.rmSync(folder, { recursive: true, force: true });
});

describe.skipIf(cannot !== '')(`through the parser child ${cannot}`, () => {
  test('every file is what was put in, and plain content is not read by the child', async () => {
    let parsed = 0;
    const point = await pointOf(place('plain'), (_disk, _at, length) => {
      parsed += length;
    });
    const { volumes } = await openPointFiles(parser, point);
    const found: Record<string, string> = {};
    for await (const { path: its, node } of walkBelow(await volumes[0]!.root())) {
      found[its] = node instanceof ImageError ? node.message : await lineOf(node);
    }
    delete found['lost+found'];
    expect(found).toEqual(expected.lines);
    expect(parsed).toBeLessThan(2_000_000);
  });

  test('paths follow links inside the volume, and never above it', async () => {
    const files = await openPointFiles(parser, await pointOf(place('plain')));
    const at = (its: string): Promise<PointNode> => nodeAt(files, ['p0-ext4', ...its.split('/')], true);
    expect((await at('relative')).kind).toBe('file');
    expect((await at('absolute/../../../many')).kind).toBe('dir');
    await expect(at('relative/below')).rejects.toMatchObject({ fault: 'not-found' });
    await expect(at('long-link')).rejects.toMatchObject({ fault: 'not-found' });
    await expect(nodeAt(files, ['p9'], true)).rejects.toThrow(/there is no volume/);
  });

  test('what the child knew is found again after it was killed', async () => {
    const { volumes } = await openPointFiles(parser, await pointOf(place('plain')));
    const file = (await (await volumes[0]!.root()).child('text.txt')) as PointFile;
    const before = parser.restarts;
    process.kill(parser.pid!, 'SIGKILL');
    expect(await lineOf(file)).toBe(expected.lines['text.txt']);
    expect(parser.restarts).toBe(before + 1);
  });

  test('an encrypted volume is named, and opens with its key', async () => {
    const locked = await openPointFiles(parser, await pointOf(place('luks')));
    expect([locked.volumes, locked.locked]).toMatchObject([[], [{ type: 'luks2' }]]);
    await using keyed = new Parser({ secrets: async () => [Buffer.from('let me in')] });
    const open: PointFiles = await openPointFiles(keyed, await pointOf(place('luks')));
    expect(open.locked).toEqual([]);
    expect(await lineOf(await nodeAt(open, [open.volumes[0]!.name, 'hello'], true))).toMatch(/^file 5 /);
  });
});
