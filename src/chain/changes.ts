/** What can differ between two points of one chain, from their layers alone: no data is read. */
import type { Bytes, Layer } from '../base/contracts.ts';
import type { RestorePoint } from './point.ts';

export interface Changes {
  /** false: the range is the same in both points. It may lie outside a disk that has another size in the other point. */
  changed(at: Bytes, length: Bytes): Promise<boolean>;
}

async function says(layer: Layer, at: Bytes, end: Bytes): Promise<boolean> {
  for (let here = at; here < end; ) {
    const where = layer.locate(here, end - here);
    if (where === null) await layer.load(here, end - here);
    else if (where.kind !== 'absent') return true;
    else here += where.length;
  }
  return false;
}

/** null: the two have no layer in common, so that nothing is known. */
export function changesBetween(a: RestorePoint, b: RestorePoint, disk: number): Changes | null {
  const [ours, theirs] = [a.layers(disk), b.layers(disk)];
  let common = 0;
  while (common < Math.min(ours.length, theirs.length) && ours[common] === theirs[common]) common++;
  if (common === 0) return null;
  const apart = [...ours.slice(common), ...theirs.slice(common)];
  const size = Math.min(ours.at(-1)!.size, theirs.at(-1)!.size, ...apart.map(layer => layer.size));
  return {
    async changed(at, length) {
      if (at + length > size) return true;
      for (const layer of apart) if (await says(layer, at, at + length)) return true;
      return false;
    },
  };
}
