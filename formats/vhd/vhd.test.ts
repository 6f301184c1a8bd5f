import path from 'node:path';
import { viewOf } from '../../src/base/struct.ts';
import { DynamicHeader, FOOTER_SIZE, Footer, HEADER_SIZE, hasCookie, UNUSED } from '../../src/base/vhd.ts';
import type { Structure } from '../../test/kit/adapter-checks.ts';
import { adapterKit } from '../../test/kit/adapter-kit.ts';
import { diskFormatKit } from '../../test/kit/disk-format-kit.ts';
import { qemuImg, qemuIo, sevenZipDigest } from '../../test/kit/oracles.ts';
import { vhd, vhdFormat } from './index.ts';
import { bitmapLength } from './layer.ts';
import { MAX_SIZE } from './layout.ts';

/** Both footers and the header have checksums; table and bitmaps have none. */
function structures(file: Uint8Array): readonly Structure[] {
  const footer = { at: file.length - FOOTER_SIZE, length: FOOTER_SIZE, checked: true };
  if (!hasCookie(file, 0)) return [footer];
  const headerAt = Number(Footer.parse(file, 0).dataOffset);
  const { tableOffset, maxTableEntries, blockSize } = DynamicHeader.parse(file, headerAt);
  const found: Structure[] = [
    footer,
    { at: 0, length: FOOTER_SIZE, checked: true },
    { at: headerAt, length: HEADER_SIZE, checked: true },
    { at: tableOffset, length: Math.min(maxTableEntries * 4, 4096), checked: false },
  ];
  const first = viewOf(file).getUint32(tableOffset);
  if (first !== UNUSED) found.push({ at: first * 512, length: bitmapLength(blockSize), checked: false });
  return found;
}

const sample = (name: string, beside: readonly string[] = []) => ({ sample: `vhd/${name}`, beside, structures });

/** A disk of `mib` MiB with data here and there, made by QEMU. */
const made = (title: string, subformat: 'fixed' | 'dynamic', mib: number) => ({
  title,
  needs: ['qemu-img', 'qemu-io'],
  structures,
  async make(folder: string) {
    const file = path.join(folder, 'made.vhd');
    await qemuImg.create(file, 'vpc', `${mib}M`, ['-o', `subformat=${subformat},force_size=on`]);
    const writes = [1, 7, mib / 2, mib - 1].map((at, i) => `write -P ${17 + i} ${at * 1_048_576 - 66_048} 132096`);
    await qemuIo(file, 'vpc', writes.slice(0, 3));
    await qemuImg.convert(file, 'vpc', path.join(folder, 'made.raw'), 'raw');
    return { file: 'made.vhd', raw: 'made.raw' };
  },
});

adapterKit(vhd, {
  images: [
    sample('dfvfs/image.vhd'),
    sample('dfvfs/image-differential.vhd', ['vhd/dfvfs/image.vhd']),
    sample('dissect/fixed.vhd.gz'),
    sample('generated-diff/parent.vhd.zst'),
    sample('generated-diff/child.vhd.zst', ['vhd/generated-diff/parent.vhd.zst']),
    sample('qemu-samples/d2v-zerofilled.vhd.bz2'),
    sample('qemu-samples/hyperv2012r2-dynamic.vhd.bz2'),
    sample('qemu-samples/virtualpc-dynamic.vhd.bz2'),
    sample('sleuthkit/image.vhd'),
    made('dynamic, by qemu-img', 'dynamic', 40),
    made('fixed, by qemu-img', 'fixed', 10),
  ],
  refused: [{ sample: 'vhd/qemu-samples/afl5.img.bz2', fault: 'corrupt' }],
});

diskFormatKit(vhdFormat, {
  adapter: vhd,
  qemu: 'vpc',
  checkable: false,
  second: { needs: ['7zz'], digest: file => sevenZipDigest(file, 'vhd') },
  limit: MAX_SIZE,
});
