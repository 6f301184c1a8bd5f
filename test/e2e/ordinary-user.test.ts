/** Everything about files, as a user without any right: `nobody`, who mounts by fusermount3. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { mountsOf } from '../../src/host/fuse/mount.ts';
import type { MountStatus } from '../../src/server/protocol.ts';
import { emptyImage, lacking, noise, tool } from '../kit/volume-images.ts';
import { type Ran, runCli } from './run-cli.ts';

const NOBODY = 65_534;
const PROGRAM = path.resolve(import.meta.dirname, '../../src/cli/bootmount.js');

/** Why it cannot be tried; empty when it can. */
function reason(): string {
  if (process.getuid?.() !== 0) return 'needs root, to become another user';
  const missing = lacking('fusermount3', 'mke2fs');
  if (missing !== '') return missing;
  const as = { uid: NOBODY, gid: NOBODY, cwd: '/' };
  if (spawnSync(process.execPath, [PROGRAM, '--version'], as).status !== 0)
    return 'the checkout is not for others to read';
  return spawnSync('sh', ['-c', 'exec 3<>/dev/fuse'], as).status === 0 ? '' : 'no /dev/fuse for ordinary users';
}

const cannot = reason();
const folder = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-user-')));
const place = (...names: string[]): string => path.join(folder, ...names);
const env = { HOME: place('home'), PATH: process.env.PATH ?? '' };
const asUser = (...args: string[]): Promise<Ran> => runCli(args, { cwd: folder, uid: NOBODY, env });
const shell = (script: string): string =>
  spawnSync('sh', ['-c', script], { cwd: folder, uid: NOBODY, gid: NOBODY, env, encoding: 'utf8' }).stdout;
const big = noise(6_000_000, 9);

beforeAll(async () => {
  if (cannot !== '') return;
  fs.chmodSync(folder, 0o755);
  fs.mkdirSync(place('tree/etc'), { recursive: true });
  fs.writeFileSync(place('tree/etc/shadow'), 'secret\n', { mode: 0o600 });
  fs.writeFileSync(place('tree/big'), big);
  fs.linkSync(place('tree/big'), place('tree/other-name'));
  fs.chownSync(place('tree/big'), 4321, 8765);
  emptyImage(place('disk.raw'), 2 ** 25);
  tool('mke2fs', ['-q', '-F', '-t', 'ext4', '-d', place('tree'), place('disk.raw')]);
  expect(await runCli(['backup', place('disk.raw'), place('repo'), '--set', 'web01'])).toMatchObject({ code: 0 });
  fs.chmodSync(place('repo'), 0o755);
  for (const name of fs.readdirSync(place('repo'), { recursive: true, encoding: 'utf8' })) {
    fs.chmodSync(place('repo', name), 0o755);
  }
  for (const name of ['mnt', 'home']) {
    fs.mkdirSync(place(name));
    fs.chownSync(place(name), NOBODY, NOBODY);
  }
});
afterAll(async () => {
  for (const { at } of mountsOf().filter(mount => mount.at.startsWith(`${folder}/`)))
    await asUser('umount', at, '--force');
  fs.rmSync(folder, { recursive: true, force: true });
});

describe.skipIf(cannot !== '')(`an ordinary user ${cannot}`, () => {
  const files = 'mnt/backups/web01/latest/files/p0-ext4';

  test('mounts, reads every file with its owner and mode, writes to a clone, and unmounts', async () => {
    const ran = await asUser('mount', place('repo'), 'mnt', '--clone', 'web01@latest:test');
    expect(ran, ran.stderr).toMatchObject({ code: 0 });
    expect(mountsOf(place('mnt'))[0]!.options).toMatch(/nosuid,nodev,noexec/);
    expect(shell(`stat -c '%a %u:%g %h %s' ${files}/big ${files}/etc/shadow`)).toBe(
      `644 4321:8765 2 ${big.length}\n600 0:0 1 7\n`,
    );
    expect(shell(`cat ${files}/etc/shadow; cmp ${files}/big tree/big && echo same`)).toBe('secret\nsame\n');
    const disk = 'mnt/clones/test/disk0.raw';
    expect(
      shell(`printf hello | dd of=${disk} bs=1 seek=9000 conv=notrunc status=none; tail -c +9001 ${disk} | head -c 5`),
    ).toBe('hello');
    expect(() => fs.readdirSync(place('mnt'))).toThrow(/EACCES/);

    const status = JSON.parse((await asUser('mount', '--status', 'mnt', '--json')).stdout) as MountStatus;
    expect(status.state.startsWith(place('home/.local/state'))).toBe(true);
    const reading = shell(
      `exec 5<${files}/big; head -c 1000000 <&5 >home/part; kill -9 ${status.worker.pid}; cat <&5 >>home/part; cmp home/part tree/big && echo same`,
    );
    // The shell's own read may have been under way when the worker died; on an older kernel that ends the mount.
    if (ran.stderr.includes('older than Linux 6.9')) return;
    expect(reading).toBe('same\n');
    const ended = await asUser('umount', 'mnt');
    expect(ended, ended.stderr).toMatchObject({ code: 0 });
    expect(mountsOf(place('mnt'))).toEqual([]);
  });

  test('is told what is missing', async () => {
    expect(await asUser('mount', place('repo'), place('repo'))).toMatchObject({ code: 1 });
    fs.mkdirSync(place('not-mine'));
    const foreign = await asUser('mount', place('repo'), place('not-mine'));
    expect(foreign.code).toBe(1);
    expect(foreign.stderr).toMatch(/the mountpoint is not yours.*\n.*a directory that you own/);
    const doctor = await asUser('doctor');
    expect(doctor.stdout).toMatch(/right to mount +by .*fusermount3/);
    if (/not for ordinary users/.test(doctor.stdout)) {
      const others = await asUser('mount', place('repo'), 'mnt', '--allow-other');
      expect(others.code).toBe(1);
      expect(others.stderr).toMatch(/ordinary users may not let others in.*\n.*user_allow_other/);
    }
    expect(mountsOf().filter(mount => mount.at.startsWith(folder))).toEqual([]);
  });
});
