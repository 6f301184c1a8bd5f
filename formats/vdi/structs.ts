/**
 * The header of a VDI file, version 1.1: VirtualBox `VDICore.h`, QEMU `block/vdi.c`. Little-endian; the text before the
 * signature is free. UUIDs have their first three fields in little-endian order.
 */
import { bytes, magic, struct, u32le, u64le } from '../../src/base/struct.ts';

export const SECTOR = 512;
export const HEADER_SIZE = 512;
/** 0xBEDA107F, as its bytes stand in the file. */
const SIGNATURE = '\x7f\x10\xda\xbe';
const SIGNATURE_AT = 64;
export const VERSION = 0x0001_0001;
/** Where the header's length, which does not count what stands before it, begins to count. */
export const LENGTH_FROM = 72;
/** Length of a 1.1 header with the geometry at its end; QEMU leaves that out and says 0x180. */
export const HEADER_LENGTH = 0x190;
const SHORTEST_HEADER = 0x180;

export { SHORTEST_HEADER };

export const IMAGE_TYPE = { dynamic: 1, static: 2, undo: 3, differencing: 4 } as const;

/** Map entries: a block that was never written to, and one that was discarded and reads as zeros. */
export const FREE = 0xffff_ffff;
export const DISCARDED = 0xffff_fffe;

export const Header = struct('VDI header', HEADER_SIZE, {
  text: [0, bytes(64)],
  signature: [SIGNATURE_AT, magic(SIGNATURE)],
  version: [68, u32le],
  headerLength: [72, u32le],
  imageType: [76, u32le],
  flags: [80, u32le],
  description: [84, bytes(256)],
  mapOffset: [340, u32le],
  dataOffset: [344, u32le],
  sectorSize: [360, u32le],
  diskSize: [368, u64le],
  blockSize: [376, u32le],
  blockExtra: [380, u32le],
  blocks: [384, u32le],
  blocksAllocated: [388, u32le],
  imageUuid: [392, bytes(16)],
  lastSnapUuid: [408, bytes(16)],
  linkUuid: [424, bytes(16)],
  parentUuid: [440, bytes(16)],
  geometrySector: [468, u32le],
});
export type HeaderFields = ReturnType<typeof Header.parse>;

export function hasSignature(head: Uint8Array): boolean {
  if (head.length < HEADER_SIZE) return false;
  for (let i = 0; i < SIGNATURE.length; i++) if (head[SIGNATURE_AT + i] !== SIGNATURE.charCodeAt(i)) return false;
  return true;
}

/** As VirtualBox prints it. */
export function uuidText(raw: Uint8Array): string {
  const hex = (from: number, to: number): string => Buffer.from(raw.subarray(from, to)).toString('hex');
  const turned = (from: number, to: number): string => Buffer.from(raw.slice(from, to).reverse()).toString('hex');
  return [turned(0, 4), turned(4, 6), turned(6, 8), hex(8, 10), hex(10, 16)].join('-');
}

export const isNull = (uuid: Uint8Array): boolean => uuid.every(byte => byte === 0);
