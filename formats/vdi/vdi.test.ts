import path from 'node:path';
import { viewOf } from '../../src/base/struct.ts';
import type { Structure } from '../../test/kit/adapter-checks.ts';
import { adapterKit } from '../../test/kit/adapter-kit.ts';
import { diskFormatKit } from '../../test/kit/disk-format-kit.ts';
import { qemuImg, qemuIo, sevenZipDigest } from '../../test/kit/oracles.ts';
import { vdi, vdiFormat } from './index.ts';
import { MAX_SIZE } from './layout.ts';

/** Header and map; the format has no checksums. */
function structures(file: Uint8Array): readonly Structure[] {
  const mapAt = viewOf(file).getUint32(340, true);
  const blocks = viewOf(file).getUint32(384, true);
  return [
    { at: 0, length: 512, checked: false },
    { at: mapAt, length: blocks * 4, checked: false },
  ];
}

/** A disk of 12 MiB with data here and there, made by QEMU. */
const made = (title: string, options: readonly string[]) => ({
  title,
  needs: ['qemu-img', 'qemu-io'],
  structures,
  async make(folder: string) {
    const file = path.join(folder, 'made.vdi');
    await qemuImg.create(file, 'vdi', '12M', options);
    const writes = ['write -P 17 11M 4k', 'write -P 18 983000 132096', 'write -P 19 5M 1M', 'write -z 7M 1M'];
    await qemuIo(file, 'vdi', writes);
    await qemuImg.convert(file, 'vdi', path.join(folder, 'made.raw'), 'raw');
    return { file: 'made.vdi', raw: 'made.raw' };
  },
});

adapterKit(vdi, {
  images: [
    { sample: 'vdi/dissect/basic.vdi.gz', structures },
    made('dynamic, by qemu-img', []),
    made('static, by qemu-img', ['-o', 'static=on']),
  ],
});

diskFormatKit(vdiFormat, {
  adapter: vdi,
  qemu: 'vdi',
  // A read-only view counts its empty places as allocated, which the check calls an error.
  checkable: false,
  second: { needs: ['7zz'], digest: file => sevenZipDigest(file, 'vdi') },
  limit: MAX_SIZE,
});
