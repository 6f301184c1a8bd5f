/**
 * `npm run demo`: makes a small bootable disk, takes three encrypted backups of it, mounts them, boots two of the
 * restore points in QEMU, and shows that nothing in the backups changed. Exit code 0 only when all of it was seen.
 */
import { createHash, randomBytes } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { openFile } from '../src/base/io.ts';
import { mountsOf } from '../src/host/fuse/mount.ts';
import { chooseAccelerator } from '../src/jobs/accelerator.ts';
import type { Accelerator } from '../src/jobs/qemu.ts';
import { BLOCK, changeDisk, reservedAt, stampOf } from './change-disk.ts';
import { ensurePackages } from './packages.ts';
import { bootmount, bootTiny, makeTinyDisk, outputOf, run } from './tiny-disk.ts';

const SET = 'web01';
const POINTS = 3;
const DAY_MS = 86_400_000;

const started = performance.now();
const say = (text: string): void => void process.stdout.write(`${text}\n`);
const step = (text: string): void =>
  say(`\n[${((performance.now() - started) / 1000).toFixed(0).padStart(3)} s] ${text}`);
/** The command as a person would type it, with the folder of the demo left out. */
const show = (folder: string, args: readonly string[]): void =>
  say(`  $ bootmount ${args.map(arg => arg.replaceAll(`${folder}/`, '')).join(' ')}`);
const indent = (text: string): string => text.trimEnd().replaceAll(/^/gm, '    ');

interface Places {
  readonly folder: string;
  readonly disk: string;
  readonly repo: string;
  readonly mnt: string;
  readonly key: string;
}

function makePlaces(): Places {
  const folder = fs.mkdtempSync(path.join(fs.realpathSync(os.tmpdir()), 'bootmount-demo-'));
  const [disk, repo, mnt, key] = ['machine.raw', 'backups', 'mnt', 'key'].map(name => path.join(folder, name));
  fs.mkdirSync(mnt!);
  fs.writeFileSync(key!, randomBytes(32).toString('hex'), { mode: 0o600 });
  return { folder, disk: disk!, repo: repo!, mnt: mnt!, key: key! };
}

async function call(places: Places, signal: AbortSignal, ...args: readonly string[]): Promise<string> {
  show(places.folder, args);
  return outputOf(bootmount(...args), signal);
}

/** Unmounts whatever state the demo is in, and removes the folder; never one that is still mounted. */
async function cleanUp({ folder, mnt }: Places): Promise<void> {
  for (let tries = 0; mountsOf(mnt).length > 0 && tries < 20; tries++) {
    if (tries > 0) await wait(250);
    await run(bootmount('umount', mnt, '--release', ...(tries < 10 ? [] : ['--force'])));
  }
  if (mountsOf(mnt).length > 0) throw new Error(`${mnt} cannot be unmounted; ${folder} is left as it is`);
  await run(['chattr', '-i', mnt]).catch(() => {});
  fs.rmSync(folder, { recursive: true, force: true });
}

/** SHA-256 of every backup file, in order. */
function sums(repo: string): readonly string[] {
  const names = fs.readdirSync(repo, { recursive: true, encoding: 'utf8' }).sort();
  const files = names.filter(name => fs.statSync(path.join(repo, name)).isFile());
  return files.map(
    name =>
      `${createHash('sha256')
        .update(fs.readFileSync(path.join(repo, name)))
        .digest('hex')}  ${name}`,
  );
}

async function takeBackups(places: Places, signal: AbortSignal): Promise<void> {
  const { disk, repo, key } = places;
  const lastNight = Math.floor(Date.now() / DAY_MS) * DAY_MS;
  for (let point = 1; point <= POINTS; point++) {
    say(`  the machine writes "point=${point}" and 128 KiB of data to its disk`);
    await changeDisk(disk, point);
    const time = new Date(lastNight - (POINTS - point) * DAY_MS).toISOString().replace('.000', '');
    say(
      indent(
        await call(places, signal, 'backup', disk, repo, '--set', SET, '--time', time, '--encrypt', '--key-file', key),
      ),
    );
  }
}

async function pointNames(places: Places): Promise<readonly string[]> {
  const listed = JSON.parse(await outputOf(bootmount('ls', places.repo, '--json', '--key-file', places.key))) as {
    points: { name: string; type: string; state: string }[];
  }[];
  const points = listed[0]?.points ?? [];
  if (points.length !== POINTS || points.some(point => point.state !== 'ok')) {
    throw new Error(`${POINTS} readable restore points were expected: ${JSON.stringify(points)}`);
  }
  return points.map(point => point.name);
}

/** Boots the clone of one point and throws unless its guest names that point. */
async function bootClone(
  places: Places,
  boot: { clone: string; file: string; format: 'vpc' | 'qcow2'; firmware: 'bios' | 'uefi'; point: number },
  accelerator: Accelerator,
  signal: AbortSignal,
): Promise<string> {
  const disk = path.join(places.mnt, 'clones', boot.clone, boot.file);
  say(`  QEMU, ${boot.firmware.toUpperCase()}, disk mnt/clones/${boot.clone}/${boot.file} …`);
  const { format, firmware } = boot;
  const marker = await bootTiny({ disk, format, firmware, accelerator, scratch: places.folder, signal });
  if (marker.point !== boot.point) throw new Error(`point ${boot.point} was to boot, the guest says: ${marker.line}`);
  say(`    the guest says: ${marker.line}   (${marker.seconds.toFixed(1)} s)`);
  return marker.line;
}

/** Reads the stamped blocks of every restore point through its mounted raw file and compares them with what was written. */
async function proveContents(places: Places, names: readonly string[]): Promise<void> {
  for (const [i, name] of names.entries()) {
    const file = path.join(places.mnt, 'backups', SET, name, 'disk0.raw');
    await using disk = await openFile(file, 'read');
    for (let block = 0; block <= POINTS; block++) {
      const point = i + 1;
      const wanted = block === 0 ? stampOf(point) : block <= point ? stampOf(block) : new Uint8Array(BLOCK);
      const found = new Uint8Array(BLOCK);
      await disk.read(found, reservedAt(disk.size) + block * BLOCK);
      if (Buffer.compare(found, wanted) !== 0)
        throw new Error(`${file}: block ${block} is not as point ${point} left it`);
    }
    say(`    ${name}/disk0.raw holds the blocks of ${i === 0 ? 'point 1' : `points 1 to ${i + 1}`}, and no later ones`);
  }
}

async function demo(places: Places, signal: AbortSignal): Promise<void> {
  const accelerator = await chooseAccelerator(places.folder);
  step(`A machine: a tiny disk that boots by BIOS and by UEFI (QEMU with ${accelerator.split(',')[0]})`);
  say(indent((await makeTinyDisk(places.disk, 'both', signal)).replaceAll(`${places.folder}/`, '')));

  step('Three nights of encrypted backups: one full, two incremental');
  await takeBackups(places, signal);
  const before = sums(places.repo);
  say(indent(await call(places, signal, 'ls', places.repo, '--key-file', places.key)));

  step('The machine is gone. Its backups are mounted, with a writable clone of the newest point and of an older one');
  fs.rmSync(places.disk);
  const clones = ['--clone', `${SET}@latest:today:vhd`, '--clone', `${SET}@~1:yesterday:qcow2`];
  const state = ['--state', path.join(places.folder, 'state')];
  await call(places, signal, 'mount', places.repo, places.mnt, ...clones, ...state, '--key-file', places.key);
  const names = await pointNames(places);
  say(indent(fs.readdirSync(path.join(places.mnt, 'backups', SET, 'latest')).join('   ')));

  step('Both are booted from the backups; nothing is restored or converted first');
  const newest = await bootClone(
    places,
    { clone: 'today', file: 'disk0.vhd', format: 'vpc', firmware: 'bios', point: POINTS },
    accelerator,
    signal,
  );
  const older = await bootClone(
    places,
    { clone: 'yesterday', file: 'disk0.qcow2', format: 'qcow2', firmware: 'uefi', point: POINTS - 1 },
    accelerator,
    signal,
  );

  step('Every restore point still shows its own data, whatever the guests wrote');
  await proveContents(places, names);

  step('Unmounting; then the backup files are compared with how they were before');
  await call(places, signal, 'umount', places.mnt, '--release');
  const after = sums(places.repo);
  say(indent(after.map(line => `${line.slice(0, 16)}…${line.slice(64)}`).join('\n')));
  if (before.join() !== after.join()) throw new Error('a backup file has changed');

  say(`
Seen, in ${((performance.now() - started) / 1000).toFixed(0)} seconds:
  - the newest restore point booted by BIOS from a VHD file:    ${newest}
  - an older one booted by UEFI from a QCOW2 file:              ${older}
  - read=ok: the guest found its data right; write=ok, boots=1: its writes went to the clone
  - all ${after.length} backup files are unchanged to the last byte
`);
}

async function main(): Promise<number> {
  const stop = new AbortController();
  let interrupted = 0;
  for (const [name, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const) {
    process.on(name, () => {
      interrupted ||= code;
      stop.abort(new Error('interrupted'));
    });
  }
  let places: Places | null = null;
  try {
    if (process.getuid?.() !== 0) throw new Error('mounting needs root here: run it as root');
    await ensurePackages(say, stop.signal);
    places = makePlaces();
    await demo(places, stop.signal);
    return 0;
  } catch (error) {
    process.stderr.write(
      `\ndemo: ${stop.signal.aborted ? 'interrupted' : error instanceof Error ? error.message : error}\n`,
    );
    return interrupted || 1;
  } finally {
    if (places !== null) await cleanUp(places);
  }
}

process.exitCode = await main().catch(error => {
  process.stderr.write(`demo: ${error instanceof Error ? error.message : error}\n`);
  return 1;
});
