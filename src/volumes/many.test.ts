/**
 * 100,000 names in one folder, written and listed by Linux or ntfs-3g, and each looked up; on exFAT written here, and listed
 * by exfat-fuse: with `BOOTMOUNT_LONG=1`, since this takes minutes. FAT ends a folder at 65,536 entries of 32 bytes, of which
 * a long name takes several.
 */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runCli } from '../../test/e2e/run-cli.ts';
import { addExfatFolder, awkwardName } from '../../test/kit/exfat-folder.ts';
import { emptyImage, lacking, mounted, scratch, tool } from '../../test/kit/volume-images.ts';
import { imageDisk, volumesOf } from '../../test/kit/volume-walk.ts';
import type { VolumeFile } from './contracts.ts';
import { shownName } from './names.ts';

const MIB = 2 ** 20;
const COUNT = Number(process.env.BOOTMOUNT_MANY ?? 100_000);
const folder = scratch();
const mnt = path.join(folder, 'mnt');
const image = path.join(folder, 'image');
beforeAll(() => fs.mkdirSync(mnt));
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const root = process.getuid?.() === 0 ? '' : 'needs root';
const cannot = process.env.BOOTMOUNT_LONG === '1' ? root : 'BOOTMOUNT_LONG=1 runs it';

describe.skipIf(cannot !== '')(`very many names ${cannot}`, () => {
  test.for([
    ['ext4', 600, ['mke2fs', '-q', '-F', '-t', 'ext4', '-N', '110000'], ['mount', '-o', 'loop']],
    ['XFS', 600, ['mkfs.xfs', '-q', '-f'], ['mount', '-o', 'loop']],
    ['btrfs', 600, ['mkfs.btrfs', '-q', '-f'], ['mount', '-o', 'loop']],
    ['NTFS', 300, ['mkntfs', '-F', '-Q', '-q'], ['ntfs-3g']],
  ] as const)('%s', { timeout: 1_800_000 }, async ([, size, make, mount], context) => {
    if (lacking(make[0], mount[0]) !== '') return context.skip(lacking(make[0], mount[0]));
    emptyImage(image, size * MIB);
    tool(make[0], [...make.slice(1), image]);
    let judged: readonly string[] = [];
    const done = mounted([...mount, image, mnt], () => {
      fs.mkdirSync(path.join(mnt, 'many'));
      for (let i = 0; i < COUNT; i++)
        fs.closeSync(fs.openSync(path.join(mnt, 'many', `file number ${i * 7}.txt`), 'w'));
      judged = fs.readdirSync(path.join(mnt, 'many')).sort();
    });
    if (!done) return context.skip('cannot be mounted here');
    expect(judged).toHaveLength(COUNT);
    await using disk = await imageDisk(image);
    const top = (await volumesOf(disk)).volumes[0]!.volume.root;
    const many = await (await top.list()).find(({ name }) => name === 'many')!.node();
    if (many.kind !== 'dir') return expect.unreachable();
    const entries = await many.list();
    expect(entries.map(({ name }) => name).sort()).toEqual(judged);
    for (let i = 0; i < entries.length; i += 997) {
      const { name } = entries[i]!;
      const node = await (many.lookup === undefined ? entries[i]!.node() : many.lookup(name));
      expect(node).toMatchObject({ kind: 'file', size: 0 });
    }
  });

  const tools = lacking('mkfs.exfat', 'fsck.exfat', 'mount.exfat-fuse', 'losetup', 'find');
  test.skipIf(tools !== '')(`exFAT ${tools}`, { timeout: 600_000 }, async context => {
    emptyImage(image, 64 * MIB);
    tool('mkfs.exfat', ['-c', '4K', image]);
    const written = Array.from({ length: COUNT }, (_, i) => ({
      name: awkwardName(i),
      size: i % 40 === 0 ? 1 + ((i * 7) % 4096) : 0,
      mtime: new Date(Date.UTC(1990, 0, 1) + i * 9_876_540),
    }));
    addExfatFolder(image, 'many', written);
    expect(tool('fsck.exfat', ['-n', image])).toContain(`clean. directories 2, files ${COUNT}`);

    const line = (name: string, size: number, mtime: Date | string): string =>
      `${name} ${size} ${new Date(mtime).toISOString()}`;
    const sorted = (lines: readonly string[]): readonly string[] => [...lines].sort();
    await using disk = await imageDisk(image);
    const top = (await volumesOf(disk)).volumes[0]!.volume.root;
    const many = await (await top.list()).find(({ name }) => name === 'many')!.node();
    if (many.kind !== 'dir') return expect.unreachable();
    const ours = new Map<string, VolumeFile>();
    for (const entry of await many.list()) {
      const node = await entry.node();
      if (node.kind === 'file') ours.set(entry.name, node);
    }
    expect(sorted(Array.from(ours, ([name, { size, mtime }]) => line(name, size, mtime)))).toEqual(
      sorted(written.map(({ name, size, mtime }) => line(name, size, mtime))),
    );
    const full = written.findLast(({ size }) => size > 100)!;
    const bytes = Buffer.alloc(full.size);
    await (await ours.get(full.name)!.open()).read(bytes, 0);
    expect(bytes.toString('utf16le').startsWith(full.name)).toBe(true);

    // By the parser child, which has its bounds; names that Linux could not take are shortened.
    const { code, stdout } = await runCli(['ls', 'image@latest:/p0-exfat/many', '--repo', image, '--json']);
    expect(code).toBe(0);
    const listed = JSON.parse(stdout) as readonly { path: string; size: number; mtime: string }[];
    expect(sorted(listed.map(its => line(its.path, its.size, its.mtime)))).toEqual(
      sorted(written.map(({ name, size, mtime }) => line(shownName(name), size, mtime))),
    );

    const device = tool('losetup', ['-f', '--show', '-r', image]).trim();
    let judged = '';
    const done = mounted(['mount.exfat-fuse', '-o', 'ro', device, mnt], () => {
      judged = tool('find', [path.join(mnt, 'many'), '-mindepth', '1', '-printf', '%s %T@ %f\\0']);
    });
    tool('losetup', ['-d', device]);
    if (!done) return context.skip('cannot be mounted here');
    const theirs = judged.split('\0').filter(its => its !== '');
    // It knows whole seconds.
    const second = (time: Date): number => Math.floor(time.getTime() / 1000);
    expect(sorted(theirs.map(its => its.replace(/\.\d+ /, ' ')))).toEqual(
      sorted(Array.from(ours, ([name, { size, mtime }]) => `${size} ${second(mtime)} ${name}`)),
    );
  });
});
