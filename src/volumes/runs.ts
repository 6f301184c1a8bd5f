/** Where a file's bytes lie: runs of the volume, in file order, in typed arrays. */
import type { Bytes } from '../base/contracts.ts';
import type { VolumeSource } from './source.ts';

/** Runs that one file may have: 96 MiB of memory at most. */
const MOST_RUNS = 4_194_304;
/** The place of a run that is known to read as zeros. */
const HOLE = -1;

export interface Run {
  readonly fileAt: Bytes;
  readonly length: Bytes;
  /** Offset in the volume; -1: zeros. */
  readonly at: Bytes;
}

export interface Runs {
  readonly count: number;
  run(index: number): Run;
  /** Index of the last run that starts at or before `fileAt`; -1: none. */
  find(fileAt: Bytes): number;
}

/** What no run covers reads as zeros. */
export interface RunsBuilder {
  add(fileAt: Bytes, length: Bytes, at: Bytes): void;
  hole(fileAt: Bytes, length: Bytes): void;
  /** In file order; runs that overlap are 'corrupt'. */
  done(): Runs;
}

export function runsBuilder(source: VolumeSource): RunsBuilder {
  let table = new Float64Array(3 * 8);
  let count = 0;
  let sorted = true;
  const add = (fileAt: Bytes, length: Bytes, at: Bytes): void => {
    source.check(Number.isSafeInteger(fileAt + length) && fileAt >= 0 && length > 0, 'a run of no sound length', at);
    if (count > 0) {
      const last = 3 * (count - 1);
      const end = table[last]! + table[last + 1]!;
      const follows = at === HOLE ? table[last + 2] === HOLE : table[last + 2]! + table[last + 1]! === at;
      if (end === fileAt && follows && (at === HOLE) === (table[last + 2] === HOLE)) {
        table[last + 1]! += length;
        return;
      }
      if (fileAt < end) sorted = false;
    }
    if (count === MOST_RUNS) throw source.unsupported(`a file in more than ${MOST_RUNS} pieces`);
    if (3 * count === table.length) {
      const grown = new Float64Array(2 * table.length);
      grown.set(table);
      table = grown;
    }
    table.set([fileAt, length, at], 3 * count);
    count++;
  };
  return {
    add(fileAt, length, at) {
      source.check(at >= 0 && at + length <= source.size, 'a file leads outside the volume', at);
      add(fileAt, length, at);
    },
    hole: (fileAt, length) => add(fileAt, length, HOLE),
    done() {
      if (!sorted) table = inOrder(table, count);
      for (let i = 3; i < 3 * count; i += 3) {
        source.check(table[i]! >= table[i - 3]! + table[i - 2]!, 'two runs of a file overlap', table[i + 2]!);
      }
      return sealed(table, count);
    },
  };
}

function inOrder(table: Float64Array, count: number): Float64Array<ArrayBuffer> {
  const order = Array.from({ length: count }, (_, i) => i).sort((a, b) => table[3 * a]! - table[3 * b]!);
  const out = new Float64Array(3 * count);
  for (const [to, from] of order.entries()) out.set(table.subarray(3 * from, 3 * from + 3), 3 * to);
  return out;
}

function sealed(table: Float64Array, count: number): Runs {
  return {
    count,
    run: index => ({ fileAt: table[3 * index]!, length: table[3 * index + 1]!, at: table[3 * index + 2]! }),
    find(fileAt) {
      let low = -1;
      let high = count - 1;
      while (low < high) {
        const middle = low + Math.ceil((high - low) / 2);
        if (table[3 * middle]! <= fileAt) low = middle;
        else high = middle - 1;
      }
      return low;
    },
  };
}
