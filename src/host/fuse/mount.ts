/** Making, finding and ending mounts. Nothing here touches a path below a mount from the calling thread. */
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import type { MountOptions } from '../../base/contracts.ts';
import { ImageError } from '../../base/errors.ts';
import { findProgram } from '../../base/files.ts';
import { fusermount, isOrdinaryUser, mountByFusermount } from './fusermount.ts';

const TYPE = 'fuse.bootmount';
const DEVICE = '/dev/fuse';
/** Programs that run as root are looked for in root's places only, never along the caller's PATH. */
const PLACES = ['/usr/bin', '/bin', '/usr/sbin', '/sbin'];
const ENVIRONMENT = { PATH: PLACES.join(':'), LC_ALL: 'C' };
/** How long in ms a mount may take to say whether it is alive. */
const PATIENCE = 3000;

export interface Mount {
  readonly at: string;
  /** What was given as `fsname`. */
  readonly source: string;
  /** `major:minor` of the file system, as in /sys/class/bdi. */
  readonly device: string;
  readonly options: string;
}

function program(name: string): string {
  const found = findProgram(name, PLACES);
  if (found === null)
    throw new ImageError(
      'unsupported',
      `the program ${name} is missing`,
      {},
      { hint: 'install util-linux and coreutils' },
    );
  return found;
}

/** mountinfo writes space, tab, newline, backslash and `#` as three octal digits (proc(5)). */
const unescaped = (text: string): string =>
  Buffer.from(
    text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8))),
    'latin1',
  ).toString('utf8');

/** Parses /proc/self/mountinfo, given as latin1. */
export function parseMounts(mountinfo: string): Mount[] {
  const mounts: Mount[] = [];
  for (const line of mountinfo.split('\n')) {
    const [before, after] = line.split(' - ', 2);
    if (before === undefined || after === undefined) continue;
    const [type, source, superOptions] = after.split(' ');
    const fields = before.split(' ');
    if (type !== TYPE) continue;
    mounts.push({
      at: unescaped(fields[4]!),
      source: unescaped(source!),
      device: fields[2]!,
      options: `${fields[5]},${superOptions}`,
    });
  }
  return mounts;
}

/** Mounts of this program: all, or those at exactly `at` (the last one is on top). */
export function mountsOf(at?: string): Mount[] {
  const mounts = parseMounts(fs.readFileSync('/proc/self/mountinfo', 'latin1'));
  return at === undefined ? mounts : mounts.filter(mount => mount.at === at);
}

/**
 * Whether nobody serves the mount at `at` any more. Asked by another program, since the answer of a living mount may
 * have to come from this very thread; one that does not answer in time counts as alive.
 */
export function isDead(at: string): boolean {
  const result = spawnSync(program('stat'), ['-f', '--', at], {
    env: ENVIRONMENT,
    timeout: PATIENCE,
    killSignal: 'SIGKILL',
    encoding: 'utf8',
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  return result.status !== 0 && /not connected/.test(result.stderr ?? '');
}

/** Absolute and without links. A mount of ours is never looked into: it may be dead, or served by this thread. */
function locationOf(at: string): string {
  const full = path.resolve(at);
  if (full === '/') throw new ImageError('usage', 'the root directory cannot be a mountpoint', { file: at });
  const mounts = mountsOf();
  const inside = mounts.find(mount => full.startsWith(`${mount.at}/`));
  if (inside !== undefined) throw new ImageError('usage', `lies inside the mount ${inside.at}`, { file: at });
  if (mounts.some(mount => mount.at === full)) return full;
  let real: string;
  try {
    const link = readLink(full);
    if (link !== null) return locationOf(path.resolve(path.dirname(full), link));
    real = path.join(fs.realpathSync(path.dirname(full)), path.basename(full));
  } catch (cause) {
    if (cause instanceof ImageError) throw cause;
    throw new ImageError('not-found', 'no such directory to mount at', { file: at }, { cause });
  }
  return real;
}

function readLink(file: string): string | null {
  try {
    return fs.readlinkSync(file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EINVAL') return null;
    throw error;
  }
}

/** The empty directory to mount at. A dead mount of ours that lies there is detached first. */
export function mountpoint(at: string): string {
  const full = locationOf(at);
  for (const _dead of mountsOf(full)) {
    if (!isDead(full))
      throw new ImageError('busy', 'already mounted here', { file: at }, { hint: `bootmount umount ${at}` });
    const result = isOrdinaryUser()
      ? run(fusermount(), ['-u', '-q', '-z', '--', full])
      : run(program('umount'), ['-i', '-l', '--', full]);
    if (result.status !== 0) throw new ImageError('busy', `a dead mount is in the way: ${result.text}`, { file: at });
  }
  let names: string[];
  try {
    names = fs.readdirSync(full);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') throw new ImageError('not-found', 'no such directory to mount at', { file: at }, { cause });
    if (code === 'ENOTDIR') throw new ImageError('exists', 'not a directory', { file: at }, { cause });
    throw new ImageError('io', `the mountpoint cannot be read (${code})`, { file: at }, { cause });
  }
  if (names.length > 0) throw new ImageError('exists', 'the mountpoint is not empty', { file: at });
  return full;
}

function run(file: string, args: readonly string[], fd?: number): { status: number | null; text: string } {
  const result = spawnSync(file, args, {
    cwd: '/',
    env: ENVIRONMENT,
    encoding: 'utf8',
    stdio: ['ignore', 'ignore', 'pipe', ...(fd === undefined ? [] : [fd])],
  });
  return { status: result.status, text: (result.stderr ?? '').trim().replace(/\s+/g, ' ') };
}

/** Mount options that a user may add. Everything else is either set here or weakens what is set here. */
const ALLOWED = new Set([
  'ro',
  'rw',
  'noatime',
  'nodiratime',
  'relatime',
  'sync',
  'dirsync',
  'nosuid',
  'nodev',
  'noexec',
]);

/** The `-o` argument; the descriptor is inherited as 3. A mount by root alone would allow devices and set-uid files. */
export function mountArgument(options: MountOptions): string {
  const wrong = options.extra.find(option => !ALLOWED.has(option));
  if (wrong !== undefined)
    throw new ImageError('usage', `the mount option ${JSON.stringify(wrong)} is not taken`, { field: '-o' });
  return [
    'fd=3',
    'rootmode=40000',
    `user_id=${process.getuid?.() ?? 0}`,
    `group_id=${process.getgid?.() ?? 0}`,
    'default_permissions',
    ...(options.allowOther ? ['allow_other'] : []),
    ...options.extra,
    'nosuid',
    'nodev',
    'noexec',
  ].join(',');
}

/** A name that mount(8) takes as it is: no control characters, not `LABEL=…` and the like, which it would look up. */
export const sourceName = (fsname: string): string =>
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is replaced
  (fsname.replace(/[\u0000-\u001f\u007f]/g, '?') || 'bootmount').replace(/^([A-Za-z]+)=/, '$1:');

/** A descriptor of /dev/fuse, to be mounted with `mountFuse`. Fault: 'unsupported' (no FUSE here, or no right to use it). */
export function openFuseDevice(): number {
  try {
    return fs.openSync(DEVICE, 'r+');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const missing = code !== 'EACCES' && code !== 'EPERM';
    const hint = missing
      ? 'load the kernel module: modprobe fuse; a container needs --device /dev/fuse and --cap-add SYS_ADMIN'
      : 'mount as root, or let users use it: chmod 666 /dev/fuse';
    const message = missing ? 'this machine has no FUSE' : 'no right to use FUSE';
    throw new ImageError('unsupported', message, { file: DEVICE }, { cause, hint });
  }
}

/**
 * Mounts the device at the empty directory `at`. Faults: 'not-found', 'exists' (not an empty directory), 'busy' (already
 * mounted), 'unsupported' (no right to mount), 'usage'.
 */
export function mountFuse(fd: number, at: string, options: MountOptions): void {
  const argument = mountArgument(options);
  const target = mountpoint(at);
  const result = run(
    program('mount'),
    ['-i', '-t', TYPE, '-o', argument, '--', sourceName(options.fsname), target],
    fd,
  );
  if (result.status === 0) return;
  if (/permission denied|must be superuser|not permitted/i.test(result.text)) {
    throw new ImageError(
      'unsupported',
      'no right to mount',
      { file: at },
      { hint: 'mount as root, or use --transport fuse-native; a container needs --cap-add SYS_ADMIN' },
    );
  }
  throw new ImageError('io', `mount failed: ${result.text || `status ${result.status}`}`, { file: at });
}

/** As an ordinary user: mounts by `fusermount3`, and gives the descriptor to be served. Faults as `mountFuse`. */
export function mountAsUser(at: string, options: MountOptions): number {
  mountArgument(options);
  return mountByFusermount(mountpoint(at), sourceName(options.fsname), options);
}

/** Opens the device and mounts it: the descriptor is to be served. */
export function openFuse(at: string, options: MountOptions): number {
  if (isOrdinaryUser()) return mountAsUser(at, options);
  const fd = openFuseDevice();
  try {
    mountFuse(fd, at, options);
    return fd;
  } catch (error) {
    fs.closeSync(fd);
    throw error;
  }
}

/** Where the kernel shows a mount's connection, when its list of them is mounted (fuse.txt, "Control filesystem"). */
export const connectionFolder = ({ device }: Mount): string => `/sys/fs/fuse/connections/${device.split(':')[1]}`;

/** Ends the connection of the mount at `at`: whoever waits for an answer gets an error now. */
export function abortConnection(at: string): void {
  const mount = mountsOf(path.resolve(at)).at(-1);
  if (mount === undefined) return;
  fs.writeFileSync(`${connectionFolder(mount)}/abort`, '1');
}

/**
 * Ends the mount at `at`. `lazy` takes the name away now and the rest when the last file is closed. Faults: 'busy',
 * 'not-found' (nothing of ours is mounted there).
 */
export async function unmount(at: string, { lazy = false } = {}): Promise<void> {
  const full = locationOf(at);
  if (mountsOf(full).length === 0) throw new ImageError('not-found', 'nothing is mounted here', { file: at });
  // Not awaited synchronously: umount looks at the mount, and this thread may have to answer.
  const command = isOrdinaryUser()
    ? [fusermount(), '-u', ...(lazy ? ['-z'] : []), '--', full]
    : [program('umount'), '-i', ...(lazy ? ['-l'] : []), '--', full];
  const child = spawn(command[0]!, command.slice(1), {
    cwd: '/',
    env: ENVIRONMENT,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let text = '';
  child.stderr.setEncoding('utf8').on('data', (part: string) => {
    text += part;
  });
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject).once('close', resolve);
  });
  if (status === 0) return;
  if (/busy/.test(text))
    throw new ImageError('busy', 'in use', { file: at }, { hint: 'close what uses it, or unmount with --force' });
  if (/not mounted|no mount point|entry for .* not found/.test(text))
    throw new ImageError('not-found', 'nothing is mounted here', { file: at });
  throw new ImageError('io', `umount failed: ${text.trim().replace(/\s+/g, ' ')}`, { file: at });
}

/**
 * Lets the kernel read ahead by a whole request in page-cached files instead of 128 KiB. Only for speed, and only after
 * INIT, which sets it: where it is not permitted nothing is lost.
 */
export function readFurtherAhead(at: string, bytes = 1024 * 1024): void {
  const mount = mountsOf(path.resolve(at)).at(-1);
  if (mount === undefined) return;
  try {
    fs.writeFileSync(`/sys/class/bdi/${mount.device}/read_ahead_kb`, String(Math.floor(bytes / 1024)));
  } catch {
    // A container without a writable /sys keeps the default.
  }
}
