/** Extended attributes, access lists and devices: as Linux and ntfs-3g show them for the same images. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { emptyImage, lacking, mounted, noise, scratch, tool } from '../../test/kit/volume-images.ts';
import { imageDisk, volumesOf, walk } from '../../test/kit/volume-walk.ts';
import type { VolumeDir, VolumeNode } from './contracts.ts';
import { nameBytes } from './names.ts';

const wanting = lacking('getfattr', 'setfattr', 'setfacl', 'mke2fs', 'mkfs.xfs', 'mkfs.btrfs', 'mkntfs', 'ntfs-3g');
const cannot = process.getuid?.() === 0 && fs.existsSync('/dev/fuse') ? wanting : 'needs root and /dev/fuse';
const MIB = 2 ** 20;
const folder = scratch();
const image = path.join(folder, 'image');
const mnt = path.join(folder, 'mnt');

beforeAll(() => fs.mkdirSync(mnt));
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

type Shown = Record<string, Record<string, string>>;

const base64 = (value: Uint8Array): string => Buffer.from(value).toString('base64');

/** `getfattr -d -m -` of everything below the mountpoint. */
function judged(): Shown {
  const shown: Shown = {};
  const args = ['-R', '-P', '-h', '-d', '-m', '-', '-e', 'base64', '--absolute-names', mnt];
  let its: Record<string, string> = {};
  for (const line of execFileSync('getfattr', args, { encoding: 'latin1', maxBuffer: 2 ** 28 }).split('\n')) {
    const file = /^# file: (.*)$/.exec(line)?.[1];
    if (file !== undefined) {
      its = {};
      shown[file.slice(mnt.length + 1)] = its;
      continue;
    }
    const [, name, value] = /^([^=]+)=0s(.*)$/.exec(line) ?? [];
    if (name !== undefined && name !== 'security.selinux') its[unescaped(name)] = value!;
  }
  return shown;
}

const unescaped = (name: string): string =>
  name.replace(/\\([0-7]{3})/g, (_, octal) => String.fromCharCode(Number.parseInt(octal, 8)));

async function read(root: VolumeDir): Promise<Shown> {
  const shown: Shown = {};
  const all = new Map<string, { readonly node: VolumeNode }>([['', { node: root }], ...(await walk(root))]);
  for (const [name, { node }] of all) {
    const found = await node.xattrs?.();
    if (found === undefined || found.size === 0) continue;
    const entries = Array.from(found, ([key, value]) => [nameBytes(key)!.toString('latin1'), base64(value)]);
    shown[name] = Object.fromEntries(entries);
  }
  return shown;
}

const set = (file: string, name: string, value: Uint8Array): unknown =>
  execFileSync('setfattr', ['-h', '-n', name, '-v', `0s${base64(value)}`, path.join(mnt, file)], { stdio: 'pipe' });

/** Few and many, short and long, of every kind that root may set. */
function fill(longest: number, many: number): void {
  for (const name of ['plain', 'few', 'many', 'long', 'acl', 'empty value'])
    fs.writeFileSync(path.join(mnt, name), name);
  fs.mkdirSync(path.join(mnt, 'dir'));
  fs.symlinkSync('plain', path.join(mnt, 'link'));
  set('few', 'user.origin', Buffer.from('here'));
  set('few', 'user.Ünïcode', noise(30, 1));
  set('few', 'trusted.overlay.opaque', Buffer.from('y'));
  set('few', 'security.capability', Buffer.from('0100000202000000000000000000000000000000', 'hex'));
  set('empty value', 'user.nothing', Buffer.alloc(0));
  set('link', 'trusted.of.a.link', noise(20, 2));
  for (let i = 0; i < many; i++) set('many', `user.${'n'.repeat(i % 60)}${i}`, noise((i * 37) % 200, i + 3));
  set('long', 'user.long', noise(longest, 4));
  set('long', 'user.short', noise(3, 5));
  set('dir', 'user.of.a.folder', noise(90, 6));
  const acl = (...args: string[]): unknown => execFileSync('setfacl', args, { stdio: 'pipe' });
  acl('-m', 'u:1234:rw,g:77:r,m::rw', path.join(mnt, 'acl'));
  acl('-m', 'u:5:rwx,d:u:6:r', path.join(mnt, 'dir'));
  for (const [name, type, ...numbers] of [
    ['char', 'c', '5', '1'],
    ['block', 'b', '259', '70000'],
    ['pipe', 'p'],
  ] as const) {
    tool('mknod', [path.join(mnt, name), type, ...numbers]);
  }
  fs.linkSync(path.join(mnt, 'plain'), path.join(mnt, 'dir/second name'));
}

const kinds: readonly (readonly [string, number, readonly string[], number, number])[] = [
  ['ext4', 20, ['mke2fs', '-q', '-F', '-t', 'ext4', '-b', '4096'], 900, 12],
  [
    'ext4 with values in inodes',
    20,
    ['mke2fs', '-q', '-F', '-t', 'ext4', '-b', '4096', '-O', 'ea_inode,inline_data'],
    60_000,
    12,
  ],
  ['ext2', 20, ['mke2fs', '-q', '-F', '-t', 'ext2', '-I', '128', '-b', '4096'], 900, 12],
  ['XFS', 310, ['mkfs.xfs', '-q', '-f'], 60_000, 400],
  ['XFS 4', 310, ['mkfs.xfs', '-q', '-f', '-m', 'crc=0'], 60_000, 400],
  ['btrfs', 120, ['mkfs.btrfs', '-q', '-f'], 12_000, 100],
];

describe.skipIf(cannot !== '')(`extended attributes ${cannot}`, () => {
  test.for(kinds)('%s: what Linux shows', { timeout: 60_000 }, async ([, size, make, longest, many], context) => {
    emptyImage(image, size * MIB);
    tool(make[0]!, [...make.slice(1), image]);
    if (!mounted(['mount', '-o', 'loop', image, mnt], () => fill(longest, many)))
      return context.skip('no such mounts here');
    let expected: Shown = {};
    const loops = mounted(['mount', '-o', 'loop,ro', image, mnt], () => {
      expected = judged();
    });
    if (!loops) return context.skip('no such mounts here');
    expect(Object.keys(expected).length).toBeGreaterThanOrEqual(6);
    await using disk = await imageDisk(image);
    const root = (await volumesOf(disk)).volumes[0]!.volume.root;
    expect(await read(root)).toEqual(expected);
    const nodes = await walk(root);
    const deviceOf = (name: string): unknown => {
      const node = nodes.get(name)!.node;
      return node.kind === 'other' ? node.device : null;
    };
    expect(['char', 'block', 'pipe', 'few'].map(deviceOf)).toEqual([
      { type: 'char', major: 5, minor: 1 },
      { type: 'block', major: 259, minor: 70_000 },
      { type: 'fifo', major: 0, minor: 0 },
      null,
    ]);
    const idOf = (name: string): unknown => {
      const node = nodes.get(name)!.node;
      return node.kind === 'file' ? node.id : null;
    };
    expect([idOf('plain') === idOf('dir/second name'), idOf('plain') !== undefined, idOf('few')]).toEqual([
      true,
      true,
      undefined,
    ]);
  });

  test('NTFS: what ntfs-3g shows', async context => {
    emptyImage(image, 20 * MIB);
    tool('mkntfs', ['-F', '-Q', '-q', image]);
    const expected: Shown = {};
    const names = ['plain', 'dir', 'dir/inner'];
    const done = mounted(['ntfs-3g', '-o', 'permissions', image, mnt], () => {
      fs.writeFileSync(path.join(mnt, 'plain'), 'x');
      fs.mkdirSync(path.join(mnt, 'dir'));
      fs.writeFileSync(path.join(mnt, 'dir/inner'), 'x');
      // Each gives another descriptor, so that the index of them grows.
      for (let i = 0; i < 120; i++) fs.writeFileSync(path.join(mnt, `file ${i}`), 'x');
      for (let i = 0; i < 120; i++) fs.chownSync(path.join(mnt, `file ${i}`), 1000 + i, 2000 + i);
      fs.chmodSync(path.join(mnt, 'dir/inner'), 0o640);
      for (const name of [...names, 'file 0', 'file 119']) {
        const value = (key: string): string => {
          const args = ['-n', key, '-e', 'base64', '--only-values', path.join(mnt, name)];
          return execFileSync('getfattr', args, { stdio: 'pipe' }).toString('base64');
        };
        expected[name] = {
          'system.ntfs_attrib': value('system.ntfs_attrib'),
          'system.ntfs_acl': value('system.ntfs_acl'),
        };
      }
    });
    if (!done) return context.skip('no FUSE here');
    await using disk = await imageDisk(image);
    const shown = await read((await volumesOf(disk)).volumes[0]!.volume.root);
    const some = Object.fromEntries(Object.keys(expected).map(name => [name, shown[name]]));
    expect(some).toEqual(expected);
    expect(Object.keys(shown).length).toBeGreaterThan(120);
  });
});
