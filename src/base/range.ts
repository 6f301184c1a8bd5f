/** Arithmetic on offsets. No 32-bit operators: `2**32 + 512 & ~511` is 512. */

export const roundUp = (n: number, unit: number): number => Math.ceil(n / unit) * unit;
export const roundDown = (n: number, unit: number): number => Math.floor(n / unit) * unit;
export const isPowerOfTwo = (n: number): boolean =>
  n > 0 && Number.isSafeInteger(n) && 2 ** Math.round(Math.log2(n)) === n;

/** Greatest index whose start is at or before `at`; -1 when there is none. */
export function lastAtOrBefore(starts: ArrayLike<number>, at: number): number {
  let low = -1;
  let high = starts.length - 1;
  while (low < high) {
    const middle = low + Math.ceil((high - low) / 2);
    if (starts[middle]! <= at) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Where each of several things begins that lie one after another, and the length of all. */
export function inRow(lengths: readonly number[]): { readonly starts: readonly number[]; readonly size: number } {
  const starts: number[] = [];
  let size = 0;
  for (const length of lengths) {
    starts.push(size);
    size += length;
  }
  return { starts, size };
}

const ZEROS = new Uint8Array(65536);

export function isZero(data: Uint8Array): boolean {
  for (let at = 0; at < data.length; at += ZEROS.length) {
    const part = data.subarray(at, at + ZEROS.length);
    if (Buffer.compare(part, part.length === ZEROS.length ? ZEROS : ZEROS.subarray(0, part.length)) !== 0) return false;
  }
  return true;
}

/** The runs of blocks of `unit` bytes that are not all zero, from where to where; the last block may be shorter. */
export function* filledRuns(data: Uint8Array, unit: number): Generator<readonly [from: number, to: number]> {
  for (let from = 0; from < data.length; ) {
    let to = from;
    while (to < data.length && !isZero(data.subarray(to, to + unit))) to += unit;
    if (to > from) yield [from, Math.min(to, data.length)];
    from = to + unit;
  }
}
