/** The main job on real mounts: chains served exactly, and clear refusals. Other software is the judge. */
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, expect, test } from 'vitest';
import { mountsOf } from '../../src/host/fuse/mount.ts';
import {
  DAYS,
  folder,
  MIB,
  mounted,
  place,
  pointOf,
  sha256,
  statusOf,
  suite,
  sums,
  title,
  tool,
  withRepositories,
} from './mounted.ts';
import { runCli } from './run-cli.ts';

withRepositories();

suite(title('restore points'), () => {
  test.each([
    ['encrypted .bml', 'secret', () => ['--key-file', place('key')], (day: number) => `web01/${pointOf(day)}`],
    ['plain .bml', 'plain', () => [], (day: number) => `web01/${pointOf(day)}`],
    ['a QCOW2 chain', 'layers', () => [], (day: number) => `monday/${['', 'monday', 'tuesday', 'wednesday'][day]}`],
  ])('%s: each point is the source at that time, the same in every format', async (_, repo, flags, point) => {
    const before = sums(place(repo));
    {
      await using at = await mounted(place(repo), ...flags());
      for (const day of DAYS) {
        const home = path.join(at.mnt, 'backups', point(day));
        let source = place(`source-${day}.raw`);
        if (repo === 'layers') {
          source = place('layer.raw');
          tool('qemu-img', 'convert', '-O', 'raw', path.join('layers', `${path.basename(point(day))}.qcow2`), source);
        }
        expect(sha256(path.join(home, 'disk0.raw'))).toBe(sha256(source));
        for (const [file, format] of [
          ['disk0.vhd', 'vpc'],
          ['disk0.qcow2', 'qcow2'],
        ] as const) {
          expect(
            tool('qemu-img', 'compare', '-f', 'raw', '-F', format, path.join(home, 'disk0.raw'), path.join(home, file)),
          ).toContain('identical');
        }
        expect(tool('qemu-img', 'check', '-f', 'qcow2', path.join(home, 'disk0.qcow2'))).toContain('No errors');
        for (const [file, format] of [
          ['disk0.raw', 'raw'],
          ['disk0.qcow2', 'qcow2'],
        ] as const) {
          const map = JSON.parse(tool('qemu-img', 'map', '--output=json', '-f', format, path.join(home, file))) as {
            zero: boolean;
          }[];
          expect(map.some(extent => extent.zero)).toBe(true);
        }
        const { blocks, size } = fs.statSync(path.join(home, 'disk0.raw'));
        expect(blocks * 512).toBeLessThan(size * 0.6);
      }
      expect(fs.readlinkSync(path.join(at.mnt, 'backups', path.dirname(point(3)), 'latest'))).toBe(
        path.basename(point(3)),
      );
    }
    expect(sums(place(repo))).toEqual(before);
  });

  test('nothing below backups can be written, and nothing is left at the bare mountpoint', async () => {
    const at = await mounted(place('plain'));
    const file = path.join(at.mnt, 'backups/web01/latest/disk0.raw');
    expect(() => fs.openSync(file, 'r+')).toThrow(/EROFS/);
    expect(() => fs.writeFileSync(path.join(at.mnt, 'backups/new'), 'x')).toThrow(/EROFS/);
    expect(await runCli(['umount', at.mnt])).toMatchObject({ code: 0 });
    expect(() => fs.writeFileSync(path.join(at.mnt, 'stray'), 'x')).toThrow(/EPERM|EROFS/);
  });

  test('long reads of plain data are whole while workers are killed', async () => {
    fs.mkdirSync(place('whole'));
    fs.copyFileSync(place('source-3.raw'), place('whole/disk.raw'));
    await using at = await mounted(place('whole'));
    const file = path.join(at.mnt, 'backups/disk/latest/disk0.raw');
    let over = false;
    const killing = (async () => {
      for (let i = 0; i < 4; i++) {
        await new Promise(resolve => setTimeout(resolve, 300));
        process.kill((await statusOf(at.mnt)).worker.pid, 'SIGKILL');
      }
      over = true;
    })();
    const read = promisify(execFile);
    const wanted = sha256(place('source-3.raw'));
    while (!over) {
      const { stdout, stderr } = await read('sh', [
        '-c',
        'dd "if=$0" iflag=direct bs=1M status=none | sha256sum',
        file,
      ]);
      expect([stdout.slice(0, 64), stderr]).toEqual([wanted, '']);
    }
    await killing;
  });

  test('a missing middle layer: older points are served, ls names what is missing', async () => {
    for (const [repo, name, set] of [
      ['plain', `web01/${pointOf(2)}.bml`, 'web01'],
      ['layers', 'tuesday.qcow2', 'monday'],
    ] as const) {
      const copy = place(`${repo}-gap`);
      fs.cpSync(place(repo), copy, { recursive: true, preserveTimestamps: true });
      fs.rmSync(path.join(copy, name));
      await using at = await mounted(copy);
      const oldest = repo === 'plain' ? pointOf(1) : 'monday';
      expect(new Set(fs.readdirSync(path.join(at.mnt, 'backups', set)))).toEqual(new Set([oldest, 'latest']));
      expect(sha256(path.join(at.mnt, 'backups', set, oldest, 'disk0.raw'))).toBe(sha256(place('source-1.raw')));
      const listed = await runCli(['ls', copy]);
      expect(listed.code).toBe(0);
      expect(listed.stdout).toMatch(/broken: .*(is missing|no file here holds it)/);
      expect(at.told).toMatch(/is broken: /);
    }
  });

  test('a damaged block is an error for that block alone', async () => {
    const copy = place('damaged');
    fs.cpSync(place('secret'), copy, { recursive: true });
    const file = path.join(copy, 'web01', `${pointOf(1)}.bml`);
    const fd = fs.openSync(file, 'r+');
    fs.writeSync(fd, new Uint8Array(64).fill(0x5a), 0, 64, 3 * MIB);
    fs.closeSync(fd);
    await using at = await mounted(copy, '--key-file', place('key'));
    const good = fs.openSync(place('source-1.raw'), 'r');
    const bad = fs.openSync(path.join(at.mnt, 'backups/web01', pointOf(1), 'disk0.raw'), 'r');
    const [want, got] = [new Uint8Array(65536), new Uint8Array(65536)];
    const failed: number[] = [];
    for (let block = 0; block < 1024; block++) {
      fs.readSync(good, want, 0, want.length, block * 65536);
      try {
        fs.readSync(bad, got, 0, got.length, block * 65536);
        expect(Buffer.compare(got, want)).toBe(0);
      } catch (error) {
        expect((error as NodeJS.ErrnoException).code).toBe('EIO');
        failed.push(block);
      }
    }
    fs.closeSync(good);
    fs.closeSync(bad);
    // Two neighbours where the damage lies on a border, plus what the kernel's read-ahead asked for in one request.
    expect(failed.length).toBeGreaterThan(0);
    expect(failed.length).toBeLessThan(40);
  });
});
suite(title('refusals'), () => {
  const mnt = place('mnt-refusals');
  beforeAll(() => fs.mkdirSync(mnt, { recursive: true }));

  test.each<[string, () => string[], number, RegExp]>([
    ['a wrong key', () => ['mount', place('secret'), mnt, '--key-file', place('other-key')], 5, /no given key opens/],
    ['no key', () => ['mount', place('secret'), mnt], 5, /encrypted/],
    ['no such repository', () => ['mount', place('nowhere'), mnt], 3, /no such file/],
    ['no such mountpoint', () => ['mount', place('plain'), place('nowhere')], 3, /no such directory/],
    ['a mountpoint that is not empty', () => ['mount', place('plain'), folder], 1, /not empty/],
    ['an unknown flag', () => ['mount', place('plain'), mnt, '--wat'], 2, /unknown argument: wat/i],
    ['an unknown mount option', () => ['mount', place('plain'), mnt, '-o', 'wat'], 2, /not known/],
    ['an unknown file', () => ['info', place('key')], 3, /key/],
    ['not a mount', () => ['umount', folder], 3, /nothing is mounted/],
  ])('%s', async (_, args, code, message) => {
    const ran = await runCli(args());
    expect(ran.code, ran.stderr).toBe(code);
    expect(ran.stderr + ran.stdout).toMatch(message);
    expect(ran.stderr).not.toMatch(/\n\s+at /);
    expect(mountsOf(mnt)).toEqual([]);
  });

  test('already mounted, and a mount as its own source', async () => {
    await using at = await mounted(place('plain'));
    expect(await runCli(['mount', place('plain'), at.mnt])).toMatchObject({ code: 4 });
    expect(await runCli(['mount', path.join(at.mnt, 'backups'), mnt])).toMatchObject({ code: 2 });
  });

  test('a mount whose processes were all killed is healed by the next one', async () => {
    const at = await mounted(place('plain'), '--state', place('state-heal'), '--clone', 'web01@latest:held');
    fs.writeFileSync(path.join(at.mnt, 'clones/held/disk0.raw'), 'survives', { flag: 'r+' });
    const { supervisor, worker } = await statusOf(at.mnt);
    process.kill(supervisor.pid, 'SIGKILL');
    process.kill(worker.pid, 'SIGKILL');
    const again = await runCli(['mount', place('plain'), at.mnt, '--state', place('state-heal')]);
    expect(again, again.stderr).toMatchObject({ code: 0 });
    const fd = fs.openSync(path.join(at.mnt, 'clones/held/disk0.raw'), 'r');
    const got = new Uint8Array(8);
    fs.readSync(fd, got);
    fs.closeSync(fd);
    expect(new TextDecoder().decode(got)).toBe('survives');
    await at[Symbol.asyncDispose]();
  });
});

suite(title('the portable transport'), () => {
  test('serves the same bytes', async () => {
    await using at = await mounted(
      place('plain'),
      '--transport',
      'fuse-native',
      '--state',
      place('state-native'),
      '--clone',
      'web01@latest:c',
    );
    expect(sha256(path.join(at.mnt, 'backups/web01', pointOf(2), 'disk0.raw'))).toBe(sha256(place('source-2.raw')));
    const file = path.join(at.mnt, 'clones/c/disk0.raw');
    fs.writeFileSync(file, 'x'.repeat(5000), { flag: 'r+' });
    expect(fs.readFileSync(file).subarray(0, 5001).toString('latin1').slice(4998)).toMatch(/^xx[^x]?/);
  });
});
