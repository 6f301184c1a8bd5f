/** The volume in an image: where its blocks lie, and their checksums. */
import type { Volume } from '../../src/base/assemble.ts';
import type { ByteSource, Bytes, Location } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { usedBlocks } from './bitmap.ts';
import { type PlacedStrips, stripFile, stripsOf } from './strips.ts';
import { HEADER_1, type ImageHeader, parseHeader } from './structs.ts';

export interface PartcloneVolume extends Volume {
  readonly size: Bytes;
  readonly source: ByteSource;
  readonly header: ImageHeader;
  /** For checking all of the image in file order; throws 'corrupt' when the bitmap is damaged. */
  strips(): Promise<PlacedStrips>;
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

/** Blocks are units of `unpack` where they are checked on the way, plain otherwise. */
export function partcloneVolume(source: ByteSource, header: ImageHeader): PartcloneVolume {
  const { blockSize, blocks, size } = header;
  const file = source.name;
  if (header.dataAt > source.size) {
    throw new ImageError('corrupt', 'the file ends inside the bitmap', { file, at: source.size, field: 'bitmap' });
  }
  const used = usedBlocks(source, header);
  const stored = stripFile(source, header, used);
  const strips = stored.shape;
  const perUnit = strips.perUnit * strips.blocks;
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
        return { kind: 'plain', source, at: stored.plainAt(run.rank) + within, length };
      }
      const unit = Math.floor(run.rank / perUnit);
      const start = (run.rank - unit * perUnit) * blockSize + within;
      return { kind: 'packed', unit, within: start, length: Math.min(most, perUnit * blockSize - start) };
    },
    async load(at) {
      await stored.placed();
      await used.load(Math.min(blocks - 1, Math.floor(at / blockSize)));
    },
    async unpack(unit, into) {
      const { sum } = header;
      if (sum === 'none') throw new ImageError('out-of-range', 'nothing is packed in this image', { file });
      const { total } = await stored.placed();
      const first = unit * strips.perUnit;
      let done = 0;
      for (let strip = first; strip < first + strips.perUnit; strip++) {
        const count = Math.min(strips.blocks, total - strip * strips.blocks);
        if (count <= 0) break;
        await stored.read(sum, strip, into.subarray(done, done + count * blockSize));
        done += count * blockSize;
      }
      into.fill(0, done);
    },
    strips: () => stored.placed(),
  };
}
