/** Restore over a disk that is there: only what differs is written, and all of it is read back. */
import type { ByteFile, Bytes, Disk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { sharedBytes } from '../base/shared-bytes.ts';
import { dataWindows, firstDifference, inLanes, readSparse, type Watch } from './sparse.ts';

export interface InPlaceSpec extends Watch {
  readonly disk: Disk;
  readonly file: ByteFile;
  /** Called when writing ends and reading back begins. */
  checking(): void;
}

export interface InPlaceResult {
  /** Bytes that differed and were written. */
  readonly written: Bytes;
}

const WINDOW = 4 * 2 ** 20;
const LANES = 3;
/** So much is compared, and written, as one. */
const UNIT = 4096;

/** The first `disk.size` bytes of the file, as a disk. Holes are known where the file knows them. */
const fileDisk = (file: ByteFile, like: Disk): Disk => ({
  id: file.name,
  size: like.size,
  sectorSize: like.sectorSize,
  extent: (at, limit) => file.extent?.(at, limit) ?? { kind: 'data', length: limit },
  load: async () => {},
  read: (into, at) => file.read(into, at),
  async [Symbol.asyncDispose]() {},
});

/**
 * The file must be as long as the disk at least; what follows the disk's end stays. A run that was stopped leaves a mixture,
 * which the next run completes. Throws 'corrupt' when what was read back is not what was written.
 */
export async function restoreInPlace(spec: InPlaceSpec): Promise<InPlaceResult> {
  const { disk, file, signal } = spec;
  if (file.size < disk.size) {
    throw new ImageError('too-big', `the disk has ${disk.size} bytes, the target only ${file.size}`, {
      file: file.name,
    });
  }
  const there = fileDisk(file, disk);
  const buffers = Array.from({ length: LANES * 2 }, () => sharedBytes(Math.min(WINDOW, disk.size)));
  let written = 0;
  await inLanes(
    dataWindows([disk, there], WINDOW, 0, disk.size, signal),
    LANES,
    async ({ at, length }, lane) => {
      const wanted = buffers[lane * 2]!.subarray(0, length);
      const found = buffers[lane * 2 + 1]!.subarray(0, length);
      await Promise.all([readSparse(disk, wanted, at), readSparse(there, found, at)]);
      return { at, wanted, found };
    },
    async ({ at, wanted, found }) => {
      written += await writeDifferences(file, wanted, found, at);
      spec.progress(at + wanted.length, disk.size);
    },
  );
  await file.sync();
  spec.checking();
  const at = await firstDifference(disk, there, spec);
  if (at === null) return { written };
  throw new ImageError('corrupt', `read back, the disk differs from the restore point at guest offset ${at}`, {
    file: file.name,
  });
}

/** Neighbouring units that differ are written as one. */
async function writeDifferences(file: ByteFile, wanted: Uint8Array, found: Uint8Array, at: Bytes): Promise<Bytes> {
  if (Buffer.compare(wanted, found) === 0) return 0;
  const differs = (from: number): boolean =>
    from < wanted.length && Buffer.compare(wanted.subarray(from, from + UNIT), found.subarray(from, from + UNIT)) !== 0;
  let written = 0;
  for (let from = 0; from < wanted.length; from += UNIT) {
    let to = from;
    while (differs(to)) to += UNIT;
    if (to === from) continue;
    const part = wanted.subarray(from, to);
    await file.write(part, at + from);
    written += part.length;
    from = to;
  }
  return written;
}
