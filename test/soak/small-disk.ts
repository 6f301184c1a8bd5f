/** A small file system for an overlay, and what takes its space away. */
import fs from 'node:fs';
import path from 'node:path';

export const MIB = 2 ** 20;

export interface Ground {
  readonly name: string;
  /** Smallest that its tools make. */
  readonly size: number;
  readonly make: readonly string[] | null;
}
export const GROUNDS: readonly Ground[] = [
  { name: 'tmpfs', size: 96 * MIB, make: null },
  { name: 'ext4', size: 96 * MIB, make: ['mkfs.ext4', '-q', '-m', '0'] },
  { name: 'xfs', size: 320 * MIB, make: ['mkfs.xfs', '-q'] },
  { name: 'btrfs', size: 256 * MIB, make: ['mkfs.btrfs', '-q'] },
];

/** Makes it in a file and mounts it, in `folder`, by its name. */
export function mountSmall(
  run: (program: string, ...args: string[]) => string,
  folder: string,
  ground: Ground,
): string {
  const at = path.join(folder, ground.name);
  fs.mkdirSync(at);
  if (ground.make === null) run('mount', '-t', 'tmpfs', '-o', `size=${ground.size}`, 'tmpfs', at);
  else {
    const image = `${at}.img`;
    fs.writeFileSync(image, '');
    fs.truncateSync(image, ground.size);
    run(ground.make[0]!, ...ground.make.slice(1), image);
    run('mount', '-o', 'loop', image, at);
  }
  return at;
}

const BALLAST = 'ballast';

/** Takes all space but `left` bytes. */
export function takeSpace(at: string, left: number): void {
  const { bavail, bsize } = fs.statfsSync(at);
  const fd = fs.openSync(path.join(at, BALLAST), 'a');
  try {
    const part = new Uint8Array(MIB).fill(0x5a);
    for (let taken = 0; taken < bavail * bsize - left; taken += MIB) fs.writeSync(fd, part);
    fs.fsyncSync(fd);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
  } finally {
    fs.closeSync(fd);
  }
}

export const giveSpace = (at: string): void => fs.rmSync(path.join(at, BALLAST));
