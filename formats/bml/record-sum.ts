/**
 * The record sum of a file (section 5): whether its records are those that the writer left, and where it left them. It needs no
 * key and is no authentication: it finds accidents, also to records that nothing refers to.
 */
import type { Bytes } from '../../src/base/contracts.ts';
import { ALIGN } from './structs.ts';

/** The halves begin with these, so that they are two sums. */
const SEEDS = [0x424d_4c31, 0x424d_4c32] as const;

/** The last step of MurmurHash3 (32 bits): each bit of the word decides about half of the result's. */
function mixed(word: number): number {
  let h = word;
  h = Math.imul(h ^ (h >>> 16), 0x85eb_ca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2_ae35);
  return h ^ (h >>> 16);
}

/** A number for the record with this header CRC at this place. Not linear: two records that change places must not cancel out. */
function term(seed: number, at: Bytes, headerCrc: number): number {
  const unit = at / ALIGN;
  const high = Math.floor(unit / 2 ** 32);
  const low = unit - high * 2 ** 32;
  return mixed(mixed(mixed(seed ^ low) ^ high) ^ headerCrc);
}

/** Sums over records in any order; each half is modulo 2^32. */
export class RecordSum {
  #low = 0;
  #high = 0;

  get low(): number {
    return this.#low;
  }

  get high(): number {
    return this.#high;
  }

  add(at: Bytes, headerCrc: number): void {
    this.#low = (this.#low + term(SEEDS[0], at, headerCrc)) >>> 0;
    this.#high = (this.#high + term(SEEDS[1], at, headerCrc)) >>> 0;
  }

  /** Another record takes the place. */
  remove(at: Bytes, headerCrc: number): void {
    this.#low = (this.#low - term(SEEDS[0], at, headerCrc)) >>> 0;
    this.#high = (this.#high - term(SEEDS[1], at, headerCrc)) >>> 0;
  }

  equals(other: Pick<RecordSum, 'low' | 'high'>): boolean {
    return this.#low === other.low && this.#high === other.high;
  }
}
