/**
 * Mounting as an ordinary user: the set-uid program `fusermount3` mounts and hands the descriptor of /dev/fuse over a
 * socket that it inherits (its number in `_FUSE_COMMFD`).
 */
import { spawnSync } from 'node:child_process';
import type { MountOptions } from '../../base/contracts.ts';
import { ImageError } from '../../base/errors.ts';
import { findProgram } from '../../base/files.ts';
import { native } from '../../base/native.ts';

const PLACES = ['/usr/bin', '/bin'];
const ENVIRONMENT = { PATH: '/usr/bin:/bin:/usr/sbin:/sbin', LC_ALL: 'C' };

/** Whether mount(2) is for others, so that `fusermount3` has to do it. */
export const isOrdinaryUser = (): boolean => process.geteuid?.() !== 0;

export function fusermount(): string {
  const found = findProgram('fusermount3', PLACES);
  if (found !== null) return found;
  const hint = 'apt-get install fuse3, or mount as root';
  throw new ImageError(
    'unsupported',
    'the program fusermount3 is missing, which mounts for ordinary users',
    {},
    { hint },
  );
}

/** Its options. The kernel lets nobody but the user in, whatever the modes say; with `allowOther` it has to check them. */
export function fusermountArgument(fsname: string, options: MountOptions): string {
  return [
    'rw',
    ...options.extra,
    'nosuid',
    'nodev',
    'noexec',
    ...(options.allowOther ? ['allow_other', 'default_permissions'] : []),
    'subtype=bootmount',
    // Last, and escaped as libfuse does.
    `fsname=${fsname.replace(/[\\,]/g, '\\$&')}`,
  ].join(',');
}

function refusal(text: string, at: string): ImageError {
  const why = text
    .replace(/^fusermount3?:\s*/i, '')
    .replace(/\s+/g, ' ')
    .trim();
  if (/user_allow_other/.test(why)) {
    const hint = 'add the line user_allow_other to /etc/fuse.conf (as root), or mount without --allow-other';
    return new ImageError(
      'unsupported',
      'ordinary users may not let others in on this machine',
      { file: at },
      { hint },
    );
  }
  if (/no write access|mountpoint/.test(why)) {
    return new ImageError(
      'unsupported',
      `the mountpoint is not yours: ${why}`,
      { file: at },
      { hint: 'use a directory that you own' },
    );
  }
  if (/not permitted|setuid|denied|modprobe|device not found/i.test(why)) {
    const hint = 'bootmount doctor says what is missing; a container needs --device /dev/fuse and --cap-add SYS_ADMIN';
    return new ImageError('unsupported', `no right to mount: ${why}`, { file: at }, { hint });
  }
  return new ImageError('io', `fusermount3 did not mount: ${why || 'without a reason'}`, { file: at });
}

/** Mounts at the empty directory `at`; the descriptor is to be served. `fsname` is clean already. */
export function mountByFusermount(at: string, fsname: string, options: MountOptions): number {
  const program = fusermount();
  const passing = native()?.passDescriptor ?? null;
  if (passing === null) {
    const hint = 'npm install koffi, or use --transport fuse-native, or mount as root';
    throw new ImageError(
      'unsupported',
      'the package koffi is missing, which ordinary users need for mounting',
      {},
      { hint },
    );
  }
  let text = '';
  const fd = passing(socket => {
    const result = spawnSync(program, ['-o', fusermountArgument(fsname, options), '--', at], {
      cwd: '/',
      env: { ...ENVIRONMENT, _FUSE_COMMFD: '3' },
      encoding: 'utf8',
      stdio: ['ignore', 'ignore', 'pipe', socket],
    });
    text = result.stderr ?? '';
    return result.status === 0;
  });
  if (fd === null) throw refusal(text, at);
  return fd;
}
