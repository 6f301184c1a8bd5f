/** The volume in an image: where its blocks lie, and their checksums. */
import type { Volume } from '../../src/base/assemble.ts';
import type { ByteSource, Bytes, Location } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { usedBlocks } from './bitmap.ts';
import { HEADER_1, type ImageHeader, parseHeader, type SumKind } from './structs.ts';
import { canContinue, newSum } from './sums.ts';

export interface PartcloneVolume extends Volume {
  readonly size: Bytes;
  readonly source: ByteSource;
  readonly header: ImageHeader;
  /** For checking all of the image in file order; throws 'corrupt' when the bitmap is damaged. */
  strips(): Promise<PlacedStrips>;
}

/** Strips shorter than this are checked several at a time. */
const UNIT: Bytes = 2 ** 18;
/** Longer ones are read without a check: the whole strip would have to be held for each read. */
const MOST_STRIP: Bytes = 2 ** 24;

/** How stored blocks follow one another: strips of blocks, a checksum behind each. */
interface Strips {
  readonly blocks: number;
  readonly length: Bytes;
  readonly sumSize: number;
  /** Checked together as one unit; 0 where reading does not check. */
  readonly perUnit: number;
}

export interface PlacedStrips extends Strips {
  /** Stored blocks in all, and the file offset behind the last one's checksum. */
  readonly total: number;
  readonly end: Bytes;
  at(strip: number): Bytes;
  /** The checksum that is stored behind a strip of `length` bytes. */
  sumOf(strip: number, length: Bytes): Promise<Uint8Array>;
  /** The checksum that a strip's own goes on from; null where it starts anew. */
  before(strip: number): Promise<Uint8Array | null>;
  broken(strip: number): ImageError;
}

function stripsOf(header: ImageHeader): Strips {
  const { blockSize, blocksPerSum, sumSize, sum, reseeded } = header;
  // Without checksums there is a single endless strip.
  if (sum === 'none') return { blocks: Number.MAX_SAFE_INTEGER, length: 0, sumSize: 0, perUnit: 0 };
  const length = blocksPerSum * blockSize;
  const isChecked = length <= MOST_STRIP && (reseeded || canContinue(sum));
  const perUnit = isChecked ? Math.max(1, Math.floor(UNIT / length)) : 0;
  return { blocks: blocksPerSum, length, sumSize, perUnit };
}

/** Whether reading checks what it reads; a reason why not, for people. */
export function unchecked(header: ImageHeader): string | null {
  if (header.sum === 'none') return 'the image has no checksums: damage cannot be noticed';
  if (stripsOf(header).perUnit > 0) return null;
  return 'the checksums cover too much to be checked while reading: only verify checks them';
}

/** What a layer of such an image is before it is opened: the header is enough for it. */
export function unitsOf(header: ImageHeader): Pick<Volume, 'blockSize' | 'units'> {
  const { perUnit, length, blocks } = stripsOf(header);
  if (perUnit === 0) return { blockSize: Math.max(4096, header.blockSize), units: 0 };
  return { blockSize: perUnit * length, units: Math.ceil(header.blocks / (perUnit * blocks)) };
}

/** The header of an image: reads its first bytes. */
export async function readHeader(source: ByteSource): Promise<ImageHeader> {
  const head = new Uint8Array(Math.min(HEADER_1, source.size));
  await source.read(head, 0);
  return parseHeader(head, source.name);
}

/** The stride of version 0001 as old 64-bit builds wrote it: four more bytes behind each checksum. */
const WIDE_SUM = 8;

/** Blocks are units of `unpack` where they are checked on the way, plain otherwise. */
export function partcloneVolume(source: ByteSource, header: ImageHeader): PartcloneVolume {
  const { blockSize, blocks, size, dataAt } = header;
  const file = source.name;
  if (dataAt > source.size) {
    throw new ImageError('corrupt', 'the file ends inside the bitmap', { file, at: source.size, field: 'bitmap' });
  }
  const used = usedBlocks(source, header);
  const strips = stripsOf(header);
  const perUnit = strips.perUnit * strips.blocks;
  let stride = strips.length + strips.sumSize;

  const stripAt = (strip: number): Bytes => dataAt + strip * stride;
  const plainAt = (rank: number): Bytes => {
    if (strips.sumSize === 0) return dataAt + rank * blockSize;
    const strip = Math.floor(rank / strips.blocks);
    return stripAt(strip) + (rank - strip * strips.blocks) * blockSize;
  };
  const end = (total: number): Bytes =>
    dataAt +
    total * blockSize +
    (strips.sumSize === 0 ? 0 : Math.ceil(total / strips.blocks) * (stride - strips.length));

  /** Only the number of stored blocks tells how wide the checksums of version 0001 are. */
  const settle = async (): Promise<number> => {
    const total = await used.total();
    if (header.version === '0001' && total > 0 && source.size === dataAt + total * (blockSize + WIDE_SUM)) {
      stride = strips.length + WIDE_SUM;
    }
    return total;
  };

  const sumOf = async (strip: number, length: Bytes): Promise<Uint8Array> => {
    const sum = new Uint8Array(strips.sumSize);
    await source.read(sum, stripAt(strip) + length);
    return sum;
  };
  /** The checksum that the one of this strip goes on from. */
  const before = async (strip: number): Promise<Uint8Array | null> =>
    header.reseeded || strip === 0 ? null : sumOf(strip - 1, strips.length);
  const broken = (strip: number): ImageError => {
    const message = `the checksum behind stored block ${strip * strips.blocks} does not hold`;
    return new ImageError('corrupt', message, { file, at: stripAt(strip), field: 'checksum' });
  };
  /** Reads a strip into `into` and checks it. */
  const readStrip = async (kind: Exclude<SumKind, 'none'>, strip: number, into: Uint8Array): Promise<void> => {
    await source.read(into, stripAt(strip));
    const sum = newSum(kind, blockSize, await before(strip));
    sum.update(into);
    if (Buffer.compare(sum.digest(), await sumOf(strip, into.length)) !== 0) throw broken(strip);
  };

  return {
    source,
    header,
    size,
    ...unitsOf(header),
    locate(at, limit): Location | null {
      const block = Math.floor(at / blockSize);
      if (block >= blocks) return { kind: 'zero', length: limit };
      const within = at - block * blockSize;
      const run = used.run(block, Math.ceil((within + limit) / blockSize));
      if (run === null) return null;
      const most = Math.min(limit, run.blocks * blockSize - within);
      if (!run.used) return { kind: 'zero', length: most };
      if (perUnit === 0) {
        const left = strips.sumSize === 0 ? run.blocks : strips.blocks - (run.rank % strips.blocks);
        const length = Math.min(most, left * blockSize - within);
        return { kind: 'plain', source, at: plainAt(run.rank) + within, length };
      }
      const unit = Math.floor(run.rank / perUnit);
      const start = (run.rank - unit * perUnit) * blockSize + within;
      return { kind: 'packed', unit, within: start, length: Math.min(most, perUnit * blockSize - start) };
    },
    async load(at) {
      await settle();
      await used.load(Math.min(blocks - 1, Math.floor(at / blockSize)));
    },
    async unpack(unit, into) {
      const { sum } = header;
      if (sum === 'none') throw new ImageError('out-of-range', 'nothing is packed in this image', { file });
      const total = await settle();
      const first = unit * strips.perUnit;
      let done = 0;
      for (let strip = first; strip < first + strips.perUnit; strip++) {
        const count = Math.min(strips.blocks, total - strip * strips.blocks);
        if (count <= 0) break;
        await readStrip(sum, strip, into.subarray(done, done + count * blockSize));
        done += count * blockSize;
      }
      into.fill(0, done);
    },
    strips: async () => {
      const total = await settle();
      return { ...strips, total, end: end(total), at: stripAt, sumOf, before, broken };
    },
  };
}
