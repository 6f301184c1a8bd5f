/**
 * Going through a folder of a backup. Whoever has listed one asks for its names one after the other, in their order or as `sort`
 * would put them, and each question to the parser costs a way there and back: so others are asked for together with one.
 */
import type { ImageError } from '../base/errors.ts';
import { BATCH, type PointDir, type PointNode } from '../files/point-files.ts';

/** Of folders with no more names what was fetched stays until it is asked for, so their order does not matter. */
export const WHOLE = 16_384;
/** So many names out of their order may be all that somebody wants to know. */
const FEW = 2;

export class Scan {
  readonly #names: readonly string[];
  readonly #ahead = new Map<string, PointNode | ImageError>();
  /** Place of the first name that was not asked for in the order of the list. */
  #next = 0;
  #strays = 0;

  /** `names`: as the folder lists them. */
  constructor(names: readonly string[]) {
    this.#names = names;
  }

  /** What was fetched together with another name, once; undefined: it was not. */
  take(name: string): PointNode | ImageError | undefined {
    const known = this.#ahead.get(name);
    this.#ahead.delete(name);
    return known;
  }

  /** Fetches a name with others; null: it is to be asked for alone. */
  async ask(dir: Pick<PointDir, 'children'>, name: string): Promise<PointNode | ImageError | null> {
    const from = this.#batchFor(name);
    if (from === null) return null;
    const batch = this.#names.slice(from, from + BATCH);
    const nodes = await dir.children(batch);
    if (this.#names.length > WHOLE) this.#ahead.clear();
    for (const [i, node] of nodes.entries()) this.#ahead.set(batch[i]!, node);
    return this.take(name) ?? null;
  }

  #batchFor(name: string): number | null {
    const names = this.#names;
    const next = this.#next;
    if (names[next] === name) {
      this.#next = Math.min(next + BATCH, names.length);
      return next;
    }
    if (names.length > WHOLE || this.#strays++ < FEW) return null;
    const at = names.indexOf(name);
    return at < 0 ? null : at - (at % BATCH);
  }
}
