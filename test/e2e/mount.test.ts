/** The main job on real mounts: chains served exactly, clones that last, and clear refusals. Other software is the judge. */
import { execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { mountsOf } from '../../src/host/fuse/mount.ts';
import { releaseMountpoint } from '../../src/server/guard.ts';
import { runPaths } from '../../src/server/paths.ts';
import type { MountStatus } from '../../src/server/protocol.ts';
import { random } from '../kit/random.ts';
import { type Ran, runCli } from './run-cli.ts';

const has = (program: string): boolean =>
  (process.env.PATH ?? '').split(':').some(folder => fs.existsSync(path.join(folder, program)));
const wanting = ['qemu-img', 'qemu-io', 'fio'].filter(program => !has(program));
const able = process.getuid?.() === 0 && fs.existsSync('/dev/fuse');
const cannot = !able ? 'needs root and /dev/fuse' : wanting.length > 0 ? `missing: ${wanting.join(' ')}` : '';

const MIB = 2 ** 20;
const folder = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-mount-')));
const place = (...names: string[]): string => path.join(folder, ...names);
const tool = (program: string, ...args: string[]): string =>
  execFileSync(program, args, { encoding: 'utf8', cwd: folder, maxBuffer: 2 ** 26, stdio: ['ignore', 'pipe', 'pipe'] });

const sha256 = (file: string): string => {
  const hash = createHash('sha256');
  const fd = fs.openSync(file, 'r');
  const part = new Uint8Array(MIB);
  for (let n = fs.readSync(fd, part); n > 0; n = fs.readSync(fd, part)) hash.update(part.subarray(0, n));
  fs.closeSync(fd);
  return hash.digest('hex');
};
const sums = (below: string): Record<string, string> =>
  Object.fromEntries(
    fs
      .readdirSync(below, { recursive: true, encoding: 'utf8' })
      .filter(name => fs.statSync(path.join(below, name)).isFile())
      .map(name => [name, sha256(path.join(below, name))]),
  );

let mounts = 0;
interface At extends AsyncDisposable {
  readonly mnt: string;
  readonly told: string;
}
async function mounted(...args: string[]): Promise<At> {
  const mnt = place(`mnt-${++mounts}`);
  fs.mkdirSync(mnt);
  const ran = await runCli(['mount', args[0]!, mnt, ...args.slice(1)]);
  expect(ran, ran.stderr).toMatchObject({ code: 0 });
  return {
    mnt,
    told: ran.stderr,
    async [Symbol.asyncDispose]() {
      const ended = await runCli(['umount', mnt, '--release']);
      expect(ended, ended.stderr).toMatchObject({ code: 0 });
    },
  };
}
const oneLine = (ran: Ran): string => ran.stderr.split('\n')[0]!;
const statusOf = async (mnt: string): Promise<MountStatus> =>
  JSON.parse((await runCli(['mount', '--status', mnt, '--json'])).stdout) as MountStatus;

function verifiedLoad(file: string, seconds: number): Promise<string> {
  const args = [
    '--name=k',
    `--filename=${file}`,
    '--rw=randrw',
    '--bs=4k',
    '--iodepth=16',
    '--direct=1',
    '--ioengine=libaio',
    '--size=32M',
  ];
  const checks = [
    '--verify=crc32c',
    '--verify_fatal=1',
    '--verify_backlog=256',
    '--time_based',
    `--runtime=${seconds}`,
  ];
  return new Promise((resolve, reject) => {
    execFile('fio', [...args, ...checks], { cwd: folder }, (error, out, err) =>
      error === null ? resolve(out) : reject(new Error(out + err)),
    );
  });
}

/** 64 MiB with a hole in the middle; what every chain starts with. */
function makeDisk(file: string): void {
  const bytes = new Uint8Array(24 * MIB);
  const { below } = random(7);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < bytes.length; i += 4) view.setUint32(i, below(2 ** 32));
  const fd = fs.openSync(file, 'w');
  fs.ftruncateSync(fd, 64 * MIB);
  fs.writeSync(fd, bytes, 0, bytes.length, 0);
  fs.writeSync(fd, bytes, 0, 4 * MIB, 50 * MIB);
  fs.closeSync(fd);
}

const DAYS = [1, 2, 3];
const timeOf = (day: number): string => `2026-11-0${day}T02:00:00Z`;
const pointOf = (day: number): string => timeOf(day).replaceAll(':', '-');

beforeAll(async () => {
  if (cannot !== '') return;
  fs.writeFileSync(place('key'), 'correct horse\n', { mode: 0o600 });
  fs.writeFileSync(place('other-key'), 'battery staple\n', { mode: 0o600 });
  makeDisk(place('disk.raw'));
  for (const day of DAYS) {
    if (day > 1) {
      const commands = [`write -P ${day} ${day * 7}M 128k`, `write -z ${day}M 1M`, `write -P ${day} 33M 5000`];
      tool('qemu-io', '-f', 'raw', ...commands.flatMap(command => ['-c', command]), 'disk.raw');
    }
    fs.copyFileSync(place('disk.raw'), place(`source-${day}.raw`), fs.constants.COPYFILE_FICLONE);
    for (const [repo, ...flags] of [['plain'], ['secret', '--encrypt', '--key-file', place('key')]] as string[][]) {
      const args = ['backup', place('disk.raw'), place(repo!), '--set', 'web01', '--time', timeOf(day), ...flags];
      expect(await runCli(args)).toMatchObject({ code: 0 });
    }
  }
  fs.mkdirSync(place('layers'));
  tool('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', '-c', 'source-1.raw', 'layers/monday.qcow2');
  const below = ['monday', 'tuesday', 'wednesday'];
  for (const [i, name] of below.entries()) {
    if (i === 0) continue;
    tool(
      'qemu-img',
      'create',
      '-q',
      '-f',
      'qcow2',
      '-F',
      'qcow2',
      '-b',
      `${below[i - 1]}.qcow2`,
      `layers/${name}.qcow2`,
    );
    tool(
      'qemu-io',
      '-f',
      'qcow2',
      '-c',
      `write -P ${40 + i} ${i * 9}M 96k`,
      '-c',
      `write -z ${i}M 256k`,
      `layers/${name}.qcow2`,
    );
  }
});

afterAll(async () => {
  for (const { at } of mountsOf().filter(m => m.at.startsWith(`${folder}/`)))
    await runCli(['umount', at, '--force', '--release']);
  for (const name of fs.readdirSync(folder)) if (name.startsWith('mnt-')) releaseMountpoint(place(name));
  fs.rmSync(folder, { recursive: true, force: true });
});

const suite = describe.skipIf(cannot !== '');
const title = (name: string): string => (cannot === '' ? name : `${name} (skipped: ${cannot})`);

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

suite(title('clones'), () => {
  test.each(['raw', 'vhd', 'qcow2'])(
    'as %s: 20,000 verified random writes at depth 16 last over a new mount',
    async format => {
      const state = place(`state-${format}`);
      const before = sums(place('secret'));
      const flags = ['--state', state, '--key-file', place('key'), '--clone', `web01@latest:work:${format}`];
      const fio = (file: string, ...more: string[]): string =>
        tool(
          'fio',
          '--name=v',
          `--filename=${file}`,
          '--rw=randrw',
          '--bs=4k',
          '--iodepth=16',
          '--direct=1',
          '--ioengine=libaio',
          '--size=60M',
          '--verify=crc32c',
          '--verify_fatal=1',
          '--number_ios=20000',
          '--randseed=5',
          ...more,
        );
      {
        await using at = await mounted(place('secret'), ...flags);
        const file = path.join(at.mnt, 'clones/work', `disk0.${format}`);
        if (format !== 'qcow2') expect(fio(file)).toContain('err= 0');
        // Through QEMU's own driver the writes go where the format says.
        const driver = { raw: 'raw', vhd: 'vpc', qcow2: 'qcow2' }[format]!;
        tool('qemu-io', '-f', driver, '-c', 'write -P 0x77 61M 1M', '-c', 'write -z 62M 64k', '-c', 'flush', file);
      }
      {
        await using at = await mounted(place('secret'), ...flags);
        const file = path.join(at.mnt, 'clones/work', `disk0.${format}`);
        const driver = { raw: 'raw', vhd: 'vpc', qcow2: 'qcow2' }[format]!;
        expect(
          tool('qemu-io', '-f', driver, '-c', 'read -P 0x77 61M 1M', '-c', 'read -P 0 62M 64k', file),
        ).not.toContain('failed');
        if (format === 'qcow2') expect(tool('qemu-img', 'check', '-f', 'qcow2', file)).toContain('No errors');
        else expect(fio(file, '--verify_only=1')).toContain('err= 0');
        const point = path.join(at.mnt, 'backups/web01', pointOf(3), 'disk0.raw');
        expect(sha256(point)).toBe(sha256(place('source-3.raw')));
      }
      expect(sums(place('secret'))).toEqual(before);
    },
  );

  test('are made, listed, reset and deleted on a running mount; one that is open is not deleted', async () => {
    await using at = await mounted(place('plain'), '--state', place('state-verbs'));
    expect(await runCli(['clone', at.mnt, 'web01@~1', 'one'])).toMatchObject({ code: 0 });
    expect(await runCli(['clone', at.mnt, 'web01@nope', 'two'])).toMatchObject({ code: 3 });
    expect(await runCli(['clone', at.mnt, 'web01@latest', '../escape'])).toMatchObject({ code: 2 });
    const file = path.join(at.mnt, 'clones/one/disk0.raw');
    const fd = fs.openSync(file, 'r+');
    fs.writeSync(fd, 'written by the guest', MIB);
    const busy = await runCli(['clone', at.mnt, '--delete', 'one']);
    expect(busy.code).toBe(4);
    const open = await runCli(['umount', at.mnt]);
    expect(open.code).toBe(4);
    expect(oneLine(open)).toContain('clones/one/disk0.raw');
    fs.closeSync(fd);
    // The kernel has just been told which file this is; it is another one afterwards.
    fs.statSync(file);
    expect(await runCli(['clone', at.mnt, '--reset', 'one'])).toMatchObject({ code: 0 });
    expect(sha256(file)).toBe(sha256(place('source-2.raw')));
    const list = JSON.parse((await runCli(['clone', at.mnt, '--list', '--json'])).stdout) as { name: string }[];
    expect(list.map(clone => clone.name)).toEqual(['one']);
    expect(await runCli(['clone', at.mnt, '--delete', 'one'])).toMatchObject({ code: 0 });
    expect(fs.readdirSync(path.join(at.mnt, 'clones'))).toEqual([]);
  });

  test('a clone is bound to its base: another backup under it is refused', async () => {
    const [repo, state] = [place('rebased'), place('state-rebased')];
    fs.cpSync(place('layers'), repo, { recursive: true, preserveTimestamps: true });
    const flags = ['--state', state, '--clone', 'monday@latest:bound'];
    {
      await using at = await mounted(repo, ...flags);
      fs.writeFileSync(path.join(at.mnt, 'clones/bound/disk0.raw'), 'x', { flag: 'r+' });
    }
    tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 99 20M 64k', 'rebased/monday.qcow2');
    const mnt = place('mnt-refused');
    fs.mkdirSync(mnt);
    const refused = await runCli(['mount', repo, mnt, ...flags]);
    expect(refused.code).toBe(5);
    expect(oneLine(refused)).toContain('is not the backup it was made from');
    await using at = await mounted(repo, '--state', state);
    expect(at.told).toContain('clone bound is not served');
    expect(fs.readdirSync(path.join(at.mnt, 'clones'))).toEqual([]);
  });

  test('a damaged record of one clone keeps nobody else from being served, and nothing is deleted for it', async () => {
    const state = place('state-damaged');
    const flags = ['--state', state, '--clone', 'web01@latest:good', '--clone', 'web01@latest:bad'];
    {
      await using at = await mounted(place('plain'), ...flags);
      fs.writeFileSync(path.join(at.mnt, 'clones/bad/disk0.raw'), 'x', { flag: 'r+' });
    }
    const record = path.join(state, 'clones/bad/clone.json');
    fs.writeFileSync(record, '{');
    {
      await using at = await mounted(place('plain'), '--state', state);
      expect(at.told).toContain('clone bad is not served: its record is not JSON');
      expect(fs.readdirSync(path.join(at.mnt, 'clones'))).toEqual(['good']);
      expect(await runCli(['clone', at.mnt, 'web01@latest', 'bad'])).toMatchObject({ code: 1 });
    }
    fs.rmSync(record);
    await using at = await mounted(place('plain'), '--state', state);
    const again = await runCli(['clone', at.mnt, 'web01@latest', 'bad']);
    expect(again).toMatchObject({ code: 1, stderr: expect.stringContaining('holds data') });
  });

  test('a full disk gives ENOSPC to the writer and loses nothing that was acknowledged', async () => {
    const small = place('small');
    fs.mkdirSync(small);
    tool('mount', '-t', 'tmpfs', '-o', 'size=12m', 'tmpfs', small);
    try {
      const written: number[] = [];
      const block = (n: number): Uint8Array => new Uint8Array(65536).fill(1 + (n % 250));
      {
        await using at = await mounted(place('plain'), '--state', small, '--clone', 'web01@latest:full');
        const fd = fs.openSync(path.join(at.mnt, 'clones/full/disk0.raw'), 'r+');
        let code = '';
        for (let n = 0; n < 400 && code === ''; n++) {
          try {
            expect(fs.writeSync(fd, block(n), 0, 65536, n * 65536)).toBe(65536);
            written.push(n);
          } catch (error) {
            code = (error as NodeJS.ErrnoException).code ?? '';
          }
        }
        expect(code).toBe('ENOSPC');
        // Who looks for the reason finds it.
        expect(fs.readFileSync(runPaths(at.mnt).log, 'utf8')).toMatch(
          /write \/clones\/full\/disk0.raw.*: no space left/,
        );
        fs.fsyncSync(fd);
        fs.closeSync(fd);
      }
      expect(written.length).toBeGreaterThan(50);
      await using at = await mounted(place('plain'), '--state', small);
      const fd = fs.openSync(path.join(at.mnt, 'clones/full/disk0.raw'), 'r');
      const got = new Uint8Array(65536);
      for (const n of written) {
        fs.readSync(fd, got, 0, got.length, n * 65536);
        expect(Buffer.compare(got, block(n))).toBe(0);
      }
      fs.closeSync(fd);
    } finally {
      tool('umount', '-l', small);
    }
  });

  test.each<[string, (mnt: string) => Promise<void>]>([
    ['kill -9 of the worker', async mnt => void process.kill((await statusOf(mnt)).worker.pid, 'SIGKILL')],
    ['upgrade', async mnt => void expect(await runCli(['upgrade', mnt])).toMatchObject({ code: 0 })],
  ])('%s under a verified load: no error, no mismatch, and depth 16 was reached', async (_, disturb) => {
    await using at = await mounted(place('plain'), '--state', place('state-load'), '--clone', 'web01@latest:loaded');
    const file = path.join(at.mnt, 'clones/loaded/disk0.raw');
    const device = mountsOf(at.mnt)[0]!.device.split(':')[1];
    tool('sh', '-c', 'mountpoint -q /sys/fs/fuse/connections || mount -t fusectl fusectl /sys/fs/fuse/connections');
    const waiting = (): number => Number(fs.readFileSync(`/sys/fs/fuse/connections/${device}/waiting`, 'utf8'));
    let [disturbed, deepest, over] = [0, 0, false];
    const watch = setInterval(() => {
      deepest = Math.max(deepest, waiting());
    }, 1);
    const disturbing = (async () => {
      while (!over) {
        await new Promise(resolve => setTimeout(resolve, 500));
        if (over) break;
        await disturb(at.mnt);
        disturbed++;
      }
    })();
    const fio = await verifiedLoad(file, 8);
    over = true;
    clearInterval(watch);
    await disturbing;
    expect(fio).toContain('err= 0');
    expect(disturbed).toBeGreaterThan(1);
    // What the next worker starts from in a fraction of the time.
    const environment = fs.readFileSync(`/proc/${(await statusOf(at.mnt)).worker.pid}/environ`, 'utf8').split('\0');
    const code = environment.find(setting => setting.startsWith('NODE_COMPILE_CACHE='))?.slice(19);
    expect(fs.readdirSync(code ?? 'nowhere')).not.toEqual([]);
    expect(deepest).toBeGreaterThanOrEqual(16);
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
