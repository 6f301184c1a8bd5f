import type { Bytes, Extent, Layer } from '../base/contracts.ts';
import { lastAtOrBefore } from '../base/range.ts';
import { Recent } from '../base/recent.ts';

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
interface Ask {
  readonly layer: number;
  at: Bytes;
  readonly end: Bytes;
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
  readonly #regions = new Recent<number, Region>();
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
    if (region === null) return null;
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
    const builder = this.#builder(number);
    // Goes on where it stopped: a layer may forget what it loaded first before the region's end is reached.
    for (let step = builder.next(); ; step = builder.next()) {
      if (step.done === true) return this.#keep(number, step.value);
      await step.value.layer.load(step.value.at, step.value.limit);
    }
  }

  /** The region, when all that it needs is resident. */
  #build(number: number): Region | null {
    const step = this.#builder(number).next();
    if (step.done !== true) return null;
    this.#keep(number, step.value);
    return step.value;
  }

  /** Yields what has to be loaded before it can go on. */
  *#builder(number: number): Generator<Miss, Region> {
    const from = number * REGION;
    const starts: number[] = [];
    const owners: number[] = [];
    const run = (at: Bytes, owner: number): void => {
      if (owners.at(-1) === owner) return;
      starts.push(at - from);
      owners.push(owner);
    };
    // What is left to ask, innermost last: the tip first, and the layer below only where it is absent.
    const asks: Ask[] = [{ layer: this.#layers.length - 1, at: from, end: Math.min(this.#size, from + REGION) }];
    for (let ask = asks.at(-1); ask !== undefined; ask = asks.at(-1)) {
      const layer = this.#layers[ask.layer];
      if (ask.at >= ask.end) asks.pop();
      else if (layer === undefined || ask.at >= layer.size) {
        run(ask.at, NOBODY);
        ask.at = ask.end;
      } else {
        const at = ask.at;
        const limit = Math.min(ask.end, layer.size) - at;
        const where = layer.locate(at, limit);
        if (where === null) {
          yield { layer, at, limit };
          continue;
        }
        ask.at += where.length;
        if (where.kind === 'absent') asks.push({ layer: ask.layer - 1, at, end: at + where.length });
        else run(at, where.kind === 'zero' ? NOBODY : ask.layer);
      }
    }
    return { starts: Uint32Array.from(starts), owners: Int16Array.from(owners) };
  }

  #keep(number: number, region: Region): void {
    this.#regions.put(number, region);
    this.#weight += weightOf(region);
    for (let next = this.#regions.oldest; next !== null && this.#weight > WEIGHT_BUDGET; next = this.#regions.oldest) {
      if (next.key === number) break;
      this.#regions.delete(next.key);
      this.#weight -= weightOf(next.value);
    }
  }
}

const weightOf = ({ starts }: Region): number => starts.length + REGION_WEIGHT;
