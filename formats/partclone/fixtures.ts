/** partclone images for tests, written after its IMAGE_FORMATS.md, apart from the code that reads them. */
import { crc32 } from 'node:zlib';
import { type Digest, xxh3of128, xxh64 } from './xxhash.ts';

export interface Spec {
  readonly blockSize: number;
  readonly blocks: number;
  readonly mode: 0 | 32 | 48 | 49 | 255;
  readonly perSum: number;
  readonly reseed: boolean;
  readonly bitmap: 0 | 1 | 8;
  readonly deviceSize?: number;
}

export const contentOf = ({ blockSize, blocks, bitmap }: Spec): { used: boolean[]; data: Buffer } => {
  const used = Array.from({ length: blocks }, (_, b) => bitmap === 0 || (b * 7919) % 13 < 5 || (b > 40 && b < 90));
  const data = Buffer.alloc(blocks * blockSize);
  for (let b = 0; b < blocks; b++) {
    if (used[b]) for (let i = 0; i < blockSize; i++) data[b * blockSize + i] = (b * 31 + i * 7 + (i >> 8)) % 256;
  }
  return { used, data };
};

/** CRC-32 by the bit, as the document describes it; apart from the code that reads. */
function plainCrc(bytes: Iterable<number>, start: number): number {
  let crc = start;
  for (const byte of bytes) {
    crc ^= byte;
    for (let i = 0; i < 8; i++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return crc >>> 0;
}
const u32 = (value: number): Buffer => {
  const out = Buffer.alloc(4);
  out.writeUInt32LE(value);
  return out;
};

function sums({ mode, blockSize }: Spec): { add(block: Buffer): void; end(): Buffer; reset(): void } {
  let crc = 0xffff_ffff;
  let xx: Digest = mode === 49 ? xxh3of128() : xxh64();
  return {
    add(block) {
      if (mode === 32) crc = plainCrc(block, crc);
      else if (mode === 255) crc = plainCrc(new Array(blockSize).fill(block[0]!), crc);
      else xx.update(block);
    },
    end: () => (mode === 0 ? Buffer.alloc(0) : mode === 32 || mode === 255 ? u32(crc) : Buffer.from(xx.digest())),
    reset() {
      crc = 0xffff_ffff;
      xx = mode === 49 ? xxh3of128() : xxh64();
    },
  };
}

function dataOf(spec: Spec, wide: number): Buffer {
  const { used, data } = contentOf(spec);
  const out: Buffer[] = [];
  const sum = sums(spec);
  let inStrip = 0;
  for (const [b, isUsed] of used.entries()) {
    if (!isUsed) continue;
    const block = data.subarray(b * spec.blockSize, (b + 1) * spec.blockSize);
    out.push(block);
    sum.add(block);
    if (++inStrip < spec.perSum || spec.mode === 0) continue;
    out.push(sum.end(), Buffer.alloc(wide));
    if (spec.reseed) sum.reset();
    inStrip = 0;
  }
  if (inStrip > 0) out.push(sum.end());
  return Buffer.concat(out);
}

function bitmapOf(spec: Spec): Buffer {
  const { used } = contentOf(spec);
  if (spec.bitmap === 0) return Buffer.alloc(0);
  if (spec.bitmap === 8) return Buffer.concat([Buffer.from(used.map(Number)), Buffer.from('BiTmAgIc')]);
  const bits = Buffer.alloc(Math.ceil(used.length / 8));
  for (const [b, isUsed] of used.entries()) if (isUsed) bits[Math.floor(b / 8)]! |= 1 << (b % 8);
  return Buffer.concat([bits, u32(plainCrc(bits, 0xffff_ffff))]);
}

export function version2(spec: Spec): Buffer {
  const head = Buffer.alloc(110);
  head.write('partclone-image\0', 0, 'latin1');
  head.write('0.3.40', 16, 'latin1');
  head.write('0002', 30, 'latin1');
  head.writeUInt16LE(0xc0de, 34);
  head.write('EXTFS', 36, 'latin1');
  head.writeBigUInt64LE(BigInt(spec.deviceSize ?? spec.blocks * spec.blockSize), 52);
  head.writeBigUInt64LE(BigInt(spec.blocks), 60);
  head.writeUInt32LE(spec.blockSize, 84);
  head.writeUInt32LE(18, 88);
  head.writeUInt16LE(2, 92);
  head.writeUInt16LE(64, 94);
  head.writeUInt16LE(spec.mode, 96);
  head.writeUInt16LE({ 0: 0, 32: 4, 48: 8, 49: 16, 255: 4 }[spec.mode], 98);
  head.writeUInt32LE(spec.mode === 0 ? 0 : spec.perSum, 100);
  head.writeUInt8(spec.reseed ? 1 : 0, 104);
  head.writeUInt8(spec.bitmap, 105);
  head.writeUInt32LE(~crc32(head.subarray(0, 106)) >>> 0, 106);
  return Buffer.concat([head, bitmapOf(spec), dataOf(spec, 0)]);
}

export const OLD: Spec = { blockSize: 1024, blocks: 300, mode: 255, perSum: 1, reseed: false, bitmap: 8 };
export function version1(wide: number): Buffer {
  const head = Buffer.alloc(4160);
  head.write('partclone-image', 0, 'latin1');
  head.write('EXTFS', 15, 'latin1');
  head.write('0001', 30, 'latin1');
  head.writeUInt32LE(OLD.blockSize, 36);
  head.writeBigUInt64LE(BigInt(OLD.blocks * OLD.blockSize), 40);
  head.writeBigUInt64LE(BigInt(OLD.blocks), 48);
  head.writeBigUInt64LE(BigInt(contentOf(OLD).used.filter(Boolean).length), 56);
  return Buffer.concat([head, bitmapOf(OLD), dataOf(OLD, wide)]);
}
