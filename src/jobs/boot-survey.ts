/**
 * Looks at the first sectors of a disk and tells how a machine would start it: BIOS or UEFI, sector size, and whether
 * it is a Windows disk. Sources: UEFI Specification 2.10, section 5 (MBR and GPT); a BIOS runs the code in the first
 * 440 bytes of sector 0.
 */
import type { ByteSource, Bytes } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { bytes, magic, struct, u8, u32le, u64le } from '../base/struct.ts';

export type Firmware = 'bios' | 'uefi';

export interface BootSurvey {
  /** null: neither boot code nor an EFI system partition. */
  readonly firmware: Firmware | null;
  /** What the partition table was written for. */
  readonly sectorSize: 512 | 4096;
  /** Windows partitions: the guest has AHCI drivers, but hardly virtio ones. */
  readonly windows: boolean;
}

const CODE_LENGTH = 440;
const TABLE_AT = 446;
const MAX_ENTRIES = 1024;
const LEGACY_BOOTABLE = 0x04;

const TYPE = {
  efiSystem: 'c12a7328-f81f-11d2-ba4b-00a0c93ec93b',
  biosBoot: '21686148-6449-6e6f-744e-656564454649',
  microsoftReserved: 'e3c9e316-0b5c-4db8-817d-f92df00215ae',
};
const MBR_NTFS = 0x07;
const MBR_EFI = 0xef;

const mbrEntry = struct('MBR partition', 16, {
  status: [0, u8],
  type: [4, u8],
  firstSector: [8, u32le],
  sectors: [12, u32le],
});

const gptHeader = struct('GPT header', 92, {
  signature: [0, magic('EFI PART')],
  entriesSector: [72, u64le],
  entryCount: [80, u32le],
  entrySize: [84, u32le],
});

const gptEntry = struct('GPT partition', 56, {
  type: [0, bytes(16)],
  firstSector: [32, u64le],
  attributes: [48, u8],
});

/** GUIDs are stored with their first three fields little-endian. */
export function guidText(raw: Uint8Array): string {
  const hex = (from: number, to: number, step: 1 | -1): string => {
    const part = [...raw.subarray(from, to)].map(byte => byte.toString(16).padStart(2, '0'));
    return (step === 1 ? part : part.reverse()).join('');
  };
  return [hex(0, 4, -1), hex(4, 6, -1), hex(6, 8, -1), hex(8, 10, 1), hex(10, 16, 1)].join('-');
}

interface GptPartition {
  readonly type: string;
  readonly legacyBootable: boolean;
}

/** The partitions of a GPT written for `sectorSize`; null when there is none, or one that makes no sense. */
async function readGpt(disk: ByteSource, sectorSize: Bytes): Promise<readonly GptPartition[] | null> {
  if (disk.size < 3 * sectorSize) return null;
  const sector = new Uint8Array(512);
  await disk.read(sector, sectorSize);
  if (new TextDecoder('latin1').decode(sector.subarray(0, 8)) !== 'EFI PART') return null;
  const header = gptHeader.parse(sector, 0, disk.name);
  const { entrySize, entryCount } = header;
  const at = header.entriesSector * sectorSize;
  if (entrySize < 128 || entrySize > 4096 || entryCount > MAX_ENTRIES || at + entryCount * entrySize > disk.size) {
    return null;
  }
  const table = new Uint8Array(entryCount * entrySize);
  await disk.read(table, at);
  const found: GptPartition[] = [];
  for (let i = 0; i < entryCount; i++) {
    const entry = gptEntry.parse(table, i * entrySize, disk.name);
    if (entry.type.every(byte => byte === 0)) continue;
    found.push({ type: guidText(entry.type), legacyBootable: (entry.attributes & LEGACY_BOOTABLE) !== 0 });
  }
  return found;
}

/**
 * A disk that starts both ways is said to be 'bios': that start is faster and needs no firmware file. On a GPT disk,
 * boot code counts only where something for it to load is marked (a BIOS boot partition, or the legacy attribute):
 * partitioning programs put code there that does no more than print a message.
 */
export async function surveyDisk(disk: ByteSource): Promise<BootSurvey> {
  if (disk.size < 512) throw new ImageError('not-this-format', 'too small for a disk', { file: disk.name });
  const first = new Uint8Array(512);
  await disk.read(first, 0);
  const signed = first[510] === 0x55 && first[511] === 0xaa;
  const code = signed && first.subarray(0, CODE_LENGTH).some(byte => byte !== 0);
  for (const sectorSize of [512, 4096] as const) {
    const partitions = await readGpt(disk, sectorSize);
    if (partitions === null) continue;
    const has = (type: string): boolean => partitions.some(partition => partition.type === type);
    const bios = code && (has(TYPE.biosBoot) || partitions.some(partition => partition.legacyBootable));
    const uefi = has(TYPE.efiSystem);
    return {
      firmware: bios ? 'bios' : uefi ? 'uefi' : code ? 'bios' : null,
      sectorSize,
      windows: has(TYPE.microsoftReserved),
    };
  }
  const types = signed ? [0, 1, 2, 3].map(i => mbrEntry.parse(first, TABLE_AT + i * 16, disk.name).type) : [];
  return {
    firmware: code ? 'bios' : types.includes(MBR_EFI) ? 'uefi' : null,
    sectorSize: 512,
    windows: types.includes(MBR_NTFS),
  };
}
