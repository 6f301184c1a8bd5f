import { madeSeed, volumeTarget } from '../volume-target.ts';

const ext = (options: string): string => `truncate -s 4M a; mke2fs -q -F -d tree ${options} a`;

// Without checksums, which would find nearly every change.
export const target = volumeTarget(['mke2fs'], async () => [
  madeSeed('ext4', ext('-t ext4 -O ^metadata_csum'), 'a'),
  madeSeed('ext4 with inline data', ext('-t ext4 -I 256 -O ^metadata_csum,inline_data'), 'a'),
  madeSeed('ext3', ext('-t ext3 -b 1024'), 'a'),
  madeSeed('ext2', ext('-t ext2 -b 1024'), 'a'),
]);
