/** XPRESS with Huffman codes. Source: [MS-XCA] 2.1, 2.2. */
import type { VolumeSource } from '../source.ts';

const SYMBOLS = 512;
const LONGEST_CODE = 15;
const TABLE_BYTES = 256;
/** So much is unpacked with one set of codes. */
const BLOCK = 65_536;

/** Canonical codes for a direct look-up of `bits` bits: symbol × 32 + length; 0: no such code. */
export function codeTable(source: VolumeSource, lengths: Uint8Array, bits: number): Uint16Array {
  const table = new Uint16Array(2 ** bits);
  let at = 0;
  for (let length = 1; length <= bits; length++) {
    const span = 2 ** (bits - length);
    for (let symbol = 0; symbol < lengths.length; symbol++) {
      if (lengths[symbol] !== length) continue;
      source.check(at + span <= table.length, 'the codes of compressed data are damaged');
      table.fill(symbol * 32 + length, at, at + span);
      at += span;
    }
  }
  return table;
}

class Bits {
  readonly #from: Buffer;
  /** Where the next byte or word is taken from. */
  at: number;
  #word: number;
  #extra = 16;

  constructor(from: Buffer, at: number) {
    this.#from = from;
    this.at = at;
    this.#word = 0;
    this.#word = (this.#next() * 0x1_0000 + this.#next()) >>> 0;
  }

  /** Past the end there are zeros: the last codes may be followed by less than a word. */
  #next(): number {
    const word = this.at + 2 <= this.#from.length ? this.#from.readUInt16LE(this.at) : 0;
    this.at += 2;
    return word;
  }

  peek(count: number): number {
    return count === 0 ? 0 : this.#word >>> (32 - count);
  }

  drop(count: number): void {
    if (count === 0) return;
    this.#word = (this.#word << count) >>> 0;
    this.#extra -= count;
    if (this.#extra >= 0) return;
    this.#word = (this.#word | (this.#next() << -this.#extra)) >>> 0;
    this.#extra += 16;
  }
}

/** The rest of a match's length beyond the 15 that its symbol can say; it lies between the words of bits. */
function longLength(source: VolumeSource, packed: Buffer, bits: Bits): number {
  let length = packed.readUInt8(bits.at);
  bits.at += 1;
  if (length === 255) {
    length = packed.readUInt16LE(bits.at);
    bits.at += 2;
    if (length === 0) {
      length = packed.readUInt32LE(bits.at);
      bits.at += 4;
    }
    source.check(length >= 15, 'compressed data is damaged');
    length -= 15;
  }
  return length + 15;
}

export function xpressHuffman(source: VolumeSource, packed: Buffer, size: number): Buffer {
  const out = Buffer.allocUnsafe(size);
  const lengths = new Uint8Array(SYMBOLS);
  let write = 0;
  let read = 0;
  while (write < size) {
    source.check(read + TABLE_BYTES + 4 <= packed.length, 'compressed data ends early');
    for (let i = 0; i < TABLE_BYTES; i++) {
      lengths[2 * i] = packed[read + i]! & 15;
      lengths[2 * i + 1] = packed[read + i]! >> 4;
    }
    const codes = codeTable(source, lengths, LONGEST_CODE);
    const bits = new Bits(packed, read + TABLE_BYTES);
    const stop = Math.min(size, write + BLOCK);
    while (write < stop) {
      const code = codes[bits.peek(LONGEST_CODE)]!;
      source.check(code !== 0 && bits.at <= packed.length + 8, 'compressed data is damaged');
      bits.drop(code & 31);
      const symbol = code >> 5;
      if (symbol < 256) {
        out[write++] = symbol;
        continue;
      }
      const short = symbol & 15;
      const length = (short === 15 ? longLength(source, packed, bits) : short) + 3;
      const distanceBits = (symbol - 256) >> 4;
      const distance = 2 ** distanceBits + bits.peek(distanceBits);
      bits.drop(distanceBits);
      source.check(distance <= write && write + length <= size, 'compressed data is damaged');
      for (let k = 0; k < length; k++, write++) out[write] = out[write - distance]!;
    }
    read = bits.at;
  }
  return out;
}
