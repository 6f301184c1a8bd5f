import { spawnSync } from 'node:child_process';

/** Whether the directory has the flag already: then it is from an earlier mount, and stays whatever happens now. */
export function isGuarded(at: string): boolean {
  const told = spawnSync('lsattr', ['-d', '--', at], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  return told.status === 0 && told.stdout.split(' ')[0]!.includes('i');
}

/**
 * The bare mountpoint must not collect writes when nothing is mounted on it: not even mode 0000 stops root, the
 * immutable flag does. It stays after an unmount. Where it cannot be set (no root, a file system without it) the mount
 * goes on without.
 */
export function guardMountpoint(at: string): boolean {
  return spawnSync('chattr', ['+i', '--', at], { stdio: 'ignore' }).status === 0;
}

/** Gives the directory back to its owner. */
export function releaseMountpoint(at: string): boolean {
  return spawnSync('chattr', ['-i', '--', at], { stdio: 'ignore' }).status === 0;
}
