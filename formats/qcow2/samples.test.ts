import fs from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { localStore } from '../../src/stores/local.ts';
import { adapterKit } from '../../test/kit/adapter-kit.ts';
import { sampleMissing, scratch, unpackSample } from '../../test/kit/samples.ts';
import { raw } from '../raw/index.ts';
import { qcow2 } from './index.ts';

const dissect = (name: string): string => `qcow2/dissect/${name}.gz`;

adapterKit(qcow2, {
  others: [raw],
  images: [
    { sample: 'qcow2/dfvfs/ext2.qcow2' },
    { sample: 'qcow2/plaso/image.qcow2' },
    { sample: 'qcow2/generated/source-with-bitmaps.qcow2' },
    { sample: 'qcow2/virtnbdbackup/vm5-sda.qcow2' },
    { sample: dissect('basic.qcow2') },
    { sample: dissect('basic-zstd.qcow2') },
    { sample: dissect('backing-chain-3.qcow2') },
    { sample: dissect('backing-chain-2.qcow2'), beside: [dissect('backing-chain-3.qcow2')] },
    {
      sample: dissect('backing-chain-1.qcow2'),
      beside: [dissect('backing-chain-2.qcow2'), dissect('backing-chain-3.qcow2')],
    },
    {
      sample: dissect('data-file.qcow2'),
      beside: [dissect('data-file.bin')],
      skip: [{ test: 'missing parent', reason: 'its data file is missed too, which has a test of its own' }],
    },
  ],
});

const VM6 = 'qcow2/virtnbdbackup/vm6-sda.qcow2';
test.skipIf(sampleMissing(VM6) !== null)(
  'a missing data file is a broken chain that names what was tried',
  async () => {
    const folder = scratch();
    try {
      await using image = await qcow2.open(unpackSample(VM6, folder), localStore(folder), { secrets: async () => [] });
      const point = image.points[0]!;
      expect(point.problem?.fault).toBe('broken-chain');
      expect(point.problem?.message).toMatch(/is missing; "[^/"]+" was tried/);
      expect(point.disks[0]).toMatchObject({ size: 2048, layer: null });
      // With a file of that name beside the image it is the disk, whatever folder the image names.
      const tried = /"([^/"]+)" was tried/.exec(point.problem!.message)![1]!;
      fs.writeFileSync(path.join(folder, tried), new Uint8Array(2048).fill(7));
      await using again = await qcow2.open(path.basename(VM6), localStore(folder), { secrets: async () => [] });
      expect(again.warnings[0]).toContain('lies outside the repository');
      expect(again.points[0]!.disks[0]!.layer!.locate(0, 2048)).toMatchObject({ kind: 'plain', at: 0, length: 2048 });
    } finally {
      fs.rmSync(folder, { recursive: true });
    }
  },
);
