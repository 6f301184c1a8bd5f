/**
 * Where arrays keep their data: md and the RAID types of LVM are laid out alike. Sources: md(4), "RAID10"; Linux kernel
 * documentation, admin-guide/md and device-mapper/dm-raid; the layouts that mdadm(8) names.
 */
import type { Bytes } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { joinedMapping, type Mapped, type Mapping, type Part, type Way } from './composed.ts';

/** The data area of one member: where it begins in a stretch. */
export interface Leg extends Part {
  readonly size: Bytes;
}

export interface Raid {
  /** For messages. */
  readonly its: string;
  /** -1: one member after the other. */
  readonly level: number;
  readonly layout: number;
  readonly chunk: Bytes;
  /** By their place in the array; null: missing, or not to be trusted. */
  readonly legs: readonly (Leg | null)[];
  /** Bytes used of every member. Level 0 and -1 use all of each. */
  readonly legSize: Bytes;
}

const partOf = ({ stretch, at }: Leg, offset: Bytes): Part => ({ stretch, at: at + offset });
const ways = (length: Bytes, all: readonly (Way | null)[], shared: boolean): Mapped => ({
  kind: 'ways',
  length,
  shared,
  ways: all.filter(way => way !== null),
});

const unsupported = (its: string, what: string): ImageError => new ImageError('unsupported', what, { file: its });

/** One after the other. */
function linear({ its, legs }: Raid): Mapping {
  return joinedMapping(
    legs.map(leg => {
      if (leg === null) throw new ImageError('broken-chain', 'a member is missing', { file: its });
      return { size: leg.size, at: (at, limit) => ways(limit, [partOf(leg, at)], false) };
    }),
  );
}

function mirror({ legs, legSize }: Raid): Mapping {
  return {
    size: legSize,
    at: (at, limit) =>
      ways(
        limit,
        legs.map(leg => leg && partOf(leg, at)),
        true,
      ),
  };
}

/** In an array of unequal members the longer ones go on alone: each such zone is striped over those that are left. */
function striped({ its, layout, chunk, legs }: Raid): Mapping {
  const all = legs.map(leg => {
    if (leg === null) throw new ImageError('broken-chain', 'a member of a striped array is missing', { file: its });
    return { leg, size: leg.size - (leg.size % chunk) };
  });
  const ends = [...new Set(all.map(({ size }) => size))].sort((a, b) => a - b);
  if (ends.length > 1 && layout !== 1 && layout !== 2) {
    throw unsupported(its, 'a striped array of unequal members does not say how it is laid out');
  }
  let before = 0;
  let start = 0;
  const zones = ends.map((end): Mapping => {
    const members = all.filter(({ size }) => size > before);
    const from = before;
    // The first layout counts chunks from the array's start, the second from the zone's.
    const first = layout === 1 ? start / chunk : 0;
    const size = (end - from) * members.length;
    before = end;
    start += size;
    return {
      size,
      at(at, limit) {
        const number = Math.floor(at / chunk);
        const within = at % chunk;
        const { leg } = members[(first + number) % members.length]!;
        const offset = from + Math.floor(number / members.length) * chunk + within;
        return ways(Math.min(limit, chunk - within), [partOf(leg, offset)], false);
      },
    };
  });
  return joinedMapping(zones);
}

/** Places in the array of a stripe's parity and of the first of its data, and whether data goes round after the parity. */
interface Turn {
  readonly parity: number;
  readonly data: (index: number) => number;
}

/** mdadm's layouts of levels 5 and 6: left and right, asymmetric and symmetric; parity first, and last. */
function turnOf(its: string, layout: number, members: number, parities: number): (stripe: number) => Turn {
  const last = members - 1;
  switch (layout) {
    case 0:
    case 1:
      return stripe => {
        const parity = layout === 0 ? last - (stripe % members) : stripe % members;
        // With two parities, the second follows the first, and may have gone round to the first member.
        const wrapped = parities === 2 && parity === last;
        return { parity, data: index => (wrapped ? index + 1 : index >= parity ? index + parities : index) };
      };
    case 2:
    case 3:
      return stripe => {
        const parity = layout === 2 ? last - (stripe % members) : stripe % members;
        return { parity, data: index => (parity + parities + index) % members };
      };
    case 4:
      return () => ({ parity: 0, data: index => index + parities });
    case 5:
      return () => ({ parity: members - parities, data: index => index });
    default:
      throw unsupported(its, `the array's layout ${layout} is not known`);
  }
}

/** Levels 4, 5 and 6. One member that is missing is made up for by the first parity. */
function withParity({ its, level, layout, chunk, legs, legSize }: Raid): Mapping {
  const parities = level === 6 ? 2 : 1;
  const dataLegs = legs.length - parities;
  const turn = turnOf(its, level === 4 ? 5 : layout, legs.length, parities);
  const missing = legs.filter(leg => leg === null).length;
  if (missing > parities) throw new ImageError('broken-chain', `${missing} members are missing`, { file: its });
  if (missing > 1) {
    throw unsupported(
      its,
      'two members of a RAID 6 array are missing, and only one is made up for: add one of their disks',
    );
  }
  const perLeg = legSize - (legSize % chunk);
  return {
    size: perLeg * dataLegs,
    at(at, limit) {
      const number = Math.floor(at / chunk);
      const within = at % chunk;
      const stripe = Math.floor(number / dataLegs);
      const { parity, data } = turn(stripe);
      const index = data(number % dataLegs);
      const offset = stripe * chunk + within;
      const place = (member: number): Part | null => {
        const leg = legs[member]!;
        return leg && partOf(leg, offset);
      };
      const others: Part[] = [];
      for (let i = 0; i < dataLegs; i++) if (data(i) !== index) pushed(others, place(data(i)));
      pushed(others, place(parity));
      const direct = place(index);
      const made = others.length === dataLegs ? { xor: others } : null;
      return ways(Math.min(limit, chunk - within), [direct, made], true);
    },
  };
}

function pushed(list: Part[], part: Part | null): void {
  if (part !== null) list.push(part);
}

/** Level 10: near copies beside each other, far ones in another part of the next members, or one chunk further on. */
function mirroredStripes({ its, layout, chunk, legs, legSize }: Raid): Mapping {
  const near = layout % 256;
  const far = Math.floor(layout / 256) % 256;
  const offset = Math.floor(layout / 65_536) === 1;
  const members = legs.length;
  if (near < 1 || far < 1 || near * far > members || layout >= 131_072) {
    throw unsupported(its, `the layout 0x${layout.toString(16)} of a RAID 10 array is not known`);
  }
  const chunks = Math.floor((Math.floor(legSize / chunk / far) * members) / near);
  // Members are divided into as many parts as there are far copies, or hold them one row after the other.
  const farRows = offset ? 1 : Math.floor(Math.ceil((chunks * near * far) / members) / far);
  return {
    size: chunks * chunk,
    at(at, limit) {
      const number = Math.floor(at / chunk);
      const within = at % chunk;
      const copies: (Part | null)[] = [];
      for (let n = 0; n < near; n++) {
        const position = number * near + n;
        const member = position % members;
        const row = Math.floor(position / members) * (offset ? far : 1);
        for (let f = 0; f < far; f++) {
          const leg = legs[(member + f * near) % members]!;
          copies.push(leg && partOf(leg, (row + f * farRows) * chunk + within));
        }
      }
      return ways(Math.min(limit, chunk - within), copies, true);
    },
  };
}

/** 'unsupported' for levels and layouts that are not read, 'broken-chain' when too many members are missing. */
export function raidMapping(raid: Raid): Mapping {
  const { its, level, chunk, legs } = raid;
  if (level > 1 || level === 0) {
    if (!(chunk >= 512 && chunk % 512 === 0))
      throw new ImageError('corrupt', `chunks of ${chunk} bytes`, { file: its });
  }
  if (legs.every(leg => leg === null)) throw new ImageError('broken-chain', 'all members are missing', { file: its });
  switch (level) {
    case -1:
      return linear(raid);
    case 0:
      return striped(raid);
    case 1:
      return mirror(raid);
    case 4:
    case 5:
    case 6:
      return withParity(raid);
    case 10:
      return mirroredStripes(raid);
    default:
      throw unsupported(its, `arrays of level ${level} are not supported`);
  }
}
