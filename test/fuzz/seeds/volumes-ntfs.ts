import { madeSeed, volumeTarget } from '../volume-target.ts';

const ntfs = (options: string): string =>
  `truncate -s 4M a; mkntfs -F -q -Q ${options} a 2>/dev/null >&2; mkdir m; ntfs-3g -o compression a m
   mkdir m/packed; setfattr -h -n system.ntfs_attrib_be -v 0x00000800 m/packed
   cp -r tree/* m; cp tree/a/b/c/text m/packed; setfattr -n user.stream -v hello m/holes
   i=0; while [ $i -lt 60 ]; do printf %3000s $i >> m/p1; printf %3000s $i >> m/p2; i=$((i+1)); done; umount m`;

export const target = volumeTarget(['mkntfs', 'ntfs-3g', 'setfattr'], async () => [
  madeSeed('clusters of 4096', ntfs('-c 4096'), 'a'),
  madeSeed('clusters of 512', ntfs('-c 512'), 'a'),
]);
