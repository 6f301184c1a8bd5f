/** LZO1X. Source: kernel documentation, "LZO stream format as understood by Linux' LZO decompressor". */
import type { VolumeSource } from '../source.ts';

const FIRST_LITERAL = 17;
/** After a run of literals of four and more, the shortest instruction means another match. */
const AFTER_LITERALS = 4;

/** Unpacks one segment into `out`; how many bytes it was. */
export function lzo1x(source: VolumeSource, packed: Buffer, out: Buffer): number {
  let read = 0;
  let write = 0;
  const literals = (count: number): void => {
    source.check(read + count <= packed.length && write + count <= out.length, 'compressed data is damaged');
    packed.copy(out, write, read, read + count);
    read += count;
    write += count;
  };
  const match = (distance: number, count: number): void => {
    source.check(distance <= write && write + count <= out.length, 'compressed data is damaged');
    for (let k = 0; k < count; k++, write++) out[write] = out[write - distance]!;
  };
  /** A length beyond what the instruction holds: each zero byte stands for 255 more. */
  const longer = (base: number): number => {
    let count = base;
    let byte = packed.readUInt8(read++);
    for (; byte === 0; byte = packed.readUInt8(read++)) count += 255;
    return count + byte;
  };
  let state = 0;
  if (packed.readUInt8(0) > FIRST_LITERAL) {
    const count = packed.readUInt8(read++) - FIRST_LITERAL;
    literals(count);
    state = Math.min(count, AFTER_LITERALS);
  }
  while (read < packed.length) {
    const token = packed[read++]!;
    if (token < 16 && state === 0) {
      literals(token > 0 ? token + 3 : longer(18));
      state = AFTER_LITERALS;
      continue;
    }
    let count: number;
    let distance: number;
    let next = token & 3;
    if (token < 16) {
      const far = state === AFTER_LITERALS;
      count = far ? 3 : 2;
      distance = (token >> 2) + packed.readUInt8(read++) * 4 + 1 + (far ? 2048 : 0);
    } else if (token < 64) {
      const low = token & (token < 32 ? 7 : 31);
      count = low > 0 ? low + 2 : longer(token < 32 ? 9 : 33);
      const word = packed.readUInt16LE(read);
      read += 2;
      next = word & 3;
      distance = (word >> 2) + 1;
      if (token < 32) {
        distance += 16_383 + ((token & 8) << 11);
        // The end of the stream is a match at a distance that no match has.
        if (distance === 16_384) return write;
      }
    } else {
      count = token < 128 ? 3 + ((token >> 5) & 1) : 5 + ((token >> 5) & 3);
      distance = packed.readUInt8(read++) * 8 + ((token >> 2) & 7) + 1;
    }
    match(distance, count);
    literals(next);
    state = next;
  }
  return write;
}
