/** Snappy blocks (google/snappy, format_description.txt): the raw form, without a frame around it. */

const bad = (why: string): never => {
  throw new RangeError(why);
};

/** The length that comes out, and where the elements begin. Throws RangeError where there is none. */
export function snappyLength(packed: Uint8Array): { readonly length: number; readonly at: number } {
  let length = 0;
  for (let at = 0, scale = 1; at < 5 && at < packed.length; at++, scale *= 128) {
    const byte = packed[at]!;
    length += (byte % 128) * scale;
    if (byte < 128) return length < 2 ** 32 ? { length, at: at + 1 } : bad('a length beyond 32 bits');
  }
  return bad('the length is cut off');
}

/**
 * Decompresses one block to the start of `out`, which may be longer. Gives how much came out. Throws RangeError where the
 * block makes no sense or `out` is too short.
 */
export function snappyBlock(packed: Uint8Array, out: Uint8Array): number {
  const { length: end, at: first } = snappyLength(packed);
  if (end > out.length) bad(`${end} bytes come out`);
  const last = packed.length;
  let at = first;
  let to = 0;
  while (at < last) {
    const tag = packed[at++]!;
    if ((tag & 3) === 0) {
      let length = (tag >> 2) + 1;
      if (length > 60) {
        const bytes = length - 60;
        if (at + bytes > last) bad('a length is cut off');
        length = packed[at]! + 1;
        for (let i = 1, scale = 256; i < bytes; i++, scale *= 256) length += packed[at + i]! * scale;
        at += bytes;
      }
      if (at + length > last || to + length > end) bad('a literal run leaves the block');
      if (length > 32) out.set(packed.subarray(at, at + length), to);
      else for (let i = 0; i < length; i++) out[to + i] = packed[at + i]!;
      at += length;
      to += length;
      continue;
    }
    let length = (tag >> 2) + 1;
    let distance: number;
    const wide = tag & 3;
    if (at + (wide === 3 ? 4 : wide) > last) bad('an offset is cut off');
    if (wide === 1) {
      length = ((tag >> 2) & 7) + 4;
      distance = ((tag >> 5) << 8) | packed[at]!;
      at += 1;
    } else if (wide === 2) {
      distance = packed[at]! | (packed[at + 1]! << 8);
      at += 2;
    } else {
      distance = packed[at]! + packed[at + 1]! * 256 + packed[at + 2]! * 65_536 + packed[at + 3]! * 16_777_216;
      at += 4;
    }
    if (distance === 0 || distance > to || to + length > end) bad('a copy leaves the block');
    // A call costs more than the few bytes that one copy can have.
    for (const stop = to + length; to < stop; to++) out[to] = out[to - distance]!;
  }
  return to === end ? end : bad(`${to} of ${end} bytes come out`);
}
