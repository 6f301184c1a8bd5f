/** Checks of a whole image: the bitmap, every checksum, and the length of the file. */
import type { Bytes, Verified, VerifyRun } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { roundDown } from '../../src/base/range.ts';
import type { PlacedStrips } from './strips.ts';
import type { SumKind } from './structs.ts';
import { canContinue, newSum } from './sums.ts';
import type { PartcloneVolume } from './volume.ts';
import type { Digest } from './xxhash.ts';

const PART: Bytes = 2 ** 20;

/** Strips can be longer than memory, so they go through in parts of whole blocks. */
async function checkStrips(
  volume: PartcloneVolume,
  kind: Exclude<SumKind, 'none'>,
  strips: PlacedStrips,
  run: VerifyRun,
  found: (error: unknown) => void,
) {
  const { source, header } = volume;
  const { blockSize } = header;
  const part = new Uint8Array(Math.max(blockSize, roundDown(PART, blockSize)));
  const count = Math.ceil(strips.total / strips.blocks);
  // One that cannot be taken up again at a strip runs through them all.
  const running = header.reseeded || canContinue(kind) ? null : newSum(kind, blockSize, null);
  const feed = async (sum: Digest, at: Bytes, length: Bytes): Promise<void> => {
    for (let done = 0; done < length; done += part.length) {
      const now = part.subarray(0, Math.min(part.length, length - done));
      await source.read(now, at + done);
      sum.update(now);
    }
  };
  let bytes = 0;
  for (let strip = 0; strip < count && !run.signal.aborted; strip++) {
    const length = Math.min(strips.blocks, strips.total - strip * strips.blocks) * blockSize;
    try {
      const sum = running ?? newSum(kind, blockSize, await strips.before(strip));
      await feed(sum, strips.at(strip), length);
      if (Buffer.compare(sum.digest(), await strips.sumOf(strip, length)) !== 0) throw strips.broken(strip);
    } catch (error) {
      found(error);
      // Nothing after it can be told right from wrong.
      if (running !== null) return { checked: strip + 1, bytes };
    }
    bytes += length + strips.sumSize;
    run.progress(Math.min(strips.at(strip + 1), source.size), source.size);
  }
  return { checked: count, bytes };
}

export async function verifyVolume(volume: PartcloneVolume, run: VerifyRun, disk?: string): Promise<Verified> {
  const { source, header } = volume;
  const file = source.name;
  const found = (error: unknown): void => {
    if (!(error instanceof ImageError)) throw error;
    const problem = { fault: error.fault, message: error.message, file, offset: error.where.at ?? 0 };
    run.found(disk === undefined ? problem : { ...problem, disk });
  };
  let strips: PlacedStrips;
  try {
    strips = await volume.strips();
  } catch (error) {
    found(error);
    return { checked: 1, bytes: Math.min(header.dataAt, source.size) };
  }
  const beyond = source.size - strips.end;
  if (beyond !== 0) {
    const text = beyond < 0 ? `the file ends ${-beyond} bytes early` : `${beyond} bytes follow the last block`;
    found(new ImageError('corrupt', text, { file, at: strips.end }));
  }
  const { sum } = header;
  if (sum === 'none') return { checked: 1, bytes: header.dataAt };
  const { checked, bytes } = await checkStrips(volume, sum, strips, run, found);
  return { checked: 2 + checked, bytes: header.dataAt + bytes, whole: true };
}
