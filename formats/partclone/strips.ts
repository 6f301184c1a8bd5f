/** How the stored blocks follow one another in the file, and the checksums between them. */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import type { UsedBlocks } from './bitmap.ts';
import type { ImageHeader, SumKind } from './structs.ts';
import { canContinue, newSum } from './sums.ts';

/** Strips shorter than this are checked several at a time. */
const UNIT: Bytes = 2 ** 18;
/** Longer ones are read without a check: the whole strip would have to be held for each read. */
const MOST_STRIP: Bytes = 2 ** 24;

/** How stored blocks follow one another: strips of blocks, a checksum behind each. */
export interface Strips {
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

export function stripsOf(header: ImageHeader): Strips {
  const { blockSize, blocksPerSum, sumSize, sum, reseeded } = header;
  // Without checksums there is a single endless strip.
  if (sum === 'none') return { blocks: Number.MAX_SAFE_INTEGER, length: 0, sumSize: 0, perUnit: 0 };
  const length = blocksPerSum * blockSize;
  const isChecked = length <= MOST_STRIP && (reseeded || canContinue(sum));
  const perUnit = isChecked ? Math.max(1, Math.floor(UNIT / length)) : 0;
  return { blocks: blocksPerSum, length, sumSize, perUnit };
}

/** Strips in their places, which are known when the stored blocks are counted. */
export interface StripFile {
  readonly shape: Strips;
  /** Offset of a stored block, by the number of those before it. Ask `placed` once before. */
  plainAt(rank: number): Bytes;
  placed(): Promise<PlacedStrips>;
  /** Reads a strip into `into` and checks it. */
  read(kind: Exclude<SumKind, 'none'>, strip: number, into: Uint8Array): Promise<void>;
}

/** The stride of version 0001 as old 64-bit builds wrote it: four more bytes behind each checksum. */
const WIDE_SUM = 8;

export function stripFile(source: ByteSource, header: ImageHeader, used: UsedBlocks): StripFile {
  const { blockSize, dataAt } = header;
  const file = source.name;
  const strips = stripsOf(header);
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

  return {
    shape: strips,
    plainAt,
    async placed() {
      const total = await settle();
      return { ...strips, total, end: end(total), at: stripAt, sumOf, before, broken };
    },
    async read(kind, strip, into) {
      await source.read(into, stripAt(strip));
      const sum = newSum(kind, blockSize, await before(strip));
      sum.update(into);
      if (Buffer.compare(sum.digest(), await sumOf(strip, into.length)) !== 0) throw broken(strip);
    },
  };
}
