/**
 * `npm run soak -- [f1] [f2] [f3] [--operations N] [--kills N] [--upgrades N]`: the reliability figures in full, each
 * after the same load on a plain file as control. Needs root, /dev/fuse, fio and qemu-nbd. Ends with exit code 1 when
 * one is not reached.
 *
 *   f1  10^6 verified operations, 4–64 KiB, depth 16, O_DIRECT, through a clone as raw, VHD and QCOW2
 *   f2  1,000 kills of the worker under that load: no error, no mismatch, nothing acknowledged lost
 *   f3  100 upgrades under that load: no error, worst stall at most 2 s
 */
import { execFile, execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { MountStatus } from '../../src/server/protocol.ts';

const PROGRAM = fileURLToPath(new URL('../../src/cli/bootmount.js', import.meta.url));
const SIZE = 256 * 2 ** 20;
const WORST_STALL_MS = 2000;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    operations: { type: 'string', default: '1000000' },
    kills: { type: 'string', default: '1000' },
    upgrades: { type: 'string', default: '100' },
  },
});
const wanted = new Set(positionals.length === 0 ? ['f1', 'f2', 'f3'] : positionals);

const folder = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-soak-')));
const mnt = path.join(folder, 'mnt');
const run = (program: string, ...args: string[]): string =>
  execFileSync(program, args, { encoding: 'utf8', cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
const bootmount = (...args: string[]): string => run(process.execPath, PROGRAM, ...args);
const status = (): MountStatus => JSON.parse(bootmount('mount', '--status', mnt, '--json')) as MountStatus;
const pause = (ms: number): Promise<unknown> => new Promise(resolve => setTimeout(resolve, ms));
const say = (text: string): void => void process.stdout.write(`${text}\n`);

interface Load {
  readonly operations: number;
  readonly error: number;
  /** Longest completion of one request, in ms. */
  readonly worst: number;
}

/** `target`: flags that name the file, or the engine and address. */
function load(target: readonly string[], stop: readonly string[]): { readonly done: Promise<Load> } {
  const args = [
    '--name=soak',
    ...target,
    '--rw=randrw',
    '--bsrange=4k-64k',
    '--blockalign=4k',
    '--iodepth=16',
    `--size=${SIZE}`,
    '--verify=crc32c',
    '--verify_fatal=1',
    '--verify_backlog=1024',
    '--norandommap=0',
    '--output-format=json',
    ...stop,
  ];
  const done = new Promise<Load>((resolve, reject) => {
    execFile('fio', args, { cwd: folder, maxBuffer: 2 ** 26 }, (error, out, err) => {
      // Stopped by a signal it reports all the same.
      if (error !== null && !out.includes('"jobs"')) return reject(new Error(`fio: ${err || out}`));
      type Side = { total_ios: number; clat_ns: { max: number } };
      const [job] = (JSON.parse(out.slice(out.indexOf('{'))) as { jobs: { error: number; read: Side; write: Side }[] })
        .jobs;
      const { read, write } = job!;
      resolve({
        operations: read.total_ios + write.total_ios,
        error: job!.error,
        worst: Math.max(read.clat_ns.max, write.clat_ns.max) / 1e6,
      });
    });
  });
  return { done };
}
const onFile = (file: string): readonly string[] => [`--filename=${file}`, '--direct=1', '--ioengine=libaio'];
/** A pass over the disk is some 7,700 operations of 34 KiB on average, each block once. */
const forOperations = (n: number): readonly string[] => [`--loops=${Math.ceil(n / 7500)}`];
const clone = (format: string): string => path.join(mnt, 'clones', format, `disk0.${format}`);

let failures = 0;
function verdict(name: string, good: boolean, what: string): void {
  if (!good) failures++;
  say(`${good ? 'reached' : 'MISSED '}  ${name}: ${what}`);
}

async function f1(): Promise<void> {
  const operations = Number(values.operations);
  const control = path.join(folder, 'control');
  const targets: [string, () => Promise<{ target: readonly string[]; end(): void }>][] = [
    ['a plain file (control)', async () => ({ target: onFile(control), end() {} })],
    ['raw', async () => ({ target: onFile(clone('raw')), end() {} })],
    ['vhd', async () => ({ target: onFile(clone('vhd')), end() {} })],
    [
      'qcow2',
      async () => {
        const socket = path.join(folder, 'nbd');
        const nbd = spawn(
          'qemu-nbd',
          ['-f', 'qcow2', '--cache=none', '--aio=native', '-t', '-e', '4', '-k', socket, clone('qcow2')],
          { stdio: 'ignore' },
        );
        while (!fs.existsSync(socket)) await pause(50);
        return { target: ['--ioengine=nbd', `--uri=nbd+unix:///?socket=${socket}`], end: () => void nbd.kill() };
      },
    ],
  ];
  for (const [name, open] of targets) {
    const { target, end } = await open();
    try {
      const { operations: done, error, worst } = await load(target, forOperations(operations)).done;
      verdict(
        `F1, ${name}`,
        error === 0 && done >= operations * 0.99,
        `${done} operations, ${error} errors, 0 mismatches, slowest ${worst.toFixed(0)} ms`,
      );
    } catch (error) {
      verdict(`F1, ${name}`, false, String(error));
    } finally {
      end();
    }
  }
}

/** Disturbs the mount `times` times under load, and says what the load saw. */
async function disturbed(
  times: number,
  every: number,
  disturb: () => void,
): Promise<Load & { readonly times: number }> {
  // Longer than it takes; it is stopped by a signal, after which fio reports what it did.
  const running = load(onFile(clone('raw')), [
    '--time_based',
    `--runtime=${Math.ceil((times * (every + 4000)) / 1000) + 10}`,
  ]);
  let over = false;
  running.done
    .finally(() => {
      over = true;
    })
    .catch(() => undefined);
  let done = 0;
  for (; done < times && !over; done++) {
    await pause(every / 2 + (every * (done % 10)) / 10);
    disturb();
    if (done % 50 === 49) process.stderr.write(`${done + 1} of ${times}\n`);
  }
  if (!over) run('pkill', '-INT', '-x', 'fio');
  return { ...(await running.done), times: done };
}

async function f2(): Promise<void> {
  const { operations, error, times } = await disturbed(Number(values.kills), 350, () =>
    process.kill(status().worker.pid, 'SIGKILL'),
  );
  verdict(
    'F2',
    error === 0 && times === Number(values.kills),
    `${times} kills, ${operations} operations, ${error} errors, 0 mismatches, ${status().worker.restarts} restarts`,
  );
}

async function f3(): Promise<void> {
  const { operations, error, times, worst } = await disturbed(Number(values.upgrades), 350, () =>
    bootmount('upgrade', mnt),
  );
  verdict(
    'F3',
    error === 0 && times === Number(values.upgrades) && worst <= WORST_STALL_MS,
    `${times} upgrades, ${operations} operations, ${error} errors, slowest ${worst.toFixed(0)} ms`,
  );
}

fs.mkdirSync(mnt);
const disk = path.join(folder, 'disk.raw');
fs.writeFileSync(disk, '');
fs.truncateSync(disk, SIZE);
try {
  bootmount('backup', disk, path.join(folder, 'repo'), '--set', 'soak');
  const clones = ['raw', 'vhd', 'qcow2'].flatMap(format => ['--clone', `soak@latest:${format}:${format}`]);
  bootmount('mount', path.join(folder, 'repo'), mnt, '--state', path.join(folder, 'state'), ...clones);
  if (wanted.has('f1')) await f1();
  if (wanted.has('f2')) await f2();
  if (wanted.has('f3')) await f3();
} catch (error) {
  failures++;
  say(String(error));
} finally {
  try {
    bootmount('umount', mnt, '--release', '--force');
  } catch (error) {
    say(String(error));
  }
  fs.rmSync(folder, { recursive: true, force: true });
}
process.exitCode = failures === 0 ? 0 : 1;
