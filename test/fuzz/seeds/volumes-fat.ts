import { madeSeed, volumeTarget } from '../volume-target.ts';

const fat = (size: string, options: string): string =>
  `truncate -s ${size} a; mkfs.fat ${options} a >/dev/null; rm tree/link tree/long; mcopy -s -Q -i a tree/* ::`;

export const target = volumeTarget(['mkfs.fat', 'mcopy'], async () => [
  madeSeed('FAT12', fat('2M', '-F 12'), 'a'),
  madeSeed('FAT16', fat('9M', '-F 16 -s 1'), 'a'),
  madeSeed('FAT32', fat('34M', '-F 32 -s 1'), 'a'),
]);
