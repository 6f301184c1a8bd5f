import { descriptorXml, guidOf, hdsFile, NULL_GUID } from '../../../formats/parallels/fixtures.ts';
import { parallels } from '../../../formats/parallels/index.ts';
import { qemuSeeds } from '../qemu-seeds.ts';
import { adapterTarget, type Seed } from '../target.ts';

const cluster = (n: number): Uint8Array => new Uint8Array(4096).fill(n);
const [base, top] = [guidOf(1), guidOf(2)];
const image = (guid: string, file: string) => ({ guid, file });
const bundle = {
  'x.hdd/DiskDescriptor.xml': descriptorXml({
    sectors: 48,
    storages: [
      { start: 0, end: 32, images: [image(base, 'a0.hds'), image(top, 'a1.hds')] },
      { start: 32, end: 48, images: [image(base, 'b0.hds'), image(top, 'b1.hds')] },
    ],
    shots: [
      { guid: base, parent: NULL_GUID },
      { guid: top, parent: base },
    ],
    top,
  }),
  'x.hdd/a0.hds': hdsFile({ clusterSectors: 8, clusters: [cluster(1), null, cluster(2), cluster(3)], unit: 'sectors' }),
  'x.hdd/a1.hds': hdsFile({ clusterSectors: 8, clusters: [null, cluster(4), null, null], unit: 'clusters' }),
  'x.hdd/b0.hds': hdsFile({ clusterSectors: 8, clusters: [cluster(5), cluster(6)], unit: 'clusters' }),
  'x.hdd/b1.hds': hdsFile({ clusterSectors: 8, clusters: [null, cluster(7)], unit: 'sectors' }),
};

async function seeds(): Promise<readonly Seed[]> {
  return [
    ...qemuSeeds('hdd', [['-O', 'parallels']]),
    { title: 'bundle', name: 'x.hdd/DiskDescriptor.xml', files: bundle },
  ];
}

export const target = adapterTarget(parallels, ['qemu-img'], seeds);
