/**
 * LZX as WIM files and CompactOS use it: chunks of 32 KiB, each by itself. Sources: [MS-PATCH] (bit stream and trees),
 * Microsoft, "Windows Imaging File Format" (call targets).
 */
import type { VolumeSource } from '../source.ts';
import { codeTable } from './xpress.ts';

const SLOTS = 30;
const MAIN_SYMBOLS = 256 + 8 * SLOTS;
const LENGTH_SYMBOLS = 249;
const PRETREE_SYMBOLS = 20;
const LONGEST_CODE = 16;
const PRETREE_BITS = 15;
const ALIGNED_BITS = 7;
const BLOCK_ALIGNED = 2;
const BLOCK_PLAIN = 3;
const WHOLE_CHUNK = 32_768;

const SLOT_BASE: number[] = [];
const SLOT_BITS: number[] = [];
for (let slot = 0, base = 0; slot < SLOTS; slot++) {
  const bits = slot < 4 ? 0 : Math.min(17, (slot >> 1) - 1);
  SLOT_BASE.push(base);
  SLOT_BITS.push(bits);
  base += 2 ** bits;
}

/** Bits from the top of 16-bit words. */
class Bits {
  readonly #source: VolumeSource;
  readonly #from: Buffer;
  #at = 0;
  #word = 0;
  #have = 0;

  constructor(source: VolumeSource, from: Buffer) {
    this.#source = source;
    this.#from = from;
  }

  peek(count: number): number {
    while (this.#have < count) {
      const next = this.#at + 2 <= this.#from.length ? this.#from.readUInt16LE(this.#at) : 0;
      this.#word = this.#word * 0x1_0000 + next;
      this.#at += 2;
      this.#have += 16;
      this.#source.check(this.#at <= this.#from.length + 8, 'compressed data ends early');
    }
    return Math.floor(this.#word / 2 ** (this.#have - count));
  }

  drop(count: number): void {
    this.#have -= count;
    this.#word %= 2 ** this.#have;
  }

  take(count: number): number {
    if (count === 0) return 0;
    const value = this.peek(count);
    this.drop(count);
    return value;
  }

  symbol(table: Uint16Array, bits: number): number {
    const code = table[this.peek(bits)]!;
    this.#source.check(code !== 0, 'compressed data is damaged');
    this.drop(code & 31);
    return code >> 5;
  }

  /** Bytes from the next word boundary on; a whole word is left out when it is there already. */
  plain(length: number): Buffer {
    if (this.#have === 0) this.#at += 2;
    this.#have = 0;
    this.#word = 0;
    this.#source.check(this.#at + length <= this.#from.length, 'compressed data ends early');
    const bytes = this.#from.subarray(this.#at, this.#at + length);
    this.#at += Math.ceil(length / 2) * 2;
    return bytes;
  }
}

/** Reads code lengths, which are written as differences to those of the block before. */
function readLengths(source: VolumeSource, bits: Bits, lengths: Uint8Array, from: number, to: number): void {
  const pre = new Uint8Array(PRETREE_SYMBOLS);
  for (let i = 0; i < PRETREE_SYMBOLS; i++) pre[i] = bits.take(4);
  const table = codeTable(source, pre, PRETREE_BITS);
  for (let i = from; i < to; ) {
    const symbol = bits.symbol(table, PRETREE_BITS);
    if (symbol < 17) {
      lengths[i] = (lengths[i]! - symbol + 17) % 17;
      i++;
      continue;
    }
    let run = 0;
    let value = 0;
    if (symbol === 17) run = 4 + bits.take(4);
    else if (symbol === 18) run = 20 + bits.take(5);
    else {
      run = 4 + bits.take(1);
      const difference = bits.symbol(table, PRETREE_BITS);
      source.check(difference < 17, 'compressed data is damaged');
      value = (lengths[i]! - difference + 17) % 17;
    }
    source.check(i + run <= to, 'compressed data is damaged');
    lengths.fill(value, i, i + run);
    i += run;
  }
}

/** x86 call targets were made absolute, which compresses better. */
function restoreCalls(out: Buffer): void {
  const FILE_SIZE = 12_000_000;
  for (let i = 0; i < out.length - 10; i++) {
    if (out[i] !== 0xe8) continue;
    const target = out.readInt32LE(i + 1);
    if (target >= -i && target < FILE_SIZE) out.writeInt32LE(target >= 0 ? target - i : target + FILE_SIZE, i + 1);
    i += 4;
  }
}

interface State {
  readonly out: Buffer;
  write: number;
  /** The last three distances. */
  readonly recent: [number, number, number];
}

/** The distance of a match, which also moves the last three along. */
function distanceOf(bits: Bits, slot: number, aligned: Uint16Array | null, { recent }: State): number {
  if (slot < 3) {
    const distance = recent[slot]!;
    recent[slot] = recent[0];
    recent[0] = distance;
    return distance;
  }
  const extra = SLOT_BITS[slot]!;
  let distance = SLOT_BASE[slot]! - 2;
  if (aligned !== null && extra >= 3) {
    distance += bits.take(extra - 3) * 8;
    distance += bits.symbol(aligned, ALIGNED_BITS);
  } else distance += bits.take(extra);
  recent[2] = recent[1];
  recent[1] = recent[0];
  recent[0] = distance;
  return distance;
}

interface Codes {
  readonly main: Uint16Array;
  readonly length: Uint16Array;
  readonly aligned: Uint16Array | null;
}

function matches(source: VolumeSource, bits: Bits, codes: Codes, state: State, end: number): void {
  const { out } = state;
  while (state.write < end) {
    const symbol = bits.symbol(codes.main, LONGEST_CODE);
    if (symbol < 256) {
      out[state.write++] = symbol;
      continue;
    }
    let length = ((symbol - 256) & 7) + 2;
    if (length === 9) length += bits.symbol(codes.length, LONGEST_CODE);
    const distance = distanceOf(bits, (symbol - 256) >> 3, codes.aligned, state);
    source.check(distance > 0 && distance <= state.write && state.write + length <= end, 'compressed data is damaged');
    for (let k = 0; k < length; k++, state.write++) out[state.write] = out[state.write - distance]!;
  }
}

export function lzx(source: VolumeSource, packed: Buffer, size: number): Buffer {
  const state: State = { out: Buffer.alloc(size), write: 0, recent: [1, 1, 1] };
  const bits = new Bits(source, packed);
  const main = new Uint8Array(MAIN_SYMBOLS);
  const lengths = new Uint8Array(LENGTH_SYMBOLS);
  while (state.write < size) {
    const type = bits.take(3);
    const length = bits.take(1) === 1 ? WHOLE_CHUNK : bits.take(16);
    const end = state.write + length;
    source.check(length > 0 && end <= size && type >= 1 && type <= BLOCK_PLAIN, 'compressed data is damaged');
    if (type === BLOCK_PLAIN) {
      const bytes = bits.plain(12 + length);
      for (const i of [0, 1, 2] as const) state.recent[i] = bytes.readUInt32LE(4 * i);
      bytes.copy(state.out, state.write, 12);
      state.write = end;
      continue;
    }
    let aligned: Uint16Array | null = null;
    if (type === BLOCK_ALIGNED) {
      aligned = codeTable(
        source,
        Uint8Array.from({ length: 8 }, () => bits.take(3)),
        ALIGNED_BITS,
      );
    }
    readLengths(source, bits, main, 0, 256);
    readLengths(source, bits, main, 256, MAIN_SYMBOLS);
    readLengths(source, bits, lengths, 0, LENGTH_SYMBOLS);
    const tables = { main: codeTable(source, main, LONGEST_CODE), length: codeTable(source, lengths, LONGEST_CODE) };
    matches(source, bits, { ...tables, aligned }, state, end);
  }
  restoreCalls(state.out);
  return state.out;
}
