import fs from 'node:fs';
import path from 'node:path';
import { viewOf } from '../../src/base/struct.ts';
import type { Structure } from '../../test/kit/adapter-checks.ts';
import { adapterKit, type MadeImage, type Skip } from '../../test/kit/adapter-kit.ts';
import { qemuImg, qemuIo, run } from '../../test/kit/oracles.ts';
import { vmdk } from './index.ts';
import { magicOf, SparseHeader } from './structs.ts';

const MIB = 1_048_576;

/** Header, descriptor, directory and first table. Nothing in them has a checksum. */
function structures(file: Uint8Array): readonly Structure[] {
  if (magicOf(file) !== 'hosted') return [{ at: 0, length: Math.min(file.length, 512), checked: false }];
  const { descriptorOffset, gdOffset } = SparseHeader.parse(file, 0);
  const found: Structure[] = [
    { at: 0, length: 79, checked: false },
    { at: descriptorOffset * 512, length: 400, checked: false },
  ];
  const directory = Number(gdOffset) * 512;
  if (directory < file.length) {
    found.push({ at: directory, length: 4, checked: false });
    found.push({ at: viewOf(file).getUint32(directory, true) * 512, length: 2048, checked: false });
  } else found.push({ at: file.length - 1024, length: 79, checked: false });
  return found;
}

/** Data here and there, across borders of grains and of extents. */
const writes = (mib: number): readonly string[] =>
  [1, 7, mib / 2, mib - 1].map((at, i) => `write -P ${17 + i} ${at * MIB - 66_048} 132096`);

const parts: readonly Skip[] = [
  { test: 'missing parent', reason: 'its extents are missed too, which has a test of its own' },
];

function made(title: string, subformat: string, mib: number, skip: readonly Skip[] = []): MadeImage {
  return {
    title,
    needs: ['qemu-img', 'qemu-io'],
    structures,
    skip,
    async make(folder) {
      const at = (name: string): string => path.join(folder, name);
      await qemuImg.create(at('made.vmdk'), 'vmdk', `${mib}M`, ['-o', `subformat=${subformat}`]);
      await qemuIo(at('made.vmdk'), 'vmdk', writes(mib));
      await qemuImg.convert(at('made.vmdk'), 'vmdk', at('made.raw'), 'raw');
      return { file: 'made.vmdk', raw: 'made.raw' };
    },
  };
}

/** Parts of several types and of lengths that are no multiples of a grain, under one descriptor. */
const mixed: MadeImage = {
  title: 'several extents of different types',
  needs: ['qemu-img', 'qemu-io'],
  skip: parts,
  async make(folder) {
    const at = (name: string): string => path.join(folder, name);
    const sectors = [20_513, 8191, 12_001];
    for (const [i, length] of sectors.entries()) {
      const size = `${length * 512}`;
      await qemuImg.create(at(`p${i}.vmdk`), 'vmdk', size, ['-o', 'subformat=twoGbMaxExtentSparse']);
      await qemuIo(at(`p${i}.vmdk`), 'vmdk', [
        `write -P ${i + 1} 64k 1M`,
        `write -P ${i + 7} ${length * 512 - 5120} 5120`,
      ]);
      fs.rmSync(at(`p${i}.vmdk`));
    }
    fs.writeFileSync(at('raw part.bin'), new Uint8Array(3 * MIB).fill(9));
    const lines = [
      `RW ${sectors[0]} SPARSE "p0-s001.vmdk"`,
      'RW 4097 FLAT "raw part.bin" 0',
      `RW ${sectors[1]} SPARSE "p1-s001.vmdk"`,
      'RW 11 FLAT "raw part.bin" 1000',
      `RW ${sectors[2]} SPARSE "p2-s001.vmdk"`,
    ];
    const text = ['# Disk DescriptorFile', 'version=1', 'CID=1', 'parentCID=ffffffff', 'createType="custom"'];
    // QEMU reads the same extents under a type that it knows.
    const forQemu = text.join('\n').replace('custom', 'twoGbMaxExtentSparse');
    fs.writeFileSync(at('mixed.vmdk'), `${[...text, ...lines, '#'].join('\n')}\n`);
    fs.writeFileSync(at('other.vmdk'), `${[forQemu, ...lines, '#'].join('\n')}\n`);
    // Not `convert`: where flat extents do not start at a grain, QEMU 7.2 maps them wrongly, and reads them rightly.
    await run('qemu-img', [
      'dd',
      '-f',
      'vmdk',
      '-O',
      'raw',
      'bs=512',
      `if=${at('other.vmdk')}`,
      `of=${at('made.raw')}`,
    ]);
    return { file: 'mixed.vmdk', raw: 'made.raw' };
  },
};

const stream: MadeImage = {
  title: 'stream-optimized, by qemu-img',
  needs: ['qemu-img', 'qemu-io'],
  structures,
  async make(folder) {
    const at = (name: string): string => path.join(folder, name);
    await qemuImg.create(at('made.raw'), 'raw', '41M');
    await qemuIo(at('made.raw'), 'raw', writes(40));
    await qemuImg.convert(at('made.raw'), 'raw', at('made.vmdk'), 'vmdk', ['-o', 'subformat=streamOptimized']);
    return { file: 'made.vmdk', raw: 'made.raw' };
  },
};

/** Three links, the middle one with zeroed grains over data. */
const chain: MadeImage = {
  title: 'a chain with zeroed grains, by qemu-img',
  needs: ['qemu-img', 'qemu-io'],
  structures,
  async make(folder) {
    const at = (name: string): string => path.join(folder, name);
    const on = (parent: string): readonly string[] => ['-b', at(parent), '-F', 'vmdk', '-o', 'zeroed_grain=on'];
    await qemuImg.create(at('base.vmdk'), 'vmdk', '40M', ['-o', 'zeroed_grain=on']);
    await qemuIo(at('base.vmdk'), 'vmdk', ['write -P 1 0 40M']);
    await qemuImg.create(at('middle.vmdk'), 'vmdk', '40M', on('base.vmdk'));
    await qemuIo(at('middle.vmdk'), 'vmdk', ['write -z 4M 8M', 'write -P 2 20M 1M']);
    await qemuImg.create(at('tip.vmdk'), 'vmdk', '40M', on('middle.vmdk'));
    await qemuIo(at('tip.vmdk'), 'vmdk', ['write -P 3 6M 66048', 'write -P 4 39M 1M', 'write -z 20M 65536']);
    await qemuImg.convert(at('tip.vmdk'), 'vmdk', at('tip.raw'), 'raw');
    for (const link of ['middle.vmdk', 'tip.vmdk']) {
      // Made with absolute names, as VMware does: the folder of the backup is another one.
      const text = fs.readFileSync(at(link), 'latin1');
      fs.writeFileSync(at(link), text.replaceAll(folder, folder.replace(/./g, 'x').replace('x', '/')), 'latin1');
    }
    return { file: 'tip.vmdk', raw: 'tip.raw' };
  },
};

adapterKit(vmdk, {
  images: [
    { sample: 'vmdk/dfvfs/ext2.vmdk', structures },
    { sample: 'vmdk/dissect/sesparse.vmdk.gz' },
    { sample: 'vmdk/qemu-samples/iotest-version3.vmdk.bz2', structures },
    made('monolithicSparse, by qemu-img', 'monolithicSparse', 40),
    made('monolithicFlat, by qemu-img', 'monolithicFlat', 10, parts),
    made('twoGbMaxExtentSparse, by qemu-img', 'twoGbMaxExtentSparse', 10, parts),
    made('twoGbMaxExtentFlat, by qemu-img', 'twoGbMaxExtentFlat', 10, parts),
    mixed,
    stream,
    chain,
  ],
  refused: [{ sample: 'vmdk/qemu-samples/afl9.vmdk.bz2', fault: 'corrupt' }],
});
