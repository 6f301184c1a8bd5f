import path from 'node:path';
import { viewOf } from '../../src/base/struct.ts';
import type { Structure } from '../../test/kit/adapter-checks.ts';
import { adapterKit } from '../../test/kit/adapter-kit.ts';
import { qemuImg, qemuIo } from '../../test/kit/oracles.ts';
import { parallels } from './index.ts';

/** Header and table; the format has no checksums over them. */
const structures = (file: Uint8Array): readonly Structure[] => [
  { at: 0, length: 64, checked: false },
  { at: 64, length: Math.min(viewOf(file).getUint32(32, true) * 4, 4096), checked: false },
];

const GUID = '{5fbaabe3-6958-40ff-92a7-860e329aab41}';
const bundle = (name: string, parts: number) => ({
  sample: `parallels/dissect/${name}.hdd/DiskDescriptor.xml`,
  beside: Array.from({ length: parts }, (_, i) => `parallels/dissect/${name}.hdd/${name}.hdd.${i}.${GUID}.hds.gz`),
  skip: [
    {
      test: 'missing parent',
      reason: 'the check takes away the images too; bundle.test.ts does it one by one',
    } as const,
  ],
});

adapterKit(parallels, {
  images: [
    { sample: 'parallels/qemu-samples/parallels-v1.bz2', structures },
    { sample: 'parallels/qemu-samples/parallels-v2.bz2', structures },
    { sample: 'parallels/qemu-samples/parallels-with-bitmap.bz2', structures },
    bundle('expanding', 1),
    bundle('split', 6),
    {
      title: 'made by qemu-img',
      needs: ['qemu-img', 'qemu-io'],
      structures,
      async make(folder: string) {
        const file = path.join(folder, 'made.hds');
        await qemuImg.create(file, 'parallels', '12M', ['-o', 'cluster_size=64k']);
        await qemuIo(file, 'parallels', ['write -P 17 11M 4k', 'write -P 18 983000 132096', 'write -P 19 5M 1M']);
        await qemuImg.convert(file, 'parallels', path.join(folder, 'made.raw'), 'raw');
        return { file: 'made.hds', raw: 'made.raw' };
      },
    },
  ],
});
