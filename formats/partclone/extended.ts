/** Logical partitions: only the dump names them, so their boot records are written anew, as a restore does. */
import type { BytesPart } from '../../src/base/assemble.ts';
import type { Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { makeMbr } from '../../src/base/partition-table.ts';
import type { Partition } from './tables.ts';

const EXTENDED = [0x05, 0x0f, 0x85];
const typeOf = ({ type }: Partition): number => Number.parseInt(type, 16);
export const isExtended = (partition: Partition): boolean =>
  partition.number <= 4 && EXTENDED.includes(typeOf(partition));

/** Sectors that partitioning programs leave before a logical partition. */
const GAP = 2048;

/**
 * One record before each logical partition. Its first entry counts from the record, its second one, which leads to the
 * next record, from the start of the extended partition. Throws 'corrupt' where there is no room for one.
 */
export function extendedParts(
  partitions: readonly Partition[],
  sectorSize: number,
  file: string,
): readonly BytesPart[] {
  const outer = partitions.find(isExtended);
  const logical = partitions.filter(({ number }) => number > 4).toSorted((a, b) => a.number - b.number);
  if (logical.length === 0) return [];
  if (outer === undefined) throw new ImageError('corrupt', 'logical partitions without an extended one', { file });
  const others = partitions.filter(partition => partition !== outer);
  const places = logical.map(({ number, at }, i): Bytes => {
    if (i === 0 && at > outer.at) return outer.at;
    const free = others.reduce((end, other) => (other.at < at ? Math.max(end, other.at + other.length) : end), 0);
    const place = Math.max(free, at - GAP * sectorSize, outer.at + sectorSize);
    if (place + sectorSize <= at) return place;
    throw new ImageError('corrupt', `there is no room for the record of partition ${number}`, { file });
  });
  return logical.map((partition, i) => {
    const place = places[i]!;
    const own = {
      at: partition.at - place,
      length: partition.length,
      type: typeOf(partition),
      active: partition.active,
    };
    const next = logical[i + 1];
    const link =
      next === undefined
        ? []
        : [{ at: places[i + 1]! - outer.at, length: next.at + next.length - places[i + 1]!, type: 5, active: false }];
    return {
      at: place,
      bytes: makeMbr(sectorSize, 0, [own, ...link]),
      name: `record of partition ${partition.number}`,
    };
  });
}
