/** One bound for what many holders keep in memory: a chain may have thousands of layers, each with pages of metadata. */
import type { Bytes } from './contracts.ts';
import { Recent } from './recent.ts';

export interface Holder {
  /** Pages that it has. */
  readonly size: number;
  /** Gives up the page that it used least recently; how much that was, 0 when there is nothing. */
  dropOldest(): Bytes;
}

/** A page counts so much at least: what describes it takes memory, too. */
const LEAST: Bytes = 1024;
const weightOf = (bytes: Bytes): Bytes => (bytes === 0 ? 0 : Math.max(bytes, LEAST));

interface Member {
  readonly holder: Holder;
  held: Bytes;
}

/**
 * When there is too much, those give up first who took something longest ago; what was taken last stays. A holder is known
 * here as long as it holds anything, also when its image is closed: it should refer to nothing but what it can give up.
 */
export class SharedBudget {
  readonly #limit: Bytes;
  /** In the order in which they last took something. */
  readonly #members = new Recent<number, Member>();
  #held: Bytes = 0;
  #next = 0;

  constructor(limit: Bytes) {
    this.#limit = limit;
  }

  get held(): Bytes {
    return this.#held;
  }

  /**
   * Returns what the holder has to call with the length of each page that it took, or as a negative number of one that it gave up
   * by itself.
   */
  join(holder: Holder): (bytes: Bytes) => void {
    const id = this.#next++;
    const member = { holder, held: 0 };
    return bytes => {
      const weight = Math.sign(bytes) * weightOf(Math.abs(bytes));
      member.held += weight;
      this.#held += weight;
      if (bytes < 0) return;
      this.#members.put(id, member);
      this.#shed(member);
    };
  }

  #shed(taker: Member): void {
    for (let next = this.#members.oldest; next !== null && this.#held > this.#limit; next = this.#members.oldest) {
      const member = next.value;
      const { holder } = member;
      // Whoever took it is about to look at it, and would load it again and again.
      if (member === taker && holder.size <= 1) return;
      const given = weightOf(holder.dropOldest());
      member.held -= given;
      this.#held -= given;
      if (holder.size === 0) this.#members.delete(next.key);
    }
  }
}

/** Pages of the metadata of every open image. */
export const METADATA = new SharedBudget(128 * 2 ** 20);
