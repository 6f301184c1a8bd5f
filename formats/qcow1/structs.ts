/** QCOW version 1: QEMU `block/qcow.c`. Big-endian. */
import { magic, struct, u8, u32be, u64be, viewOf } from '../../src/base/struct.ts';

export const HEADER_SIZE = 48;
const MAGIC = 'QFI\xfb';

export const Header = struct('QCOW header', HEADER_SIZE, {
  magic: [0, magic(MAGIC)],
  version: [4, u32be],
  backingAt: [8, u64be],
  backingLength: [16, u32be],
  /** Of the backing file, when the image was made; 0 as a rule. */
  backingTime: [20, u32be],
  size: [24, u64be],
  clusterBits: [32, u8],
  tableBits: [33, u8],
  encryption: [36, u32be],
  firstAt: [40, u64be],
});
export type HeaderFields = ReturnType<typeof Header.parse>;

export const isQcow1 = (head: Uint8Array): boolean =>
  head.length >= HEADER_SIZE && viewOf(head).getUint32(0) === 0x514649fb && viewOf(head).getUint32(4) === 1;
