/** Clones on real mounts: what was written lasts, through kills and full disks. Other software is the judge. */
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { mountsOf } from '../../src/host/fuse/mount.ts';
import { runPaths } from '../../src/server/paths.ts';
import {
  folder,
  MIB,
  mounted,
  oneLine,
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
