/** The checksums behind each strip of blocks. */
import { crc32 } from 'node:zlib';
import { viewOf } from '../../src/base/struct.ts';
import type { SumKind } from './structs.ts';
import { type Digest, xxh3of128, xxh64 } from './xxhash.ts';

/** Only those of CRC-32 can go on from any strip: what they leave behind is the checksum itself. */
export const canContinue = (kind: SumKind): boolean => kind === 'crc32' || kind === 'first-byte-crc32';

/** CRC-32 without the inversion at the end; `feed` gives the state after some more data. */
function crcDigest(before: Uint8Array | null, feed: (data: Uint8Array, state: number) => number): Digest {
  let state = before === null ? 0 : ~viewOf(before).getUint32(0, true) >>> 0;
  return {
    update(data) {
      state = feed(data, state);
    },
    digest() {
      const sum = new Uint8Array(4);
      viewOf(sum).setUint32(0, ~state >>> 0, true);
      return sum;
    },
  };
}

/** Version 0001 takes the first byte of a block as often as the block is long, and nothing else of it. */
function firstByte(before: Uint8Array | null, blockSize: number): Digest {
  const same = new Uint8Array(blockSize);
  return crcDigest(before, (data, start) => {
    let state = start;
    for (let at = 0; at < data.length; at += blockSize) state = crc32(same.fill(data[at]!), state);
    return state;
  });
}

/** A new checksum; `before`: the one of the strip before, where it goes on from there. Parts are whole blocks. */
export function newSum(kind: Exclude<SumKind, 'none'>, blockSize: number, before: Uint8Array | null): Digest {
  switch (kind) {
    case 'crc32':
      return crcDigest(before, (data, state) => crc32(data, state));
    case 'first-byte-crc32':
      return firstByte(before, blockSize);
    case 'xxh64':
      return xxh64();
    case 'xxh128':
      return xxh3of128();
  }
}
