/** NTFS as mkntfs and ntfscp write it (no mount needed), as Windows did, and through an ntfs-3g mount. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { memoryDisk } from '../../test/kit/disks.ts';
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
import { lznt1 } from './ntfs/lznt1.ts';
import { MetadataCache, volumeSource } from './source.ts';

const folder = scratch();
const tree = path.join(folder, 'tree');
const mnt = path.join(folder, 'mnt');
let expected: Expected;

const missing = lacking('mkntfs', 'ntfscp', 'ntfs-3g', 'setfattr', 'umount');
const cannot =
  missing !== '' ? missing : process.getuid?.() !== 0 || !fs.existsSync('/dev/fuse') ? 'needs root and FUSE' : '';

beforeAll(() => {
  fs.mkdirSync(tree);
  fs.mkdirSync(mnt);
  unixTree(tree);
  // What NTFS has no way to hold.
  for (const name of fs.readdirSync(tree, { encoding: 'buffer' })) {
    if (name.includes(0xff)) fs.rmSync(Buffer.concat([Buffer.from(`${tree}/`), name]));
  }
  fs.chmodSync(path.join(tree, 'setuid'), 0o755);
  expected = expectedOf(tree);
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const mounted = (file: string, options: string, work: () => void): void => {
  tool('ntfs-3g', ['-o', options, file, mnt]);
  try {
    work();
  } finally {
    tool('umount', [mnt]);
  }
};

/** Three files that grow in turns, and one of them goes away: the others are in many pieces. */
function fragmented(): void {
  const files = ['frag-a', 'frag-b'].map(name => fs.openSync(path.join(mnt, name), 'w'));
  for (let i = 0; i < 300; i++) for (const [n, fd] of files.entries()) fs.writeSync(fd, noise(9000, 2 * i + n));
  for (const fd of files) fs.closeSync(fd);
}

describe.skipIf(cannot !== '')(`NTFS ${cannot}`, () => {
  test.each([512, 4096, 65_536])('clusters of %i: what ntfs-3g wrote, and what it reads', async cluster => {
    const file = path.join(folder, `ntfs-${cluster}`);
    emptyImage(file, 96 * 2 ** 20);
    tool('mkntfs', ['-F', '-Q', '-q', '-c', String(cluster), '-L', 'System', file]);
    mounted(file, cluster === 4096 ? 'compression' : 'rw', () => {
      execFileSync('cp', ['-a', '--no-preserve=ownership,mode', `${tree}/.`, mnt]);
      fragmented();
      tool('setfattr', ['-n', 'user.stream', '-v', 'a stream', path.join(mnt, 'text.txt')]);
      if (cluster !== 4096) return;
      fs.mkdirSync(path.join(mnt, 'packed'));
      tool('setfattr', ['-h', '-n', 'system.ntfs_attrib_be', '-v', '0x00000800', path.join(mnt, 'packed')]);
      for (const name of ['text.txt', 'random.bin', 'sparse'])
        fs.copyFileSync(path.join(tree, name), path.join(mnt, 'packed', name));
    });
    let theirs: Expected | undefined;
    mounted(file, 'ro', () => {
      theirs = expectedOf(mnt);
    });
    await using disk = await imageDisk(file);
    const { volumes, notes } = await volumesOf(disk);
    expect([notes, volumes.map(({ name }) => name)]).toEqual([[], ['p0-ntfs-System']]);
    const { root } = volumes[0]!.volume;
    const walked = await walk(root);
    expect(linesOf(walked)).toEqual(theirs!.lines);
    expect(linesOf(walked)).toMatchObject(expected.lines);
    expect(
      Math.abs(walked.get('text.txt')!.node.mtime.getTime() - theirs!.stats.get('text.txt')!.mtimeMs),
    ).toBeLessThan(2);
    const text = walked.get('text.txt')!.node;
    const stream = text.kind === 'file' ? await text.stream?.('stream') : null;
    expect(await digestOf(stream!)).toBe(createHash('sha256').update('a stream').digest('hex'));
    const packed = walked.get('packed/text.txt')?.node;
    if (packed?.kind === 'file') expect(packed.allocated).toBeLessThan(packed.size / 3);
    expect(packed === undefined).toBe(cluster !== 4096);
  });
});

const SAMPLES = path.resolve(import.meta.dirname, '../../../shared/images/filesystems');
const attributeList = path.join(SAMPLES, 'msuhanov+dfir_ntfs/ntfs3_attrlist.raw.gz');
const judge = lacking('7zz');

describe.skipIf(!fs.existsSync(attributeList) || judge !== '')(`NTFS of other systems ${judge}`, () => {
  test.each(['ntfs3.raw.gz', 'ntfs3_attrlist.raw.gz'])('%s: the same files as 7-Zip finds', async name => {
    const file = path.join(folder, name);
    fs.writeFileSync(file, gunzipSync(fs.readFileSync(path.join(path.dirname(attributeList), name))));
    const out = path.join(folder, `${name}-7zip`);
    tool('7zz', ['x', '-tntfs', `-o${out}`, '-y', file]);
    fs.rmSync(path.join(out, '[SYSTEM]'), { recursive: true, force: true });
    const judged = expectedOf(out).lines;
    await using disk = await imageDisk(file);
    const { volumes } = await volumesOf(disk);
    const lines = linesOf(await walk(volumes[0]!.volume.root));
    const files = (all: Record<string, string>): string[] =>
      Object.entries(all)
        .filter(([path_, line]) => line.startsWith('file') && !path_.includes(':'))
        .map(entry => entry.join(' '));
    expect(files(lines).length).toBeGreaterThan(0);
    expect(files(judged)).toEqual(expect.arrayContaining(files(lines)));
  });
});

test('LZNT1: the example of the specification, and damage', () => {
  const source = volumeSource({
    name: 'x',
    disk: memoryDisk(new Uint8Array(512)),
    start: 0,
    size: 512,
    cache: new MetadataCache(0),
  });
  // [MS-XCA] 3.3
  const packed = Buffer.from(
    '38b08846232000204720410010a24701a045204400084501507900c045200524138805b402' +
      '4a44ef0358028c091601484500be009e000401189000',
    'hex',
  );
  const out = Buffer.alloc(142);
  lznt1(source, packed, out);
  expect(out.toString('latin1')).toBe(
    'F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E F# G F# E D E A F# F# G A A G F# E D D E F# E D D\0',
  );
  packed[2] = 0xff;
  expect(() => lznt1(source, packed, Buffer.alloc(142))).toThrow(/damaged|too much|ends early/);
});
