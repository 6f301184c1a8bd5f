/** Chains of three days in a folder, and mounts of them by the program itself. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect } from 'vitest';
import { mountsOf } from '../../src/host/fuse/mount.ts';
import { releaseMountpoint } from '../../src/server/guard.ts';
import type { MountStatus } from '../../src/server/protocol.ts';
import { random } from '../kit/random.ts';
import { type Ran, runCli } from './run-cli.ts';

const has = (program: string): boolean =>
  (process.env.PATH ?? '').split(':').some(folder => fs.existsSync(path.join(folder, program)));
const wanting = ['qemu-img', 'qemu-io', 'fio'].filter(program => !has(program));
const able = process.getuid?.() === 0 && fs.existsSync('/dev/fuse');
const cannot = !able ? 'needs root and /dev/fuse' : wanting.length > 0 ? `missing: ${wanting.join(' ')}` : '';

export const MIB = 2 ** 20;
export const folder = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-mount-')));
export const place = (...names: string[]): string => path.join(folder, ...names);
export const tool = (program: string, ...args: string[]): string =>
  execFileSync(program, args, { encoding: 'utf8', cwd: folder, maxBuffer: 2 ** 26, stdio: ['ignore', 'pipe', 'pipe'] });

export const sha256 = (file: string): string => {
  const hash = createHash('sha256');
  const fd = fs.openSync(file, 'r');
  const part = new Uint8Array(MIB);
  for (let n = fs.readSync(fd, part); n > 0; n = fs.readSync(fd, part)) hash.update(part.subarray(0, n));
  fs.closeSync(fd);
  return hash.digest('hex');
};
export const sums = (below: string): Record<string, string> =>
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
export async function mounted(...args: string[]): Promise<At> {
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
export const oneLine = (ran: Ran): string => ran.stderr.split('\n')[0]!;
export const statusOf = async (mnt: string): Promise<MountStatus> =>
  JSON.parse((await runCli(['mount', '--status', mnt, '--json'])).stdout) as MountStatus;

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

export const DAYS = [1, 2, 3];
export const timeOf = (day: number): string => `2026-11-0${day}T02:00:00Z`;
export const pointOf = (day: number): string => timeOf(day).replaceAll(':', '-');

/** Makes the repositories `plain`, `secret` and `layers` before the tests of a file, and takes them away after them. */
export function withRepositories(): void {
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
}

export const suite = describe.skipIf(cannot !== '');
export const title = (name: string): string => (cannot === '' ? name : `${name} (skipped: ${cannot})`);
