/** The parts of a disk, one after another, as one layer. */
import type { ByteSource, Bytes, Layer, LayerId, Location } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { lastAtOrBefore } from '../../src/base/range.ts';

const FLAT_BLOCK: Bytes = 65_536;

const nothingPacked = (file: string) => (): Promise<void> =>
  Promise.reject(new ImageError('out-of-range', 'nothing is packed in this extent', { file }));

/** Raw data from `fileAt` on. */
export const flatLayer = (id: LayerId, source: ByteSource, fileAt: Bytes, size: Bytes): Layer => ({
  id,
  size,
  blockSize: FLAT_BLOCK,
  locate(at, limit): Location {
    const { kind, length } = source.extent?.(fileAt + at, limit) ?? { kind: 'data', length: limit };
    return kind === 'zero' ? { kind, length } : { kind: 'plain', source, at: fileAt + at, length };
  },
  async load() {},
  unpack: nothingPacked(source.name),
});

export const zeroLayer = (id: LayerId, size: Bytes): Layer => ({
  id,
  size,
  blockSize: FLAT_BLOCK,
  locate: (_at, limit) => ({ kind: 'zero', length: limit }),
  async load() {},
  unpack: nothingPacked(id),
});

/** Units are numbered through all parts. */
export function joinedLayer(id: LayerId, parts: readonly Layer[]): Layer {
  const only = parts[0]!;
  if (parts.length === 1) return only;
  const starts = new Float64Array(parts.length);
  const firstUnits = new Float64Array(parts.length);
  let size = 0;
  let units = 0;
  let blockSize = 0;
  for (const [i, part] of parts.entries()) {
    starts[i] = size;
    firstUnits[i] = units;
    size += part.size;
    units += Math.ceil(part.size / part.blockSize);
    blockSize = Math.max(blockSize, part.blockSize);
  }
  return {
    id,
    size,
    blockSize,
    locate(at, limit) {
      const i = lastAtOrBefore(starts, at);
      const within = at - starts[i]!;
      const found = parts[i]!.locate(within, Math.min(limit, parts[i]!.size - within));
      return found?.kind === 'packed' ? { ...found, unit: found.unit + firstUnits[i]! } : found;
    },
    load(at, limit) {
      const i = lastAtOrBefore(starts, at);
      const within = at - starts[i]!;
      return parts[i]!.load(within, Math.min(limit, parts[i]!.size - within));
    },
    async unpack(unit, into) {
      const i = lastAtOrBefore(firstUnits, unit);
      const length = parts[i]!.blockSize;
      await parts[i]!.unpack(unit - firstUnits[i]!, into.subarray(0, length));
      into.fill(0, length);
    },
  };
}
