/** `latest` stays with the kernel, and points elsewhere as soon as another worker knows a newer point. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { releaseMountpoint } from '../../src/server/guard.ts';
import type { MountStatus } from '../../src/server/protocol.ts';
import { lacking } from '../kit/volume-images.ts';
import { runCli } from './run-cli.ts';

const able = process.getuid?.() === 0 && fs.existsSync('/dev/fuse');
const cannot = able ? lacking('qemu-img') : 'needs root and /dev/fuse';
const folder = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-latest-')));
const [repo, mnt, state] = ['repo', 'mnt', 'state'].map(name => path.join(folder, name)) as [string, string, string];
const set = path.join(mnt, 'backups/full');
const disk = path.join(set, 'latest/disk0.raw');
afterAll(async () => {
  await runCli(['umount', mnt]);
  releaseMountpoint(mnt);
  fs.rmSync(folder, { recursive: true, force: true });
});

const qemu = (...args: string[]): string => execFileSync('qemu-img', args, { cwd: repo, encoding: 'utf8' });
const layer = (name: string, below: string, size: string): string =>
  qemu('create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', below, name, size);
const status = async (): Promise<MountStatus> =>
  JSON.parse((await runCli(['mount', '--status', mnt, '--json'])).stdout) as MountStatus;

/** Requests that the worker reads while `work` is done often. */
async function answeredDuring(work: () => void): Promise<number> {
  const { pid } = (await status()).worker;
  const reads = (): number => Number(/syscr: (\d+)/.exec(fs.readFileSync(`/proc/${pid}/io`, 'latin1'))![1]);
  const before = reads();
  for (let i = 0; i < 2000; i++) work();
  return reads() - before;
}

test.skipIf(cannot !== '')(`a newer point is the latest at once, by its whole name ${cannot}`, async () => {
  for (const dir of [repo, mnt]) fs.mkdirSync(dir);
  qemu('create', '-q', '-f', 'qcow2', 'full.qcow2', '1M');
  expect(await runCli(['mount', repo, mnt, '--state', state])).toMatchObject({ code: 0 });
  const { worker } = await status();
  expect(fs.readlinkSync(path.join(set, 'latest'))).toBe('full');
  expect(fs.statSync(disk).size).toBe(2 ** 20);
  expect(await answeredDuring(() => fs.statSync(path.join(set, 'latest')))).toBeLessThan(200);

  // A longer name, a shorter one, and one of the same length.
  for (const [name, below, mib] of [
    ['full-and-a-much-longer-name', 'full', 2],
    ['b', 'full-and-a-much-longer-name', 3],
    ['c', 'b', 4],
  ] as const) {
    layer(`${name}.qcow2`, `${below}.qcow2`, `${mib}M`);
    const old = fs.openSync(disk, 'r');
    expect(await runCli(['upgrade', mnt])).toMatchObject({ code: 0 });
    expect(fs.readlinkSync(path.join(set, 'latest'))).toBe(name);
    expect(fs.lstatSync(path.join(set, 'latest')).size).toBe(name.length);
    expect(fs.statSync(disk).size).toBe(mib * 2 ** 20);
    expect(fs.fstatSync(old).size).toBe((mib - 1) * 2 ** 20);
    fs.closeSync(old);
  }
  expect((await status()).worker.pid).not.toBe(worker.pid);
});
