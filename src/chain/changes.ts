/** What can differ between two points of one chain, from their layers alone: no data is read. */
import type { Bytes, Layer, Location } from '../base/contracts.ts';
import type { RestorePoint } from './point.ts';

export interface Changed {
  /** false: this stretch is the same in both points. */
  readonly changed: boolean;
  readonly length: Bytes;
}

export interface Changes {
  /** 1 <= length <= limit. The range may lie outside a disk that has another size in the other point. */
  at(at: Bytes, limit: Bytes): Promise<Changed>;
}

async function locate(layer: Layer, at: Bytes, limit: Bytes): Promise<Location> {
  for (;;) {
    const where = layer.locate(at, limit);
    if (where !== null) return where;
    await layer.load(at, limit);
  }
}

/** By layers that are complete by themselves and can be compared. */
async function compared(a: Layer, b: Layer, at: Bytes, limit: Bytes): Promise<Changed> {
  const found = await a.compare?.(b, at, limit);
  return found === undefined || found === null
    ? { changed: true, length: limit }
    : { changed: !found.same, length: found.length };
}

/** null: the two have no layer in common, and their layers cannot be compared: nothing is known. */
export function changesBetween(a: RestorePoint, b: RestorePoint, disk: number): Changes | null {
  const [ours, theirs] = [a.layers(disk), b.layers(disk)];
  let common = 0;
  while (common < Math.min(ours.length, theirs.length) && ours[common] === theirs[common]) common++;
  const apart = [...ours.slice(common), ...theirs.slice(common)];
  const size = Math.min(ours.at(-1)!.size, theirs.at(-1)!.size, ...apart.map(layer => layer.size));
  const single = common === 0 && ours.length === 1 && theirs.length === 1;
  if (common === 0 && !(single && ours[0]!.compare !== undefined)) return null;
  return {
    async at(at, limit) {
      if (at >= size) return { changed: true, length: limit };
      let length = Math.min(limit, size - at);
      if (single) return compared(ours[0]!, theirs[0]!, at, length);
      for (const layer of apart) {
        const where = await locate(layer, at, length);
        if (where.kind !== 'absent') return { changed: true, length: where.length };
        length = where.length;
      }
      return { changed: false, length };
    },
  };
}
