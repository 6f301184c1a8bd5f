import { crc32 } from 'node:zlib';
import { bitLockerImage, type Method, planFor } from '../../kit/bitlocker-image.ts';
import type { DamagedFiles } from '../damage.ts';
import type { Seed } from '../target.ts';
import { madeSeed, volumeTarget } from '../volume-target.ts';

const NAME = 'a';
const FAT = `truncate -s 4M ${NAME}; mkfs.fat -F 12 ${NAME} >/dev/null; rm tree/link tree/long; mcopy -s -Q -i ${NAME} tree/* ::`;
const SIZE = 2 ** 22;

/** The key is in the volume, as while the protection is suspended: stretching a secret takes longer than a case may. */
function seed(method: Method): Seed {
  const plain = madeSeed(method, FAT, NAME);
  const image = bitLockerImage(plain.files[NAME]!, { method, protectors: ['suspended'] });
  return { ...plain, files: { [NAME]: image } };
}

/** The checksums of all copies of the metadata. */
function repair(files: DamagedFiles): void {
  const file = files.file(NAME);
  if (file === undefined) return;
  for (const at of planFor(SIZE, { method: 'xts-128' }).areas) {
    if (at + 2048 > file.size) continue;
    const head = Buffer.from(file.read(at, 10));
    const length = head.readUInt16LE(8) * 16;
    if (length < 112 || length > 4096 || at + length + 8 > file.size) continue;
    const sum = Buffer.alloc(4);
    sum.writeUInt32LE(crc32(file.read(at, length)));
    file.write(at + length + 4, sum);
  }
}

export const target = volumeTarget(
  ['mkfs.fat', 'mcopy'],
  async () => (['xts-128', 'elephant-128', 'cbc-256'] as const).map(seed),
  repair,
);
