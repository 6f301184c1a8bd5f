import { arrayMembers } from '../../kit/md-images.ts';
import type { Seed } from '../target.ts';
import { madeSeed, volumeTarget } from '../volume-target.ts';

function arrays(level: number, layout: number, members: number, version: '0.90' | '1.0' | '1.2'): Seed {
  const { files } = madeSeed('ext', 'truncate -s 2M a; mke2fs -q -F -t ext2 -b 1024 -d tree a', 'a');
  const content = Buffer.from(files.a!);
  const size = level === 1 ? content.length : Math.ceil(content.length / (members - 1) / 65_536) * 65_536;
  const legSizes = Array.from({ length: members }, () => size);
  const spec = { level, layout, members, chunk: 65_536, version, name: '1', legSizes };
  const images = arrayMembers(spec, content).map((image, i) => [`m${i}`, new Uint8Array(image)]);
  return { title: `level ${level}, ${version}`, name: 'm0', files: Object.fromEntries(images) };
}

export const target = volumeTarget(['mke2fs'], async () => [
  arrays(1, 0, 2, '1.2'),
  arrays(5, 2, 3, '1.0'),
  arrays(1, 0, 2, '0.90'),
]);
