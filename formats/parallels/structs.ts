/** The header of a Parallels image: QEMU docs/interop/parallels.txt, "Header". Little-endian; a sector is 512 bytes. */
import type { Bytes } from '../../src/base/contracts.ts';
import { bytes, struct, u32le, u64le } from '../../src/base/struct.ts';

export const SECTOR = 512;
export const HEADER_SIZE = 64;
export const VERSION = 2;
/** Bit 0 of the flags: the image holds no data. */
export const FLAG_EMPTY = 1;
/** "in use" while a program has the image open for writing. */
export const IN_USE = 0x746f_6e59;

/** The magic decides the unit of the block table: sectors, or clusters. */
export const MAGIC = { sectors: 'WithoutFreeSpace', clusters: 'WithouFreSpacExt' } as const;
export type TableUnit = keyof typeof MAGIC;

export const Header = struct('Parallels header', HEADER_SIZE, {
  magic: [0, bytes(16)],
  version: [16, u32le],
  heads: [20, u32le],
  cylinders: [24, u32le],
  clusterSectors: [28, u32le],
  tableEntries: [32, u32le],
  sectors: [36, u64le],
  inUse: [44, u32le],
  dataSector: [48, u32le],
  flags: [52, u32le],
  extensionSector: [56, u64le],
});
export type HeaderFields = ReturnType<typeof Header.parse>;

/** null: no Parallels image. */
export function tableUnitOf(head: Uint8Array): TableUnit | null {
  const text = Buffer.from(head.subarray(0, 16)).toString('latin1');
  return text === MAGIC.sectors ? 'sectors' : text === MAGIC.clusters ? 'clusters' : null;
}

/** Size of the disk. With the older magic the upper half of the field means nothing. */
export const sizeOf = (header: HeaderFields, unit: TableUnit): Bytes =>
  (unit === 'sectors' ? header.sectors % 0x1_0000_0000 : header.sectors) * SECTOR;
