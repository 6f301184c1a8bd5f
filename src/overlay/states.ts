/** One page of a presence map: two bits per block, 4 blocks per byte, lowest bits first. */
import type { Bytes } from '../base/contracts.ts';

/** Small enough that most guest writes are whole blocks, so that nothing has to be filled in from the base. */
export const BLOCK: Bytes = 4096;
/** Unit of map I/O and of what is kept in memory. */
export const PAGE: Bytes = 4096;
export const BLOCKS_PER_PAGE = PAGE * 4;
/** Guest bytes that one page speaks for: 64 MiB. */
export const PAGE_SPAN: Bytes = BLOCKS_PER_PAGE * BLOCK;

/** The base shows; the data file has the block; it reads as zeros, whatever base and data file hold. */
export const ABSENT = 0;
export const DATA = 1;
export const ZERO = 2;
export type State = typeof ABSENT | typeof DATA | typeof ZERO;

/** Four blocks of one state, as a byte. */
const FOUR = [0x00, 0x55, 0xaa] as const;

export const stateAt = (page: Uint8Array, index: number): State =>
  ((page[index >>> 2]! >>> ((index & 3) * 2)) & 3) as State;

/** How many blocks from `index` have the state of the first one; at most `limit`, which ends inside the page. */
export function runAt(page: Uint8Array, index: number, limit: number): number {
  const state = stateAt(page, index);
  const four = FOUR[state];
  const end = index + limit;
  let i = index + 1;
  while (i < end) {
    if ((i & 3) === 0 && end - i >= 4 && page[i >>> 2] === four) i += 4;
    else if (stateAt(page, i) === state) i++;
    else break;
  }
  return i - index;
}

/** Sets `count` blocks from `index`. */
export function setStates(page: Uint8Array, index: number, count: number, state: State): void {
  const end = index + count;
  let i = index;
  while (i < end) {
    if ((i & 3) === 0 && end - i >= 4) {
      const bytes = (end - i) >>> 2;
      page.fill(FOUR[state], i >>> 2, (i >>> 2) + bytes);
      i += bytes * 4;
    } else {
      const shift = (i & 3) * 2;
      page[i >>> 2] = (page[i >>> 2]! & ~(3 << shift)) | (state << shift);
      i++;
    }
  }
}

/** Blocks in state DATA. */
export function countData(page: Uint8Array): number {
  let count = 0;
  for (let i = 0; i < page.length; i++) {
    const four = page[i]!;
    if (four === 0) continue;
    const data = four & ~(four >>> 1) & 0x55;
    count += (data & 1) + ((data >>> 2) & 1) + ((data >>> 4) & 1) + (data >>> 6);
  }
  return count;
}

/** Byte of the first block whose bits name no state; -1 when all of them do. */
export function firstBadByte(page: Uint8Array): number {
  for (let i = 0; i < page.length; i++) {
    if ((page[i]! & (page[i]! >>> 1) & 0x55) !== 0) return i;
  }
  return -1;
}
