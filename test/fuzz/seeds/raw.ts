import { crc32 } from 'node:zlib';
import { raw } from '../../../formats/raw/index.ts';
import type { DamagedFiles } from '../damage.ts';
import { adapterTarget, type Seed } from '../target.ts';

const PART = 16_384;
const PARTS = 4;

/** A protective MBR and the header of a GPT whose backup is in the last sector. */
function disk(sectorSize: 512 | 4096): Buffer {
  const bytes = Buffer.alloc(PART * PARTS - 5 * sectorSize);
  for (let at = 2 * sectorSize; at < bytes.length; at++) bytes[at] = at % 251;
  bytes.set([0x55, 0xaa], 510);
  bytes[450] = 0xee;
  bytes.write('EFI PART\0\0\x01\0', sectorSize, 'latin1');
  bytes.writeUInt32LE(92, sectorSize + 12);
  bytes.writeBigUInt64LE(1n, sectorSize + 24);
  bytes.writeBigUInt64LE(BigInt(bytes.length / sectorSize - 1), sectorSize + 32);
  return bytes;
}

/** The checksum of the GPT's header in the first part, where there is one. */
function repair(files: DamagedFiles): void {
  const first = files.file(files.names[0]!)!;
  for (const at of [512, 4096]) {
    const header = Buffer.from(first.read(at, 92));
    if (header.length < 92 || header.toString('latin1', 0, 8) !== 'EFI PART') continue;
    header.fill(0, 16, 20);
    header.writeUInt32LE(crc32(header), 16);
    first.write(at + 16, header.subarray(16, 20));
  }
}

function cut(title: string, content: Uint8Array, nameOf: (index: number) => string): Seed {
  const parts = Array.from({ length: PARTS }, (_, i) => [nameOf(i), content.slice(i * PART, (i + 1) * PART)] as const);
  return { title, name: nameOf(0), files: Object.fromEntries(parts) };
}

const seeds = async (): Promise<readonly Seed[]> => [
  cut('numbers', disk(512), i => `a.00${i + 1}`),
  cut('letters', disk(4096), i => `a.raw.a${'abcd'[i]}`),
  { title: 'one file', name: 'a.img', files: { 'a.img': disk(512).subarray(0, PART) } },
];

export const target = adapterTarget(raw, [], seeds, repair);
