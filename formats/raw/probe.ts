/** Raw disks have no magic: what tells them is what lies on them, or their name. */
import { crc32 } from 'node:zlib';
import type { Bytes, Confidence } from '../../src/base/contracts.ts';
import { viewOf } from '../../src/base/struct.ts';
import { partNameOf, saysRaw } from './parts.ts';

export const RAW_EXTENSIONS = ['.raw', '.img', '.bin', '.dd'] as const;

const ascii = (head: Uint8Array, at: number, text: string): boolean => {
  if (at + text.length > head.length) return false;
  for (let i = 0; i < text.length; i++) if (head[at + i] !== text.charCodeAt(i)) return false;
  return true;
};

/** Signatures of partition tables and of volumes that fill a disk without one; offsets from their specifications. */
function hasDiskSignature(head: Uint8Array): boolean {
  if (head.length < 512) return false;
  const isBootSector = head[510] === 0x55 && head[511] === 0xaa;
  const isGpt = ascii(head, 512, 'EFI PART') || ascii(head, 4096, 'EFI PART');
  const isExt = head.length >= 1082 && viewOf(head).getUint16(1080, true) === 0xef53;
  const isVolume =
    ascii(head, 512, 'LABELONE') ||
    ascii(head, 0, 'LUKS\xba\xbe') ||
    ascii(head, 0, 'XFSB') ||
    ascii(head, 4086, 'SWAPSPACE2') ||
    ascii(head, 32769, 'CD001');
  return isBootSector || isGpt || isExt || isVolume;
}

const isText = (bytes: Uint8Array): boolean => bytes.every(b => (b >= 32 && b !== 127) || (b >= 9 && b <= 13));

/** By the name alone; a part of a disk that was cut goes by what it is a part of. */
function namedRaw(name: string): boolean {
  const part = partNameOf(name, RAW_EXTENSIONS);
  if (part === null) return saysRaw(name, RAW_EXTENSIONS);
  // The parts behind the first one hold anything; where the letters begin elsewhere it may be another ending.
  return part.index === 0 ? saysRaw(part.stem, RAW_EXTENSIONS) : part.by === 'numbers';
}

/** 'maybe' at best: any other format that knows its own magic goes first. */
export function probeRaw(head: Uint8Array, name: string): Confidence {
  if (head.length === 0 || isText(head)) return 'no';
  return hasDiskSignature(head) || namedRaw(name) ? 'maybe' : 'no';
}

/** 4096 where the partition table says so: the GPT header stands in the second sector. */
export const sectorSizeOf = (head: Uint8Array): 512 | 4096 =>
  !ascii(head, 512, 'EFI PART') && ascii(head, 4096, 'EFI PART') ? 4096 : 512;

/** Where the disk ends by its GPT (UEFI specification, 5.3.2): behind the backup header. null without a whole GPT. */
export function endByGpt(head: Uint8Array, sectorSize: 512 | 4096): Bytes | null {
  if (!ascii(head, sectorSize, 'EFI PART')) return null;
  const header = head.slice(sectorSize, sectorSize + 92);
  if (header.length < 92) return null;
  const view = viewOf(header);
  const sum = view.getUint32(16, true);
  view.setUint32(16, 0);
  if (view.getUint32(12, true) !== header.length || crc32(header) !== sum) return null;
  // Rounded where it is absurd: that is beyond the end of any disk all the same.
  return (Number(view.getBigUint64(32, true)) + 1) * sectorSize;
}
