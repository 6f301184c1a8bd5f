import type { Bytes, Disk, Done, Extent, Layer, Location } from '../base/contracts.ts';
import { also, joined } from '../base/done.ts';
import { ImageError } from '../base/errors.ts';
import type { UnitCache } from './cache.ts';
import { ChainIndex, NOBODY } from './index.ts';

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
  const owners = layers.map(() => cache.register());
  // One layer is its own index.
  const index = layers.length > 1 ? new ChainIndex(layers) : null;

  const fetchPart = (number: number, layer: Layer, where: Location, into: Uint8Array): Done => {
    switch (where.kind) {
      case 'plain':
        return where.source.read(into, where.at);
      case 'packed': {
        const { unit, within } = where;
        const data = cache.peek(owners[number]!, unit);
        if (data !== undefined) return void into.set(data.subarray(within, within + into.length));
        return cache
          .fetch(owners[number]!, unit, layer.blockSize, out => layer.unpack(unit, out))
          .then(got => into.set(got.subarray(within, within + into.length)));
      }
      case 'zero':
      case 'absent':
        into.fill(0);
    }
  };

  const read = (into: Uint8Array, at: Bytes): Done => {
    if (at < 0 || at + into.length > size) {
      throw new ImageError('out-of-range', `${into.length} bytes at ${at} are not inside the disk of ${size} bytes`);
    }
    let pending: Promise<void>[] | undefined;
    for (let done = 0; done < into.length; ) {
      const guestAt = at + done;
      const owner = index === null ? ONLY : index.ownerAt(guestAt, into.length - done);
      const length = owner === null ? 0 : Math.min(into.length - done, owner.length);
      const nobody = owner?.layer === NOBODY;
      const layer = owner === null || nobody ? undefined : layers[owner.layer];
      const where: Location | null | undefined = nobody ? { kind: 'zero', length } : layer?.locate(guestAt, length);
      if (where === null || where === undefined) {
        const loaded = layer === undefined ? index!.load(guestAt) : layer.load(guestAt, length);
        const rest = into.subarray(done);
        pending = also(
          pending,
          loaded.then(() => read(rest, guestAt)),
        );
        break;
      }
      const part = into.subarray(done, done + where.length);
      done += where.length;
      try {
        const waiting = nobody ? void part.fill(0) : fetchPart(owner!.layer, layer!, where, part);
        if (waiting !== undefined) pending = also(pending, waiting);
      } catch (error) {
        // Earlier parts may still be on their way into the buffer: the error waits for them.
        if (pending === undefined) throw error;
        pending.push(Promise.reject(error));
        break;
      }
    }
    return joined(pending);
  };
  return {
    id: spec.id,
    size,
    sectorSize: spec.sectorSize,
    read,
    extent: index === null ? (at, limit) => layerExtent(layers[0]!, at, limit) : (at, limit) => index.extent(at, limit),
    load: index === null ? (at, limit) => layers[0]!.load(at, limit) : at => index.load(at),
    async [Symbol.asyncDispose]() {},
  };
}

const ONLY = { layer: 0, length: Number.MAX_SAFE_INTEGER } as const;

function layerExtent(layer: Layer, at: Bytes, limit: Bytes): Extent | null {
  let kind: Extent['kind'] | undefined;
  let length = 0;
  while (length < limit) {
    const where = layer.locate(at + length, limit - length);
    if (where === null) break;
    const its = where.kind === 'absent' || where.kind === 'zero' ? 'zero' : 'data';
    if (kind !== undefined && its !== kind) break;
    kind = its;
    length += where.length;
  }
  return kind === undefined ? null : { kind, length };
}
