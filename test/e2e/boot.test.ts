/**
 * A real guest boots from a writable clone on a real mount, in every format and with both firmwares; what it writes
 * lasts, and the backup does not change.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { changeDisk } from '../../images/change-disk.ts';
import { missingPackages } from '../../images/packages.ts';
import { bootmount, bootTiny, makeTinyDisk, markerIn, outputOf, run } from '../../images/tiny-disk.ts';
import { openFile } from '../../src/base/io.ts';
import { mountsOf } from '../../src/host/fuse/mount.ts';
import { chooseAccelerator } from '../../src/jobs/accelerator.ts';
import type { Accelerator, QemuFormat } from '../../src/jobs/qemu.ts';

const missing = missingPackages();
const fuse = process.getuid?.() === 0 && fs.existsSync('/dev/fuse');
const cannot = missing.length > 0 ? `missing: ${missing.join(' ')}` : fuse ? '' : 'needs root and /dev/fuse';
/** Emulated guests on a busy machine. */
const PATIENCE_MS = 300_000;
const title = cannot === '' ? 'booting' : `booting (skipped: ${cannot})`;

const folder = fs.mkdtempSync(path.join(fs.realpathSync(os.tmpdir()), 'bootmount-e2e-'));
const place = (name: string): string => path.join(folder, name);
const [disk, repo, key] = [place('disk.raw'), place('repo'), place('key')];
let accelerator: Accelerator = 'tcg,thread=multi';

const sums = (): readonly string[] =>
  fs
    .readdirSync(repo, { recursive: true, encoding: 'utf8' })
    .filter(name => fs.statSync(path.join(repo, name)).isFile())
    .sort()
    .map(
      name =>
        `${createHash('sha256')
          .update(fs.readFileSync(path.join(repo, name)))
          .digest('hex')} ${name}`,
    );

/** Where the payload's first bytes lie in a tiny disk. */
const payloadAt = (file: string): number => {
  const at = fs.readFileSync(file).indexOf('TINY-PAYLOAD\n');
  if (at < 0) throw new Error(`${file} has no payload`);
  return at;
};

async function flipByte(file: string, at: number): Promise<void> {
  await using opened = await openFile(file, 'write');
  const byte = new Uint8Array(1);
  await opened.read(byte, at);
  opened.write(
    byte.map(value => value ^ 1),
    at,
  );
  await opened.sync();
}

async function mount(mnt: string, clone: string, state: string): Promise<void> {
  fs.mkdirSync(mnt, { recursive: true });
  await outputOf(bootmount('mount', repo, mnt, '--clone', clone, '--state', state, '--key-file', key));
}

const umount = (mnt: string): Promise<string> => outputOf(bootmount('umount', mnt, '--release'));

beforeAll(async () => {
  if (cannot !== '') return;
  accelerator = await chooseAccelerator(folder);
  await makeTinyDisk(disk, 'both');
  fs.writeFileSync(key, 'a key for this test', { mode: 0o600 });
  for (const point of [1, 2]) {
    await changeDisk(disk, point);
    const time = `2026-01-0${point}T00:00:00Z`;
    // The second one leaves out what the file systems have free.
    const allocated = point === 1 ? 'extent' : 'fs';
    const more = ['--time', time, '--allocated', allocated, '--encrypt', '--key-file', key];
    await outputOf(bootmount('backup', disk, repo, '--set', 'web01', ...more));
  }
});

afterAll(async () => {
  for (const { at } of mountsOf().filter(mounted => mounted.at.startsWith(`${folder}/`))) {
    await run(bootmount('umount', at, '--release', '--force'));
  }
  fs.rmSync(folder, { recursive: true, force: true });
});

describe.skipIf(cannot !== '')(title, { timeout: PATIENCE_MS }, () => {
  it.each<[clone: string, format: QemuFormat]>([
    ['raw', 'raw'],
    ['vhd', 'vpc'],
    ['vhdx', 'vhdx'],
    ['qcow2', 'qcow2'],
    ['vmdk', 'vmdk'],
    ['vdi', 'vdi'],
  ])('a clone as %s boots by BIOS and UEFI and keeps its writes over a new mount', async (clone, format) => {
    const [mnt, state] = [place(`mnt-${clone}`), place(`state-${clone}`)];
    const before = sums();
    const boot = (firmware: 'bios' | 'uefi') =>
      bootTiny({ disk: path.join(mnt, 'clones/vm', `disk0.${clone}`), format, firmware, accelerator, scratch: folder });
    await mount(mnt, `web01@latest:vm:${clone}`, state);
    expect(await boot('bios')).toMatchObject({ boots: 1, point: 2 });
    expect(await boot('uefi')).toMatchObject({ boots: 2, point: 2 });
    await umount(mnt);
    await mount(mnt, `web01@latest:vm:${clone}`, state);
    expect(await boot('bios')).toMatchObject({ boots: 3, point: 2 });
    await umount(mnt);
    expect(sums()).toEqual(before);
  });

  it('a clone of an older point boots with that point on its disk', async () => {
    const [mnt, state] = [place('mnt-older'), place('state-older')];
    await mount(mnt, 'web01@~1:vm:raw', state);
    const file = path.join(mnt, 'clones/vm/disk0.raw');
    const marker = await bootTiny({ disk: file, format: 'raw', firmware: 'bios', accelerator, scratch: folder });
    expect(marker).toMatchObject({ boots: 1, point: 1 });
    await umount(mnt);
  });

  // The negative control: without it, read=ok would prove nothing.
  it('one wrong bit in the payload is seen by the guest', async () => {
    const copy = place('damaged.raw');
    fs.copyFileSync(disk, copy);
    await flipByte(copy, payloadAt(disk) + 1000);
    const damaged = bootTiny({ disk: copy, format: 'raw', firmware: 'bios', accelerator, scratch: folder });
    await expect(damaged).rejects.toThrow('read=BAD');

    const [mnt, state] = [place('mnt-damaged'), place('state-damaged')];
    await mount(mnt, 'web01@latest:vm:raw', state);
    const file = path.join(mnt, 'clones/vm/disk0.raw');
    await flipByte(file, payloadAt(disk) + 1000);
    const written = bootTiny({ disk: file, format: 'raw', firmware: 'bios', accelerator, scratch: folder });
    await expect(written).rejects.toThrow('read=BAD');
    await umount(mnt);
  });
});

describe.skipIf(cannot !== '')(
  `the verb boot${cannot === '' ? '' : ` (skipped: ${cannot})`}`,
  { timeout: PATIENCE_MS },
  () => {
    /** The verb, with a folder for temporary files that must be empty at the end. */
    const boot = (...args: string[]) => {
      const temporary = fs.mkdtempSync(place('tmp-'));
      onTestFinished(() => expect(fs.readdirSync(temporary)).toEqual([]));
      const common = ['boot', ...args, '--repo', repo, '--headless', '--memory', '256', '--key-file', key];
      return { temporary, command: ['env', `TMPDIR=${temporary}`, ...bootmount(...common)] };
    };

    it('boots a point and leaves nothing behind', async () => {
      const before = sums();
      const { command } = boot('web01@~1', '--json');
      const result = JSON.parse(await outputOf(command)) as { serial: string[]; firmware: string; how: string };
      expect(result).toMatchObject({ firmware: 'bios', how: 'off', clone: null });
      expect(markerIn(result.serial.join('\n'))).toMatchObject({ read: 'ok', write: 'ok', boots: 1, point: 1 });
      expect(sums()).toEqual(before);
    });

    it('keeps the clone when it is asked to', async () => {
      for (const boots of [1, 2]) {
        const { command } = boot('web01', '--keep', 'kept', '--format', 'qcow2', '--state', place('state-kept'));
        expect(markerIn(await outputOf(command))).toMatchObject({ boots, point: 2, write: 'ok' });
      }
    });

    it('prints the commands without booting', async () => {
      const { command } = boot('web01', '--print', '--format', 'vhd', '--firmware', 'uefi');
      const lines = (await outputOf(command)).trim().split('\n');
      expect(lines).toHaveLength(3);
      expect(lines[0]).toBe(`bootmount mount ${repo} MNT --clone web01:boot:vhd --key-file ${key}`);
      expect(lines[2]).toMatch(/^qemu-system-x86_64 .*format=vpc,.*file=MNT\/clones\/boot\/disk0\.vhd/);
    });

    it('ends a guest that is late, and one that is interrupted, and cleans up', async () => {
      const late = boot('web01', '--timeout', '0.3');
      expect(await run(late.command)).toMatchObject({
        code: 1,
        told: expect.stringContaining('still running after 0.3 s'),
      });

      const { command } = boot('web01', '--firmware', 'uefi');
      const child = spawn(command[0]!, command.slice(1), { stdio: ['ignore', 'ignore', 'pipe'] });
      // The note "booting …" is the moment before QEMU starts.
      child.stderr.once('data', () => setTimeout(() => child.kill('SIGINT'), 500));
      expect(await new Promise(resolve => child.on('close', resolve))).toBe(130);
    });

    it('says what is wrong, with its exit code', async () => {
      expect(await run(boot('nobody').command)).toMatchObject({ code: 3, told: expect.stringContaining('nobody') });
      expect(await run(boot('web01', '--timeout', '-1').command)).toMatchObject({ code: 2 });
      const wrong = place('wrong-key');
      fs.writeFileSync(wrong, 'another key', { mode: 0o600 });
      const locked = await run(bootmount('boot', 'web01', '--repo', repo, '--headless', '--key-file', wrong));
      expect(locked.code).toBe(5);
    });
  },
);
