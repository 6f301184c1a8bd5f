import { madeSeed, volumeTarget } from '../volume-target.ts';

const on = (script: string): string =>
  `truncate -s 1M e; mke2fs -q -F -t ext2 -b 1024 e; truncate -s 8M a; printf '${script}' | sfdisk -q a
   dd if=e of=a bs=1M seek=1 conv=notrunc status=none`;

export const target = volumeTarget(['sfdisk', 'mke2fs'], async () => [
  madeSeed('MBR', on('label: dos\\n2048,1M,83\\n,5M,5\\n,1M,83\\n,1M,b\\n,1M,83\\n'), 'a'),
  madeSeed('GPT', on('label: gpt\\n2048,1M\\n,1M\\n,1M\\n'), 'a'),
]);
