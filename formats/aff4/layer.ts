/** The disk: its ranges by the map, chunks of streams as packed units. */
import type { Bytes, Layer, LayerId, Location } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { lastAtOrBefore } from '../../src/base/range.ts';
import type { DiskMap, Mapped } from './map.ts';
import type { Target } from './targets.ts';

/** Ranges of zeros that one answer puts together. */
const MOST_JOINED = 64;
const SMALLEST_UNIT: Bytes = 32_768;

export interface MappedDisk {
  readonly id: LayerId;
  readonly size: Bytes;
  readonly targets: readonly Target[];
  /** What fills gaps of the map. */
  readonly gap: Target;
  map(): Promise<DiskMap>;
}

export function mappedLayer({ id, size, targets, gap, map }: MappedDisk): Layer {
  const streams = [...targets, gap].filter(target => target.kind === 'stream');
  const firstUnits = streams.map(({ firstUnit }) => firstUnit);
  const blockSize = Math.max(SMALLEST_UNIT, ...streams.map(({ stream }) => stream.chunkSize));
  let known: DiskMap | null = null;
  let reading: Promise<DiskMap> | null = null;
  const read = (): Promise<DiskMap> => {
    reading ??= map()
      .then(found => {
        known = found;
        return found;
      })
      .finally(() => {
        reading = null;
      });
    return reading;
  };
  const targetOf = ({ target }: Mapped): Target => (target < 0 ? gap : targets[target]!);

  /** Where zeros that begin in `range` end, as far as that is known. */
  const zerosTo = (from: DiskMap, range: Mapped, limit: Bytes): Bytes => {
    let { end } = range;
    for (let joined = 0; joined < MOST_JOINED && end < limit; joined++) {
      const next = from.at(end);
      if (next === null || targetOf(next).kind !== 'zero') break;
      end = next.end;
    }
    return end;
  };
  return {
    id,
    size,
    blockSize,
    locate(at, limit): Location | null {
      const range = known?.at(at) ?? null;
      if (range === null) return null;
      const target = targetOf(range);
      if (target.kind === 'zero') {
        return { kind: 'zero', length: Math.min(limit, zerosTo(known!, range, at + limit) - at) };
      }
      const length = Math.min(limit, range.end - at);
      const targetAt = range.targetAt + (at - range.start);
      if (target.kind !== 'stream') return { kind: 'plain', source: target.source, at: targetAt, length };
      const { stream, firstUnit } = target;
      const chunk = Math.floor(targetAt / stream.chunkSize);
      const within = targetAt - chunk * stream.chunkSize;
      if (targetAt >= stream.size) {
        throw new ImageError('corrupt', `the disk at ${at} is behind the end of its stream`, {
          file: stream.volume.file,
        });
      }
      const unit = firstUnit + chunk;
      return { kind: 'packed', unit, within, length: Math.min(length, stream.chunkSize - within) };
    },
    async load(at) {
      await (known ?? (await read())).load(at);
    },
    async unpack(unit, into) {
      const { stream, firstUnit } = streams[lastAtOrBefore(firstUnits, unit)]!;
      await stream.read(unit - firstUnit, into);
    },
  };
}
