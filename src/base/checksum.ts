/** Checksums that Node does not have. CRC-32 (IEEE) is `zlib.crc32`. */

const POLYNOMIAL = 0x82f63b78;

/** Slicing by 16: the 256 entries from 256 k on give the effect of a byte followed by k zero bytes. */
const TABLE: Int32Array = (() => {
  const table = new Int32Array(16 * 256);
  for (let n = 0; n < 256; n++) {
    let c = n;
    for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ POLYNOMIAL : c >>> 1;
    table[n] = c;
  }
  for (let at = 256; at < table.length; at++) {
    const below = table[at - 256]!;
    table[at] = (below >>> 8) ^ table[below & 255]!;
  }
  return table;
})();

/** Words of memory are read as they are, which gives the bytes in order on little-endian machines only. */
const LITTLE_ENDIAN = new Uint8Array(Int32Array.of(1).buffer)[0] === 1;

function bytewise(data: Uint8Array, from: number, to: number, crc: number): number {
  for (let i = from; i < to; i++) crc = TABLE[(crc ^ data[i]!) & 255]! ^ (crc >>> 8);
  return crc;
}

/** CRC-32C (Castagnoli, RFC 3720 B.4) of `data`, continuing from `before`. */
export function crc32c(data: Uint8Array, before = 0): number {
  const head = Math.min(data.length, (4 - (data.byteOffset % 4)) % 4);
  const words = LITTLE_ENDIAN ? Math.floor((data.length - head) / 16) * 4 : 0;
  let crc = bytewise(data, 0, head, ~before);
  if (words > 0) {
    const w = new Int32Array(data.buffer, data.byteOffset + head, words);
    const t = TABLE;
    for (let i = 0; i < words; i += 4) {
      const a = crc ^ w[i]!;
      const b = w[i + 1]!;
      const c = w[i + 2]!;
      const d = w[i + 3]!;
      crc =
        t[3840 + (a & 255)]! ^
        t[3584 + ((a >>> 8) & 255)]! ^
        t[3328 + ((a >>> 16) & 255)]! ^
        t[3072 + (a >>> 24)]! ^
        t[2816 + (b & 255)]! ^
        t[2560 + ((b >>> 8) & 255)]! ^
        t[2304 + ((b >>> 16) & 255)]! ^
        t[2048 + (b >>> 24)]! ^
        t[1792 + (c & 255)]! ^
        t[1536 + ((c >>> 8) & 255)]! ^
        t[1280 + ((c >>> 16) & 255)]! ^
        t[1024 + (c >>> 24)]! ^
        t[768 + (d & 255)]! ^
        t[512 + ((d >>> 8) & 255)]! ^
        t[256 + ((d >>> 16) & 255)]! ^
        t[d >>> 24]!;
    }
  }
  return ~bytewise(data, head + words * 4, data.length, crc) >>> 0;
}

/** Adler-32 (RFC 1950, section 8.2) of `data`, continuing from `before`. */
export function adler32(data: Uint8Array, before = 1): number {
  let a = before & 0xffff;
  let b = before >>> 16;
  for (let at = 0; at < data.length; ) {
    // So many additions cannot pass 2^31 before the remainder is taken: numbers stay small integers.
    const end = Math.min(data.length, at + 3800);
    for (; at + 8 <= end; at += 8) {
      const d = data[at]!;
      const e = data[at + 1]!;
      const f = data[at + 2]!;
      const g = data[at + 3]!;
      const h = data[at + 4]!;
      const i = data[at + 5]!;
      const j = data[at + 6]!;
      const k = data[at + 7]!;
      b = (b + 8 * a + 8 * d + 7 * e + 6 * f + 5 * g + 4 * h + 3 * i + 2 * j + k) | 0;
      a = (a + d + e + f + g + h + i + j + k) | 0;
    }
    for (; at < end; at++) {
      a = (a + data[at]!) | 0;
      b = (b + a) | 0;
    }
    a %= 65521;
    b %= 65521;
  }
  return b * 65536 + a;
}
