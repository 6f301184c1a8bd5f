import type { Bytes, Disk, Done, Extent, Layer, Location, Place } from '../base/contracts.ts';
import { inParts } from '../base/done.ts';
import { ImageError } from '../base/errors.ts';
import { ZEROS } from '../base/zeros.ts';
import { ReadAhead } from './ahead.ts';
import type { UnitCache } from './cache.ts';
import { ChainIndex, NOBODY, type Owner } from './index.ts';

export interface ChainSpec {
  /** Base first. */
  readonly layers: readonly Layer[];
  readonly id: string;
  readonly sectorSize: 512 | 4096;
  readonly cache: UnitCache;
}

/** A disk read through its chain of layers. The layers stay the caller's. */
export function chainDisk(spec: ChainSpec): Disk {
  const { layers, cache } = spec;
  const size = layers.at(-1)!.size;
  const owners = layers.map(layer => cache.register(layer));
  // One layer is its own index.
  const index = layers.length > 1 ? new ChainIndex(layers) : null;

  const ahead = readAhead({ spec, size, owners, index });
  /** Whether the read that is being looked at found something packed. */
  let packed = false;

  const fetchPart = (number: number, layer: Layer, where: Location, into: Uint8Array): Done => {
    switch (where.kind) {
      case 'plain':
        return where.source.read(into, where.at);
      case 'packed': {
        const { unit, within } = where;
        packed = true;
        const data = cache.peek(owners[number]!, unit);
        if (data !== undefined) return void into.set(data.subarray(within, within + into.length));
        if (cache.passes && into.length === layer.blockSize) {
          packed = false;
          return layer.unpack(unit, into);
        }
        const copy = (got: Uint8Array): void => into.set(got.subarray(within, within + into.length));
        return cache.fetch(owners[number]!, unit, layer.blockSize, out => layer.unpack(unit, out), copy);
      }
      case 'zero':
      case 'absent':
        into.fill(0);
    }
  };

  /** Reads what one answer covers, from `done` on; what has to be waited for goes to `wait`. Returns the new `done`. */
  const step = (into: Uint8Array, at: Bytes, done: number, wait: (work: Done) => void): number => {
    const guestAt = at + done;
    const left = into.length - done;
    const owner = index === null ? ONLY : index.ownerAt(guestAt, left);
    const length = owner === null ? 0 : Math.min(left, owner.length);
    if (owner?.layer === NOBODY) {
      into.fill(0, done, done + length);
      return done + length;
    }
    const layer = owner === null ? undefined : layers[owner.layer];
    const where = layer?.locate(guestAt, length) ?? null;
    if (where === null) {
      const loaded = layer === undefined ? index!.load(guestAt) : layer.load(guestAt, length);
      wait(loaded.then(() => read(into.subarray(done), guestAt)));
      return into.length;
    }
    wait(fetchPart(owner!.layer, layer!, where, into.subarray(done, done + where.length)));
    return done + where.length;
  };

  const read = (into: Uint8Array, at: Bytes): Done => {
    if (at < 0 || at + into.length > size) {
      throw new ImageError('out-of-range', `${into.length} bytes at ${at} are not inside the disk of ${size} bytes`);
    }
    packed = false;
    const filled = inParts(into.length, (done, wait) => step(into, at, done, wait));
    if (packed) ahead.saw(at, into.length);
    return filled;
  };
  const plain = (at: Bytes, length: Bytes): Place | null => {
    const owner = index === null ? ONLY : index.ownerAt(at, length);
    if (owner === null || owner.length < length) return null;
    if (owner.layer === NOBODY) return ZEROS;
    const where = layers[owner.layer]!.locate(at, length);
    if (where === null || where.length < length || where.kind === 'packed') return null;
    return where.kind === 'plain' ? where : ZEROS;
  };
  return {
    id: spec.id,
    size,
    sectorSize: spec.sectorSize,
    read,
    plain,
    extent: index === null ? (at, limit) => layerExtent(layers[0]!, at, limit) : (at, limit) => index.extent(at, limit),
    load: index === null ? (at, limit) => layers[0]!.load(at, limit) : at => index.load(at),
    deferred: () => layers.some(layer => layer.deferred?.() === true),
    async [Symbol.asyncDispose]() {},
  };
}

interface Chain {
  readonly spec: ChainSpec;
  readonly size: Bytes;
  readonly owners: readonly number[];
  readonly index: ChainIndex | null;
}

/** Fills the cache of the chain's disk before it is asked. */
function readAhead({ spec, size, owners, index }: Chain): ReadAhead {
  const { layers, cache } = spec;
  const wantedAt = (at: Bytes): { readonly owner: Owner; readonly where: Location } | null => {
    const owner = index === null ? ONLY : index.ownerAt(at, size - at);
    if (owner === null) return null;
    const length = Math.min(size - at, owner.length);
    const where = owner.layer === NOBODY ? ZERO(length) : layers[owner.layer]!.locate(at, length);
    return where === null ? null : { owner, where };
  };
  return new ReadAhead({
    size,
    budget: cache.budget,
    look(at) {
      const found = wantedAt(at);
      if (found === null) return null;
      const { owner, where } = found;
      const wanted = where.kind === 'packed' && !cache.has(owners[owner.layer]!, where.unit);
      return { length: where.length, unit: wanted ? layers[owner.layer]!.blockSize : 0 };
    },
    async begin(at) {
      const found = wantedAt(at);
      if (found?.where.kind === 'packed') {
        const { owner, where } = found;
        const layer = layers[owner.layer]!;
        await cache.fetch(
          owners[owner.layer]!,
          where.unit,
          layer.blockSize,
          out => layer.unpack(where.unit, out),
          IGNORE,
        );
      } else if (found === null) {
        const owner = index === null ? ONLY : index.ownerAt(at, size - at);
        await (owner === null ? index!.load(at) : layers[owner.layer]!.load(at, Math.min(size - at, owner.length)));
      }
    },
    may: () => cache.readsAhead,
    busy: now => {
      cache.ahead += now ? 1 : -1;
    },
  });
}

const IGNORE = (): void => {};
const ZERO = (length: Bytes): Location => ({ kind: 'zero', length });
const ONLY = { layer: 0, length: Number.MAX_SAFE_INTEGER } as const;

/** So many answers of a layer are put together at once: a large disk in small units would hold up all other work. */
const EXTENT_STEPS = 1024;

function layerExtent(layer: Layer, at: Bytes, limit: Bytes): Extent | null {
  let kind: Extent['kind'] | undefined;
  let length = 0;
  for (let step = 0; step < EXTENT_STEPS && length < limit; step++) {
    const where = layer.locate(at + length, limit - length);
    if (where === null) break;
    const its = where.kind === 'absent' || where.kind === 'zero' ? 'zero' : 'data';
    if (kind !== undefined && its !== kind) break;
    kind = its;
    length += where.length;
  }
  return kind === undefined ? null : { kind, length };
}
