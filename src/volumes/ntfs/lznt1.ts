/** LZNT1. Source: [MS-XCA] 2.5. */
import type { VolumeSource } from '../source.ts';

const CHUNK = 4096;
const PACKED = 0x8000;

/** One chunk's tokens, from `from` to `to`; its bytes go to `at`. Returns where they end. */
function chunk(source: VolumeSource, packed: Buffer, from: number, to: number, out: Buffer, at: number): number {
  let read = from;
  let write = at;
  while (read < to) {
    let flags = packed[read++]!;
    for (let i = 0; i < 8 && read < to; i++, flags >>= 1) {
      if ((flags & 1) === 0) {
        source.check(write < out.length, 'compressed data unpacks to too much');
        out[write++] = packed[read++]!;
        continue;
      }
      source.check(read + 2 <= to && write > at, 'compressed data is damaged');
      const token = packed.readUInt16LE(read);
      read += 2;
      // The further into the chunk, the more bits the distance takes and the fewer the length.
      let bits = 4;
      while (1 << bits < write - at) bits++;
      const length = (token & (0xffff >> bits)) + 3;
      const distance = (token >> (16 - bits)) + 1;
      source.check(distance <= write - at && write + length <= out.length, 'compressed data is damaged');
      for (let k = 0; k < length; k++, write++) out[write] = out[write - distance]!;
    }
  }
  return write;
}

/** Unpacks into `out`, which is zeros before; data that ends early leaves the rest zeros, as the format says. */
export function lznt1(source: VolumeSource, packed: Buffer, out: Buffer): void {
  let at = 0;
  for (let pos = 0; pos + 2 <= packed.length && at < out.length; ) {
    const header = packed.readUInt16LE(pos);
    if (header === 0) return;
    const end = pos + 2 + (header & 0xfff) + 1;
    source.check(end <= packed.length, 'compressed data ends early');
    if ((header & PACKED) === 0) packed.copy(out, at, pos + 2, end);
    else chunk(source, packed, pos + 2, end, out, at);
    at += CHUNK;
    pos = end;
  }
}
