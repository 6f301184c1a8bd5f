/** Single files of a restore point, through a real mount and by the command line. */
import { execFileSync, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { lacking, noise, tool } from '../kit/volume-images.ts';
import { runCli } from './run-cli.ts';

const wanting = lacking('mke2fs', 'sfdisk', 'mkfs.fat', 'mcopy');
const cannot = process.getuid?.() === 0 && fs.existsSync('/dev/fuse') ? wanting : 'needs root and /dev/fuse';

const MIB = 2 ** 20;
const folder = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-files-')));
const place = (...names: string[]): string => path.join(folder, ...names);
const POINTS = ['2026-11-01T02:00:00Z', '2026-11-02T02:00:00Z'];
let setsXattrs = false;
const pointName = (time: string): string => time.replaceAll(':', '-');

function into(disk: string, part: string, at: number): void {
  const bytes = fs.readFileSync(part);
  const fd = fs.openSync(disk, 'r+');
  fs.writeSync(fd, bytes, 0, bytes.length, at);
  fs.closeSync(fd);
}

/** A disk with a FAT and an ext4 volume; the tree is what the ext4 one holds. */
function makeDisk(): void {
  fs.truncateSync(place('disk.raw'), 96 * MIB);
  tool(
    'sfdisk',
    ['-q', place('disk.raw')],
    'label: gpt\nstart=2048,size=32768,type=U\nstart=34816,size=131072,type=L,name=root\n',
  );
  fs.writeFileSync(place('fat'), '');
  fs.truncateSync(place('fat'), 16 * MIB);
  tool('mkfs.fat', ['-n', 'ESP', place('fat')]);
  tool('mcopy', ['-i', place('fat'), place('tree/etc/fstab'), '::Fstab copy.txt']);
  fs.rmSync(place('ext4'), { force: true });
  fs.writeFileSync(place('ext4'), '');
  fs.truncateSync(place('ext4'), 64 * MIB);
  tool('mke2fs', ['-q', '-F', '-t', 'ext4', '-d', place('tree'), place('ext4')]);
  into(place('disk.raw'), place('fat'), 2048 * 512);
  into(place('disk.raw'), place('ext4'), 34816 * 512);
}

beforeAll(async () => {
  if (cannot !== '') return;
  fs.mkdirSync(place('tree/etc'), { recursive: true });
  fs.mkdirSync(place('tree/data/deep/er'), { recursive: true });
  fs.writeFileSync(place('tree/etc/fstab'), '/dev/sda2 / ext4\n', { mode: 0o600 });
  fs.writeFileSync(place('tree/data/noise.bin'), noise(3_000_001, 4));
  fs.writeFileSync(place('tree/data/deep/er/one'), '1');
  fs.writeFileSync(place('tree/data/setuid'), '#!/bin/sh\n');
  fs.chmodSync(place('tree/data/setuid'), 0o4755);
  fs.mkdirSync(place('tree/extra'));
  fs.linkSync(place('tree/data/setuid'), place('tree/extra/same'));
  setsXattrs = spawnSync('setfattr', ['-n', 'user.origin', '-v', 'here', place('tree/etc/fstab')]).status === 0;
  spawnSync('setfattr', ['-n', 'user.long', '-v', 'x'.repeat(900), place('tree/data/deep')]);
  tool('mknod', [place('tree/extra/pipe'), 'p']);
  tool('mknod', [place('tree/extra/device'), 'b', '259', '70000']);
  fs.symlinkSync('/etc/fstab', place('tree/data/absolute'));
  fs.symlinkSync('../../../../../../etc/hostname', place('tree/data/outwards'));
  fs.writeFileSync(place('disk.raw'), '');
  fs.writeFileSync(place('key'), 'correct horse\n', { mode: 0o600 });
  for (const [i, time] of POINTS.entries()) {
    if (i > 0) fs.writeFileSync(place('tree/data/noise.bin'), noise(3_000_001, 5));
    makeDisk();
    const args = [
      'backup',
      place('disk.raw'),
      place('repo'),
      '--set',
      'web01',
      '--time',
      time,
      '--encrypt',
      '--key-file',
      place('key'),
    ];
    expect(await runCli(args)).toMatchObject({ code: 0 });
  }
}, 300_000);
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

describe.skipIf(cannot !== '')(`single files ${cannot}`, () => {
  test('cp out of the mount: every file of both points, from an encrypted chain', async () => {
    const mnt = place('mnt');
    fs.mkdirSync(mnt);
    const ran = await runCli(['mount', place('repo'), mnt, '--key-file', place('key')]);
    expect(ran, ran.stderr).toMatchObject({ code: 0 });
    try {
      const files = path.join(mnt, 'backups/web01/latest/files');
      expect(fs.readdirSync(files)).toEqual(['p1-fat16-ESP', 'p2-ext4-root']);
      expect(fs.readFileSync(path.join(files, 'p1-fat16-ESP/Fstab copy.txt'), 'utf8')).toBe('/dev/sda2 / ext4\n');
      const root = path.join(files, 'p2-ext4-root');
      // The links of the copy lead inside the volume, so only what they are read through is compared.
      execFileSync('cp', [
        '-rL',
        path.join(root, 'data/deep'),
        path.join(root, 'etc'),
        path.join(root, 'data/noise.bin'),
        folder,
      ]);
      execFileSync('cmp', [place('noise.bin'), place('tree/data/noise.bin')]);
      execFileSync('diff', ['-r', place('deep'), place('tree/data/deep')]);
      expect(fs.readFileSync(place('etc/fstab'), 'utf8')).toBe('/dev/sda2 / ext4\n');
      const stat = fs.statSync(path.join(root, 'etc/fstab'));
      expect([stat.mode.toString(8), stat.size]).toEqual(['100600', 17]);
      expect(fs.statSync(path.join(root, 'data/setuid')).mode % 0o10000).toBe(0o4755);
      expect(fs.readFileSync('/proc/self/mountinfo', 'utf8')).toMatch(new RegExp(`${mnt} \\S*nosuid,nodev,noexec`));
      expect(Math.floor(stat.mtimeMs / 1000)).toBe(Math.floor(fs.statSync(place('tree/etc/fstab')).mtimeMs / 1000));
      expect(fs.readlinkSync(path.join(root, 'data/absolute'))).toBe('../etc/fstab');
      expect(fs.readFileSync(path.join(root, 'data/absolute'), 'utf8')).toBe('/dev/sda2 / ext4\n');
      expect(fs.readlinkSync(path.join(root, 'data/outwards'))).toBe('../etc/hostname');
      const listed = (what: string): Buffer =>
        execFileSync('getfattr', ['-R', '-P', '-h', '-d', '-m', '-', '.'], { cwd: what });
      if (setsXattrs) {
        expect(listed(root).toString()).toContain('user.origin="here"');
        expect(listed(path.join(root, 'data')).equals(listed(place('tree/data')))).toBe(true);
        expect(listed(path.join(root, 'etc')).equals(listed(place('tree/etc')))).toBe(true);
      }
      // The disks beside have none, and asking for them is no error.
      execFileSync('getfattr', ['-d', '-m', '-', path.join(mnt, 'backups/web01/latest/disk0.raw')], { stdio: 'pipe' });
      const device = fs.lstatSync(path.join(root, 'extra/device'));
      expect([device.isBlockDevice(), device.rdev]).toEqual([true, fs.lstatSync(place('tree/extra/device')).rdev]);
      expect(() => fs.openSync(path.join(root, 'extra/device'), 'r')).toThrow(/EACCES/);
      expect(fs.lstatSync(path.join(root, 'extra/pipe')).isFIFO()).toBe(true);
      const found = execFileSync('find', [path.join(root, 'extra'), '-type', 'p', '-o', '-type', 'b'], {
        encoding: 'utf8',
      });
      expect(
        found
          .trim()
          .split('\n')
          .map(name => path.basename(name))
          .sort(),
      ).toEqual(['device', 'pipe']);
      expect(() => fs.writeFileSync(path.join(root, 'new'), '')).toThrow(/EROFS|EACCES|EPERM|ENOSYS/);
      const older = path.join(mnt, 'backups/web01', pointName(POINTS[0]!), 'files/p2-ext4-root/data/noise.bin');
      expect(Buffer.compare(fs.readFileSync(older), noise(3_000_001, 4))).toBe(0);
      expect(Buffer.compare(fs.readFileSync(path.join(root, 'data/noise.bin')), noise(3_000_001, 5))).toBe(0);
    } finally {
      expect(await runCli(['umount', mnt, '--release'])).toMatchObject({ code: 0 });
    }
  });

  const repo = ['--repo', place('repo'), '--key-file', place('key')];

  test('cat and cp -r give the same without a mount; again nothing is written', async () => {
    const cat = await runCli([
      'cat',
      'web01@~1:/p2-ext4-root/data/absolute',
      'web01:/p1-fat16-ESP/Fstab copy.txt',
      ...repo,
    ]);
    expect(cat).toMatchObject({ code: 0, stdout: '/dev/sda2 / ext4\n'.repeat(2) });
    fs.mkdirSync(place('copied'));
    const target = place('copied/p2-ext4-root');
    const first = await runCli(['cp', '-r', 'web01:/p2-ext4-root', place('copied'), ...repo, '--json']);
    expect(first, first.stderr).toMatchObject({ code: 0 });
    expect(JSON.parse(first.stdout)).toMatchObject({
      files: 6,
      links: 1,
      skipped: 2,
      kept: 0,
      attributes: 0,
      failures: [],
    });
    expect(first.stderr).toContain('left out: p2-ext4-root/extra/device is a block device');
    fs.rmdirSync(path.join(target, 'lost+found'));
    execFileSync('diff', ['-r', '--no-dereference', '-x', 'device', '-x', 'pipe', target, place('tree')]);
    const inode = (name: string): number => fs.statSync(path.join(target, name)).ino;
    expect(inode('extra/same')).toBe(inode('data/setuid'));
    const xattrs = (where: string): Buffer => execFileSync('getfattr', ['-R', '-P', '-h', '-d', '.'], { cwd: where });
    expect(xattrs(target).equals(xattrs(place('tree')))).toBe(true);
    expect(xattrs(target).length > 0).toBe(setsXattrs);
    // Modes and times as they were; setuid is not given to a file of someone else's machine.
    expect(fs.statSync(path.join(target, 'etc/fstab')).mode % 0o10000).toBe(0o600);
    expect(fs.statSync(path.join(target, 'data/setuid')).mode % 0o10000).toBe(0o755);
    fs.rmSync(path.join(target, 'data/deep/er/one'));
    const again = await runCli(['cp', '-r', 'web01:/p2-ext4-root', place('copied'), ...repo, '--json']);
    expect(JSON.parse(again.stdout)).toMatchObject({ files: 1, kept: 6, links: 0, failures: [] });
  });

  test('cp --devices makes devices and pipes', async () => {
    fs.mkdirSync(place('made'));
    const args = ['cp', '-r', 'web01:/p2-ext4-root/extra', place('made'), '--devices', ...repo];
    expect(await runCli(args)).toMatchObject({ code: 0, stderr: '' });
    expect(fs.lstatSync(place('made/extra/device')).rdev).toBe(fs.lstatSync(place('tree/extra/device')).rdev);
    expect(fs.lstatSync(place('made/extra/pipe')).isFIFO()).toBe(true);
    expect(await runCli([...args, '--json'])).toMatchObject({ code: 0, stdout: expect.stringContaining('"kept": 3') });
  });

  test('ls, tree and find', async () => {
    const extra = await runCli(['ls', 'web01:/p2-ext4-root/extra', ...repo]);
    expect(extra.stdout).toMatch(/\nbrw-r--r-- .* device\nprw-r--r-- .* pipe\n/);
    const ls = await runCli(['ls', 'web01:/p2-ext4-root/data', ...repo]);
    expect(ls.stdout).toMatch(/^MODE +LINKS +OWNER +SIZE +CHANGED +NAME\n/);
    expect(ls.stdout).toMatch(/\nlrwxrwxrwx +1 +0:0 +- .* absolute -> \/etc\/fstab\n/);
    expect(ls.stdout).toMatch(/\n-rwsr-xr-x +2 +0:0 +10 .* setuid$/m);
    const tree = await runCli(['tree', 'web01:/p2-ext4-root/data', '--depth', '2', ...repo]);
    expect(tree.stdout).toBe(
      'web01:/p2-ext4-root/data\n├── absolute -> /etc/fstab\n├── deep\n│   └── er\n├── noise.bin\n' +
        '├── outwards -> ../../../../../../etc/hostname\n└── setuid\n\n2 folders, 4 files\n',
    );
    const found = await runCli(['find', 'web01:/', '--size', '+1M', '--name', '*.b[!x]n', '--json', ...repo]);
    expect(JSON.parse(found.stdout)).toMatchObject([{ path: 'p2-ext4-root/data/noise.bin', size: 3_000_001 }]);
    const none = await runCli(['find', 'web01:/', '--newer', '2150-01-01', ...repo]);
    expect(none).toMatchObject({ code: 0, stdout: '' });
    expect(await runCli(['find', 'web01:/', '--newer', 'soon', ...repo])).toMatchObject({ code: 2 });
  });

  test('history and diff know what changed between the points', async () => {
    const history = await runCli(['history', 'web01:/p2-ext4-root/data/noise.bin', '--json', ...repo]);
    expect(JSON.parse(history.stdout)).toMatchObject([
      { points: 1, change: 'first', file: { size: 3_000_001 } },
      { points: 1, change: 'content', file: { size: 3_000_001 } },
    ]);
    const same = await runCli(['history', 'web01:/p2-ext4-root/etc/fstab', '--json', ...repo]);
    expect(JSON.parse(same.stdout)).toMatchObject([{ points: 2, change: 'first' }]);
    expect(await runCli(['history', 'web01:/p2-ext4-root/none', ...repo])).toMatchObject({ code: 3 });
    const diff = await runCli(['diff', 'web01@~1', 'web01', '/p2-ext4-root', ...repo]);
    expect(diff, diff.stderr).toMatchObject({ code: 0, stdout: '* /p2-ext4-root/data/noise.bin\n' });
    expect(diff.stderr).toContain('0 added (+), 1 changed (*), 0 with other attributes (~), 0 removed (-)');
  });

  test('what is there is neither followed nor replaced', async () => {
    const target = place('trap');
    fs.mkdirSync(path.join(target, 'data'), { recursive: true });
    fs.mkdirSync(place('outside'));
    fs.symlinkSync(place('outside'), path.join(target, 'data/deep'));
    fs.symlinkSync(place('outside/victim'), path.join(target, 'data/noise.bin'));
    const ran = await runCli(['cp', '-r', 'web01:/p2-ext4-root/data', target, ...repo, '--json']);
    expect(ran.code).toBe(1);
    const { failures } = JSON.parse(ran.stdout) as { failures: { path: string; fault: string }[] };
    expect(failures.map(({ path: its, fault }) => [its, fault]).sort()).toEqual([
      ['data/deep', 'exists'],
      ['data/noise.bin', 'exists'],
    ]);
    expect(fs.readdirSync(place('outside'))).toEqual([]);
  });

  test.each([
    ['web01:/p9-none/x', 3, /there is no volume "p9-none".*\n.*p1-fat16-ESP, p2-ext4-root/],
    ['web01:/p2-ext4-root/etc/none', 3, /no such file or folder/],
    ['web01:/p2-ext4-root/etc', 2, /is no file/],
    ['web01:/p2-ext4-root/data/outwards', 3, /no such file or folder/],
    ['web01', 2, /is not POINT:\/volume\/path/],
  ])('cat %s is refused', async (spec, code, message) => {
    const ran = await runCli(['cat', spec, ...repo]);
    expect(ran.stdout).toBe('');
    expect(ran.stderr).toMatch(message);
    expect(ran.code).toBe(code);
  });
});
