import type { Bytes, Extent, Layer } from '../base/contracts.ts';
import { lastAtOrBefore } from '../base/range.ts';

const REGION: Bytes = 16 * 2 ** 20;
/** Regions are kept up to this weight: a run weighs 1 (6 bytes), a region by itself about 40 of them. */
const WEIGHT_BUDGET = 2_000_000;
const REGION_WEIGHT = 40;
/** An extent is followed over so many regions in one answer. */
const EXTENT_REGIONS = 256;
/** No layer answers: reads as zeros. */
export const NOBODY = -1;

interface Region {
  readonly starts: Uint32Array;
  readonly owners: Int16Array;
}
interface Miss {
  readonly layer: Layer;
  readonly at: Bytes;
  readonly limit: Bytes;
}
export interface Owner {
  /** Position in the chain, base 0, or NOBODY. */
  readonly layer: number;
  readonly length: Bytes;
}

/**
 * Who answers for an offset, whatever the depth of the chain: per 16 MiB of disk the runs of equal owners, found by asking
 * the layers from the tip down on first use, then kept. So a read costs one search and not one question per layer.
 */
export class ChainIndex {
  readonly #layers: readonly Layer[];
  readonly #size: Bytes;
  readonly #regions = new Map<number, Region>();
  readonly #loading = new Map<number, Promise<void>>();
  #weight = 0;

  /** Base first. */
  constructor(layers: readonly Layer[]) {
    this.#layers = layers;
    this.#size = layers.at(-1)!.size;
  }

  /** null: call `load`. The length ends at a region's end at the latest. */
  ownerAt(at: Bytes, limit: Bytes): Owner | null {
    const number = Math.floor(at / REGION);
    const region = this.#regions.get(number) ?? this.#build(number);
    if (!('starts' in region)) return null;
    const within = at - number * REGION;
    const run = lastAtOrBefore(region.starts, within);
    const end = run + 1 < region.starts.length ? region.starts[run + 1]! : REGION;
    return { layer: region.owners[run]!, length: Math.min(limit, end - within) };
  }

  extent(at: Bytes, limit: Bytes): Extent | null {
    const first = this.ownerAt(at, limit);
    if (first === null) return null;
    const kind = first.layer === NOBODY ? 'zero' : 'data';
    let length = first.length;
    for (let regions = 0; length < limit && regions < EXTENT_REGIONS; regions++) {
      const next = this.ownerAt(at + length, limit - length);
      if (next === null || (next.layer === NOBODY ? 'zero' : 'data') !== kind) break;
      length += next.length;
    }
    return { kind, length };
  }

  load(at: Bytes): Promise<void> {
    const number = Math.floor(at / REGION);
    let loading = this.#loading.get(number);
    if (loading === undefined) {
      loading = this.#load(number).finally(() => this.#loading.delete(number));
      this.#loading.set(number, loading);
    }
    return loading;
  }

  async #load(number: number): Promise<void> {
    for (;;) {
      const built = this.#regions.get(number) ?? this.#build(number);
      if ('starts' in built) return;
      await built.layer.load(built.at, built.limit);
    }
  }

  /** Asks the tip first, and the layer below only where it is absent: runs come out in order. */
  #build(number: number): Region | Miss {
    const from = number * REGION;
    const to = Math.min(this.#size, from + REGION);
    const starts: number[] = [];
    const owners: number[] = [];
    const run = (at: Bytes, owner: number): void => {
      if (owners.at(-1) === owner) return;
      starts.push(at - from);
      owners.push(owner);
    };
    const walk = (index: number, begin: Bytes, end: Bytes): Miss | undefined => {
      const layer = this.#layers[index];
      const known = Math.min(end, layer?.size ?? 0);
      for (let at = begin; layer !== undefined && at < known; ) {
        const where = layer.locate(at, known - at);
        if (where === null) return { layer, at, limit: known - at };
        if (where.kind === 'absent') {
          const miss = walk(index - 1, at, at + where.length);
          if (miss !== undefined) return miss;
        } else run(at, where.kind === 'zero' ? NOBODY : index);
        at += where.length;
      }
      if (Math.max(begin, known) < end) run(Math.max(begin, known), NOBODY);
      return undefined;
    };
    const miss = walk(this.#layers.length - 1, from, to);
    if (miss !== undefined) return miss;
    const region = { starts: Uint32Array.from(starts), owners: Int16Array.from(owners) };
    this.#keep(number, region);
    return region;
  }

  #keep(number: number, region: Region): void {
    this.#regions.set(number, region);
    this.#weight += region.starts.length + REGION_WEIGHT;
    for (const [oldest, old] of this.#regions) {
      if (this.#weight <= WEIGHT_BUDGET || oldest === number) break;
      this.#regions.delete(oldest);
      this.#weight -= old.starts.length + REGION_WEIGHT;
    }
  }
}
