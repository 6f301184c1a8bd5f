/**
 * Stamps a tiny disk, so that a later reader can tell from its bytes, and its guest from its console, at which point
 * it was backed up. Only the reserved range is written: 1 MiB, 2 MiB before the end of the disk, in no partition.
 *
 *   node images/change-disk.ts DISK.raw NUMBER      1 to 15
 *
 * The range holds 16 blocks of 64 KiB. Stamping point n fills block 0 (overwritten by every point) and block n (its
 * own) with the same bytes: a GRUB environment block, "point=n", and behind it random bytes seeded with n.
 */
import { fileURLToPath } from 'node:url';
import { ImageError } from '../src/base/errors.ts';
import { openFile } from '../src/base/io.ts';

export const BLOCK = 64 * 1024;
const LAST_POINT = 15;
const ENVIRONMENT = 1024;

/** Where the reserved range starts in a disk of `size` bytes. */
export const reservedAt = (size: number): number => size - 2 * 1024 * 1024;

/** Random bytes that depend on the seed alone (xorshift32). */
function fillSeeded(into: Uint8Array, seed: number): void {
  let state = (seed * 0x9e3779b1) >>> 0 || 1;
  for (let i = 0; i < into.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    into[i] = state & 0xff;
  }
}

/** The 64 KiB that stamping `point` puts into block 0 and into block `point`. */
export function stampOf(point: number): Uint8Array<ArrayBuffer> {
  if (!Number.isInteger(point) || point < 1 || point > LAST_POINT) {
    throw new ImageError('usage', `a point is a number from 1 to ${LAST_POINT}, not ${point}`);
  }
  const block = new Uint8Array(BLOCK);
  block.fill(0x23, 0, ENVIRONMENT);
  block.set(new TextEncoder().encode(`# GRUB Environment Block\npoint=${point}\n`));
  fillSeeded(block.subarray(ENVIRONMENT), point);
  return block;
}

export async function changeDisk(path: string, point: number): Promise<void> {
  const stamp = stampOf(point);
  await using disk = await openFile(path, 'write');
  const at = reservedAt(disk.size);
  disk.write(stamp, at);
  disk.write(stamp, at + point * BLOCK);
  await disk.sync();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [path, point] = process.argv.slice(2);
  if (path === undefined || point === undefined) {
    process.stderr.write('usage: node images/change-disk.ts DISK.raw NUMBER\n');
    process.exitCode = 2;
  } else {
    await changeDisk(path, Number(point));
  }
}
