import { adapterKit } from '../../test/kit/adapter-kit.ts';
import { partclone } from './index.ts';

/** Where the data starts in an image of version 0002 with a bitmap of bits. */
function dataAt(file: Uint8Array): number {
  const blocks = Number(Buffer.from(file).readBigUInt64LE(60));
  return 110 + Math.ceil(blocks / 8) + 4;
}
const checked = (file: Uint8Array) => [
  { at: 0, length: dataAt(file), checked: true },
  { at: dataAt(file), length: file.length - dataAt(file), checked: true },
];

adapterKit(partclone, {
  images: [
    { sample: 'partclone/generated/e4.pcl.zst', structures: checked },
    { sample: 'partclone/generated/e4-k16.pcl.zst', structures: checked },
    {
      sample: 'partclone/generated/e4-nocsum.pcl.zst',
      structures: file => [{ at: 0, length: dataAt(file), checked: true }],
    },
    { sample: 'partclone/generated/ft.pcl.zst', structures: checked },
    { sample: 'partclone/generated/nt.pcl.zst', structures: checked },
  ],
});
