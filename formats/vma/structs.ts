/**
 * Structures of VMA archives: vma_spec.txt and vma.h of Proxmox VE's QEMU. Big-endian, except the lengths of blobs.
 */
import { createHash } from 'node:crypto';
import type { Bytes } from '../../src/base/contracts.ts';
import { bytes, magic, struct, u8, u16be, u32be, u64be } from '../../src/base/struct.ts';

export const CLUSTER: Bytes = 65_536;
export const PIECE: Bytes = 4_096;
export const PIECES = CLUSTER / PIECE;
/** Entries of one extent. */
export const SLOTS = 59;
export const EXTENT_HEADER: Bytes = 512;
/** The header without its blobs. */
export const HEADER: Bytes = 12_288;
export const DEVICES = 256;
export const DEVICE_TABLE: Bytes = 4_096;
export const CONFIG_NAMES: Bytes = 2_044;
export const CONFIG_DATA: Bytes = 3_068;

export const Header = struct('VMA header', HEADER, {
  magic: [0, magic('VMA\0')],
  version: [4, u32be],
  uuid: [8, bytes(16)],
  created: [24, u64be],
  md5: [32, bytes(16)],
  blobAt: [48, u32be],
  blobSize: [52, u32be],
  headerSize: [56, u32be],
});
export type HeaderFields = ReturnType<typeof Header.parse>;

export const Device = struct('VMA device', 32, { nameAt: [0, u32be], size: [8, u64be] });

export const Extent = struct('VMA extent', EXTENT_HEADER, {
  magic: [0, magic('VMAE')],
  reserved: [4, u16be],
  pieces: [6, u16be],
  uuid: [8, bytes(16)],
  md5: [24, bytes(16)],
});

/** Entry of an extent: `slot` counts from 0. A device of 0 marks an unused slot. */
export const Entry = struct('VMA extent entry', 8, { mask: [0, u16be], device: [3, u8], cluster: [4, u32be] });
export const entryAt = (slot: number): number => 40 + slot * Entry.size;

/** Whether the MD5 at `md5At` is that of `raw` with those 16 bytes zero. */
export function md5Holds(raw: Uint8Array, md5At: number): boolean {
  const digest = createHash('md5')
    .update(raw.subarray(0, md5At))
    .update(new Uint8Array(16))
    .update(raw.subarray(md5At + 16))
    .digest();
  return Buffer.compare(digest, raw.subarray(md5At, md5At + 16)) === 0;
}

/** Set bits of a 16-bit mask. */
export function popcount(mask: number): number {
  let n = mask - ((mask >> 1) & 0x5555);
  n = (n & 0x3333) + ((n >> 2) & 0x3333);
  n = (n + (n >> 4)) & 0x0f0f;
  return (n + (n >> 8)) & 0x1f;
}
