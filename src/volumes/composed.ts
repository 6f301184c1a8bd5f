/** Disks that are put together from stretches of others: arrays and logical volumes. */
import type { Bytes, Disk, Done } from '../base/contracts.ts';
import { inParts } from '../base/done.ts';
import { ImageError } from '../base/errors.ts';
import { inRow, lastAtOrBefore } from '../base/range.ts';
import type { Place, Stretch } from './stretch.ts';

/** A place in a stretch, counted from its start. */
export interface Part {
  readonly stretch: Stretch;
  readonly at: Bytes;
}

/** One way to get bytes: from a place, or by the exclusive or of several. */
export type Way = Part | { readonly xor: readonly Part[] };

/**
 * What lies at an offset: several ways to the same bytes, in the order in which they are tried; none: it is lost.
 * `shared`: it is part of more than this volume, as in `Place`.
 */
export type Mapped = { readonly length: Bytes } & (
  | { readonly kind: 'ways'; readonly ways: readonly Way[]; readonly shared: boolean }
  | { readonly kind: 'zero' }
);

export interface Mapping {
  readonly size: Bytes;
  /** 1 <= length <= limit; `at + limit` never exceeds `size`. */
  at(at: Bytes, limit: Bytes): Mapped;
}

export interface ComposedSpec {
  readonly its: string;
  readonly folder: string;
  readonly sectorSize: 512 | 4096;
  readonly mapping: Mapping;
}

function readPart({ stretch, at }: Part, into: Uint8Array): Done {
  if (at + into.length > stretch.size) {
    throw new ImageError('corrupt', 'it leads outside the stretch that it is made of', { file: stretch.its, at });
  }
  return stretch.disk.read(into, stretch.start + at);
}

async function readXor(parts: readonly Part[], into: Uint8Array): Promise<void> {
  const other = new Uint8Array(into.length);
  into.fill(0);
  for (const part of parts) {
    await readPart(part, other);
    for (let i = 0; i < into.length; i++) into[i]! ^= other[i]!;
  }
}

/** Tries the ways from `first` on; what ends it is the error of the first one that was tried. */
function readWays(its: string, ways: readonly Way[], into: Uint8Array, first = 0): Done {
  const way = ways[first];
  if (way === undefined) throw new ImageError('io', 'a disk that holds this part is missing', { file: its });
  const next = (error: unknown): Done => {
    if (first + 1 >= ways.length || !(error instanceof ImageError)) throw error;
    return readWays(its, ways, into, first + 1);
  };
  try {
    const pending = 'xor' in way ? readXor(way.xor, into) : readPart(way, into);
    if (pending !== undefined) return pending.catch(next);
  } catch (error) {
    return next(error);
  }
}

function composedDisk({ its, sectorSize, mapping }: ComposedSpec): Disk {
  return {
    id: its,
    size: mapping.size,
    sectorSize,
    extent(at, limit) {
      const { kind, length } = mapping.at(at, limit);
      return { kind: kind === 'zero' ? 'zero' : 'data', length };
    },
    async load() {},
    read(into, at) {
      if (at < 0 || at + into.length > mapping.size)
        throw new ImageError('out-of-range', 'outside the volume', { file: its, at });
      return inParts(into.length, (done, wait) => {
        const mapped = mapping.at(at + done, into.length - done);
        const target = into.subarray(done, done + mapped.length);
        if (mapped.kind === 'zero') target.fill(0);
        else wait(readWays(its, mapped.ways, target));
        return done + mapped.length;
      });
    },
    async [Symbol.asyncDispose]() {},
  };
}

export function composedStretch(spec: ComposedSpec): Stretch {
  const { its, folder, mapping } = spec;
  return {
    its,
    folder,
    described: false,
    label: '',
    disk: composedDisk(spec),
    start: 0,
    size: mapping.size,
    place(at, limit): Place | null {
      const mapped = mapping.at(at, limit);
      const way = mapped.kind === 'ways' ? mapped.ways[0] : undefined;
      if (way === undefined || 'xor' in way) return null;
      const found = way.stretch.place(way.stretch.start + way.at, mapped.length);
      return found && { ...found, shared: found.shared || (mapped.kind === 'ways' && mapped.shared) };
    },
  };
}

/** Mappings one after the other. */
export function joinedMapping(parts: readonly Mapping[]): Mapping {
  const { starts, size } = inRow(parts.map(part => part.size));
  return {
    size,
    at(at, limit) {
      const i = lastAtOrBefore(starts, at);
      const within = at - starts[i]!;
      return parts[i]!.at(within, Math.min(limit, parts[i]!.size - within));
    },
  };
}
