import { spawnSync } from 'node:child_process';

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
