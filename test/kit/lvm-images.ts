/**
 * Volume groups as lvm2 makes them on loop devices, without device-mapper; what is in their volumes is put in place by
 * what `lvs` says of them.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { lacking, tool } from './volume-images.ts';

const QUIET = 'activation{udev_sync=0 udev_rules=0 monitoring=0} backup{backup=0 archive=0} global{event_activation=0}';

/** Why there are no loop devices or LVM tools here; empty: there are. */
export function lvmMissing(): string {
  const missing = lacking('lvm', 'losetup', 'mke2fs', 'grub-fstest');
  if (missing !== '' || process.getuid?.() !== 0) return missing || 'needs root';
  try {
    execFileSync('losetup', ['-f'], { stdio: 'pipe' });
    return '';
  } catch {
    return 'needs loop devices';
  }
}

export interface Lvm extends Disposable {
  /** Runs an LVM command on these devices. */
  run(command: string, ...args: readonly string[]): string;
  /** Loop devices, in the order of the files. */
  readonly devices: readonly string[];
}

export function lvmOn(files: readonly string[]): Lvm {
  const devices = files.map(file => tool('losetup', ['-f', '--show', file]).trim());
  return {
    devices,
    run: (command, ...args) =>
      tool('lvm', [command, '--driverloaded', 'n', '--devices', devices.join(), '--config', QUIET, ...args]),
    [Symbol.dispose]() {
      for (const device of devices) tool('losetup', ['-d', device]);
    },
  };
}

/** Puts `content` where the volume keeps it, by what `lvs` and `pvs` say. */
export function fillVolume({ run, devices }: Lvm, files: readonly string[], volume: string, content: Buffer): void {
  const plain = ['--units', 'b', '--nosuffix', '--noheadings', '--separator', '|'];
  const starts = new Map(
    run('pvs', ...plain, '-o', 'pv_name,pe_start')
      .split('\n')
      .map(line => line.trim().split('|') as [string, string]),
  );
  const columns = 'seg_start,seg_size,stripe_size,seg_pe_ranges,vg_extent_size';
  for (const line of run('lvs', ...plain, '--segments', '-o', columns, volume).split('\n')) {
    const [start, size, stripe, ranges, extent] = line.trim().split('|');
    if (ranges === undefined) continue;
    const areas = ranges.split(' ').map(range => {
      const [, device, first] = /^(.*):(\d+)-\d+$/.exec(range)!;
      return { fd: files[devices.indexOf(device!)]!, at: Number(starts.get(device!)) + Number(first) * Number(extent) };
    });
    const chunk = areas.length === 1 ? Number(size) : Number(stripe);
    for (let done = 0, n = 0; done < Number(size); done += chunk, n++) {
      const { fd: file, at } = areas[n % areas.length]!;
      const part = content.subarray(Number(start) + done, Number(start) + done + chunk);
      const fd = fs.openSync(file, 'r+');
      fs.writeSync(fd, part, 0, part.length, at + Math.floor(n / areas.length) * chunk);
      fs.closeSync(fd);
    }
  }
}
