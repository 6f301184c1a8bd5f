/** A whole disk as two digests. */
import { createHash } from 'node:crypto';
import type { Bytes, Disk } from '../../src/base/contracts.ts';
import { isZero } from '../../src/base/range.ts';
import type { Stack } from './reference.ts';

export interface Content {
  readonly size: Bytes;
  readonly sha256: string | null;
  /** Digest over the blocks of 64 KiB that are not all zero, for disks too large to read whole. */
  readonly nz64k: string | null;
}

/** Disks up to this length are read whole. */
const WHOLE = 1_073_741_824;
export const CHUNK = 1_048_576;
export const BLOCK = 65_536;

/** A disk for `readWhole`. */
export const asStack = (disk: Disk): Pick<Stack, 'size' | 'read' | 'extent'> => ({
  size: disk.size,
  read: async (into, at) => disk.read(into, at),
  async extent(at, limit) {
    let found = disk.extent(at, limit);
    for (; found === null; found = disk.extent(at, limit)) await disk.load(at, limit);
    return { zero: found.kind === 'zero', length: found.length };
  },
});

function* blocksOf(content: Uint8Array): Iterable<readonly [Uint8Array, Bytes]> {
  for (let at = 0; at < content.length; at += BLOCK) yield [content.subarray(at, at + BLOCK), at];
}

/** Reads the disk in order and gives both digests; what is not zero goes to `keep`. */
export async function readWhole(
  stack: Pick<Stack, 'size' | 'read' | 'extent'>,
  keep: (block: Uint8Array, at: Bytes) => void,
): Promise<Content> {
  const whole = stack.size <= WHOLE ? createHash('sha256') : null;
  const blocks = createHash('sha256');
  const number = new DataView(new ArrayBuffer(8));
  const buffer = new Uint8Array(CHUNK);
  for (let at = 0; at < stack.size; ) {
    if (whole === null) {
      const { zero, length } = await stack.extent(at, stack.size - at);
      const next = Math.floor((at + length) / CHUNK) * CHUNK;
      if (zero && next > at) {
        at = next;
        continue;
      }
    }
    const part = buffer.subarray(0, Math.min(CHUNK, stack.size - at));
    await stack.read(part, at);
    whole?.update(part);
    for (const [block, within] of blocksOf(part)) {
      if (isZero(block)) continue;
      number.setBigUint64(0, BigInt((at + within) / BLOCK), true);
      blocks.update(new Uint8Array(number.buffer)).update(block);
      keep(block, at + within);
    }
    at += part.length;
  }
  return { size: stack.size, sha256: whole?.digest('hex') ?? null, nz64k: blocks.digest('hex') };
}
