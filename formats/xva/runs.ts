/** Blocks of one disk that are in the archive: runs of consecutive numbers at a constant distance from each other. */
import type { Bytes } from '../../src/base/contracts.ts';
import { lastAtOrBefore } from '../../src/base/range.ts';

export type Sum = 'none' | 'sha1' | 'xxhash';
const SUMS: readonly Sum[] = ['none', 'sha1', 'xxhash'];

export interface Block {
  readonly number: number;
  /** File offset and length of its data. */
  readonly at: Bytes;
  readonly length: Bytes;
  /** The checksum that stands behind it. */
  readonly sum: Sum;
}

/** Numbers per run: those of its first block, and what is the same for all of its blocks. */
const FIELDS = 5;
const NUMBER = 0;
const AT = 1;
const COUNT = 2;
const STRIDE = 3;
const LENGTH = 4;

export class BlockRuns {
  /** One entry of `FIELDS` numbers per run; the kind of checksum apart. */
  #runs = new Float64Array(FIELDS * 16);
  #sums = new Uint8Array(16);
  #starts = new Float64Array(16);
  #count = 0;
  /** Number of the last block that was seen, holes of length 0 among them; -1 before the first. */
  last = -1;

  get runs(): number {
    return this.#count;
  }

  /** Blocks come in ascending order. */
  add({ number, at, length, sum }: Block): void {
    this.last = number;
    const base = (this.#count - 1) * FIELDS;
    const kind = SUMS.indexOf(sum);
    if (this.#count > 0 && this.#sums[this.#count - 1] === kind && this.#runs[base + LENGTH] === length) {
      const count = this.#runs[base + COUNT]!;
      const distance = at - (this.#runs[base + AT]! + (count - 1) * this.#runs[base + STRIDE]!);
      const follows = number === this.#runs[base + NUMBER]! + count;
      if (follows && (count === 1 || distance === this.#runs[base + STRIDE])) {
        this.#runs[base + STRIDE] = distance;
        this.#runs[base + COUNT] = count + 1;
        return;
      }
    }
    this.#grow();
    this.#runs.set([number, at, 1, 0, length], this.#count * FIELDS);
    this.#starts[this.#count] = number;
    this.#sums[this.#count] = kind;
    this.#count++;
  }

  #grow(): void {
    if (this.#count < this.#starts.length) return;
    const runs = new Float64Array(this.#runs.length * 2);
    const starts = new Float64Array(this.#starts.length * 2);
    const sums = new Uint8Array(this.#sums.length * 2);
    runs.set(this.#runs);
    starts.set(this.#starts);
    sums.set(this.#sums);
    [this.#runs, this.#starts, this.#sums] = [runs, starts, sums];
  }

  /** The block of that number; null when it is not among those that were added. */
  find(number: number): Block | null {
    const run = lastAtOrBefore(this.#starts.subarray(0, this.#count), number);
    if (run < 0) return null;
    const base = run * FIELDS;
    const index = number - this.#starts[run]!;
    if (index >= this.#runs[base + COUNT]!) return null;
    const at = this.#runs[base + AT]! + index * this.#runs[base + STRIDE]!;
    return { number, at, length: this.#runs[base + LENGTH]!, sum: SUMS[this.#sums[run]!]! };
  }

  /** The first number behind `number` that a block was added for; null when there is none. */
  next(number: number): number | null {
    const run = lastAtOrBefore(this.#starts.subarray(0, this.#count), number) + 1;
    return run < this.#count ? this.#starts[run]! : null;
  }
}
