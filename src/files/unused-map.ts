import type { Bytes } from '../base/contracts.ts';

/** Larger disks are divided into longer units: a map takes 16 MiB at most. */
const MOST_UNITS = 2 ** 27;

/** Which blocks of a disk nothing needs: a bit each, the lowest of a byte first. */
export interface UnusedBlocks {
  /** Length of what a bit stands for; a multiple of the block size that was asked for. */
  readonly unit: Bytes;
  readonly bits: Uint8Array<ArrayBuffer>;
}

export function noneUnused(size: Bytes, blockSize: Bytes): UnusedBlocks {
  let unit = blockSize;
  while (Math.ceil(size / unit) > MOST_UNITS) unit *= 2;
  return { unit, bits: new Uint8Array(Math.ceil(size / unit / 8)) };
}

/** Sets the bits of the units that lie wholly in a stretch; the last one may be cut short by the disk's end. */
export function addUnused({ unit, bits }: UnusedBlocks, size: Bytes, at: Bytes, length: Bytes): void {
  const end = at + length >= size ? Math.ceil(size / unit) : Math.floor((at + length) / unit);
  for (let i = Math.ceil(at / unit); i < end; ) {
    if (i % 8 === 0 && end - i >= 8) {
      const whole = Math.floor((end - i) / 8);
      bits.fill(0xff, i / 8, i / 8 + whole);
      i += whole * 8;
    } else {
      bits[Math.floor(i / 8)]! |= 1 << (i % 8);
      i++;
    }
  }
}

export function unusedBytes({ unit, bits }: UnusedBlocks, size: Bytes): Bytes {
  let count = 0;
  for (const byte of bits) for (let left = byte; left > 0; left &= left - 1) count++;
  const last = Math.ceil(size / unit) - 1;
  const cut = last >= 0 && ((bits[Math.floor(last / 8)]! >> (last % 8)) & 1) === 1 ? (last + 1) * unit - size : 0;
  return count * unit - cut;
}
