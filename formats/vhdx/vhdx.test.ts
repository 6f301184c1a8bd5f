import path from 'node:path';
import { viewOf } from '../../src/base/struct.ts';
import type { Structure } from '../../test/kit/adapter-checks.ts';
import { adapterKit } from '../../test/kit/adapter-kit.ts';
import { diskFormatKit } from '../../test/kit/disk-format-kit.ts';
import { fuseMissing, libvhdiDigest, qemuImg, qemuIo, sevenZipDigest } from '../../test/kit/oracles.ts';
import { vhdx, vhdxFormat } from './index.ts';
import {
  HEADERS_AT,
  hasText,
  MAX_SIZE,
  METADATA_TABLE_SIZE,
  PAGE,
  REGION,
  REGION_TABLE_SIZE,
  REGION_TABLES_AT,
  RegionEntry,
  RegionTable,
} from './structs.ts';

/** Headers and region tables have checksums; metadata and block table have none, and a log may end anywhere. */
function structures(file: Uint8Array): readonly Structure[] {
  const found: Structure[] = [{ at: 0, length: 8, checked: true }];
  for (const at of HEADERS_AT) found.push({ at, length: PAGE, checked: true });
  for (const at of REGION_TABLES_AT) found.push({ at, length: REGION_TABLE_SIZE, checked: true });
  const tableAt = REGION_TABLES_AT[0]!;
  for (let i = 0; i < RegionTable.parse(file, tableAt).entryCount; i++) {
    const entry = RegionEntry.parse(file, tableAt + RegionTable.size + i * RegionEntry.size);
    const at = entry.fileOffset;
    if (entry.guid === REGION.bat) found.push({ at, length: 4096, checked: false });
    else found.push({ at, length: 256, checked: false }, { at: at + METADATA_TABLE_SIZE, length: 256, checked: false });
  }
  const logAt = Number(viewOf(file).getBigUint64(HEADERS_AT[0]! + 72, true));
  if (hasText(file, 'loge', logAt)) found.push({ at: logAt, length: 8192, checked: false });
  return found;
}

const sample = (name: string, beside: readonly string[] = []) => ({ sample: `vhdx/${name}`, beside, structures });

/** A disk of `mib` MiB with data here and there, made by QEMU. */
const made = (title: string, options: string, mib: number) => ({
  title,
  needs: ['qemu-img', 'qemu-io'],
  structures,
  async make(folder: string) {
    const file = path.join(folder, 'made.vhdx');
    await qemuImg.create(file, 'vhdx', `${mib}M`, ['-o', options]);
    const writes = [1, 7, mib / 2, mib - 1].map((at, i) => `write -P ${17 + i} ${at * 1_048_576 - 66_048} 132096`);
    await qemuIo(file, 'vhdx', writes);
    await qemuImg.convert(file, 'vhdx', path.join(folder, 'made.raw'), 'raw');
    return { file: 'made.vhdx', raw: 'made.raw' };
  },
});

const long = process.env.BOOTMOUNT_LONG === '1';

adapterKit(vhdx, {
  images: [
    sample('dissect/fixed.vhdx.gz'),
    sample('generated-diff/parent.vhdx.zst'),
    sample('generated-diff/child.avhdx.zst', ['vhdx/generated-diff/parent.vhdx.zst']),
    sample('qemu-samples/iotest-dirtylog-10G-4M.vhdx.bz2'),
    sample('discutils/swap.vhdx.gz'),
    made('dynamic, by qemu-img', 'subformat=dynamic,block_size=1M', 40),
    ...(long
      ? [
          sample('discutils/btrfs.vhdx.gz'),
          sample('qemu-samples/iotest-dynamic-1G.vhdx.bz2'),
          sample('qemu-samples/test-disk2vhd.vhdx.bz2'),
          made('fixed, by qemu-img', 'subformat=fixed', 10),
        ]
      : []),
  ],
});

/** 7-Zip refuses disks that are not whole pages of 4 KiB; libvhdi takes any. */
const second = async (file: string): Promise<string> =>
  (await qemuImg.size(file, 'vhdx')) % 4096 === 0 ? sevenZipDigest(file, 'vhdx') : libvhdiDigest(file);

diskFormatKit(vhdxFormat, {
  adapter: vhdx,
  qemu: 'vhdx',
  checkable: true,
  second: fuseMissing() === null ? { needs: ['7zz', 'vhdimount', 'qemu-img'], digest: second } : null,
  limit: MAX_SIZE,
  // They are looked for in the table, in layout.test.ts.
  holes: false,
});
