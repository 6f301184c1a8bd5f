/** One disk of an archive. A block with a checksum is read whole and checked once; from then on it is read as it lies. */
import type { Bytes, Layer, LayerId, Location } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { SECTOR } from '../../src/base/tar.ts';
import { type Archive, BLOCK, SUM_LENGTH } from './archive.ts';
import type { Block } from './runs.ts';
import { xxhash64 } from './xxhash64.ts';

/** Blocks that one answer looks at. */
const MOST_STEPS = 1024;

async function digestOf(kind: 'sha1' | 'xxhash', data: Uint8Array<ArrayBuffer>): Promise<string> {
  if (kind === 'xxhash') return xxhash64(data).toString(16).padStart(16, '0');
  return Buffer.from(await crypto.subtle.digest('SHA-1', data)).toString('hex');
}

/** Fills `into` with the block and zeros behind it. 'corrupt' when its checksum does not hold. */
export async function readBlock({ source }: Archive, block: Block, into: Uint8Array): Promise<void> {
  const { at, length, sum, number } = block;
  if (sum === 'none') await source.read(into.subarray(0, length), at);
  else {
    // Block, header of the checksum and checksum follow each other.
    const sumAt = Math.ceil(length / SECTOR) * SECTOR + SECTOR;
    const raw = new Uint8Array(sumAt + SUM_LENGTH[sum]);
    await source.read(raw, at);
    const data = raw.subarray(0, length);
    const stored = Buffer.from(raw.subarray(sumAt)).toString('latin1').toLowerCase();
    if ((await digestOf(sum, data)) !== stored) {
      throw new ImageError('corrupt', `the checksum of block ${number} does not hold`, { file: source.name, at });
    }
    into.set(data);
  }
  into.fill(0, length);
}

const bit = (number: number): number => 2 ** (number % 8);

/** Numbers of blocks that were checked; grows with the highest one. */
function checkedBlocks() {
  let bits = new Uint8Array(64);
  return {
    has: (number: number): boolean => (bits[Math.floor(number / 8)] ?? 0) % (2 * bit(number)) >= bit(number),
    add(number: number): void {
      const index = Math.floor(number / 8);
      if (index >= bits.length) {
        const more = new Uint8Array(Math.max(index + 1, bits.length * 2));
        more.set(bits);
        bits = more;
      }
      if (bits[index]! % (2 * bit(number)) < bit(number)) bits[index]! += bit(number);
    },
  };
}

/** `ref`: what the members with the disk's blocks are called. */
export function archiveLayer(id: LayerId, archive: Archive, ref: string, size: Bytes): Layer {
  const checked = checkedBlocks();
  const missing = (number: number): ImageError => {
    const message = `the archive ends before block ${number} of ${ref}: the rest of the disk is missing`;
    return new ImageError('corrupt', message, { file: archive.source.name, at: archive.reached() });
  };
  const isPlain = ({ sum, number }: Block): boolean => sum === 'none' || checked.has(number);
  /** Bytes that a block has to have: the last one may end with the disk. */
  const needed = (number: number): Bytes => Math.min(BLOCK, size - number * BLOCK);
  const there = (number: number): Block | null => {
    const block = archive.blocks(ref).find(number);
    if (block === null || block.length >= needed(number)) return block;
    const message = `block ${number} of ${ref} has ${block.length} bytes and should have ${needed(number)}`;
    throw new ImageError('corrupt', message, { file: archive.source.name, at: block.at });
  };
  return {
    id,
    size,
    blockSize: BLOCK,
    locate(at, limit): Location | null {
      const unit = Math.floor(at / BLOCK);
      if (!archive.knows(ref, unit)) return null;
      const within = at - unit * BLOCK;
      const block = there(unit);
      const length = Math.min(limit, BLOCK - within);
      if (block !== null) {
        if (isPlain(block)) return { kind: 'plain', source: archive.source, at: block.at + within, length };
        return { kind: 'packed', unit, within, length };
      }
      const blocks = archive.blocks(ref);
      // Writers put the last block into the archive even when it is empty: behind the last one nothing is known.
      if (unit > blocks.last) throw missing(unit);
      const next = Math.min(blocks.next(unit) ?? blocks.last + 1, unit + MOST_STEPS);
      return { kind: 'zero', length: Math.min(limit, next * BLOCK - at) };
    },
    deferred: () => archive.packed(),
    load: at => archive.seek(ref, Math.floor(at / BLOCK)),
    async unpack(unit, into) {
      await archive.seek(ref, unit);
      const block = there(unit);
      if (block === null) throw missing(unit);
      await readBlock(archive, block, into);
      checked.add(unit);
    },
  };
}
