import { content, domainXml, lz4Frame, stream } from '../../../formats/virtnbdbackup/fixtures.ts';
import { virtnbdbackup } from '../../../formats/virtnbdbackup/index.ts';
import { adapterTarget, type Seed } from '../target.ts';

const SIZE = 600_064;
const ranges = [
  { start: 0, data: content(100_000, 1) },
  { start: 100_000, data: 300_000 },
  { start: 400_000, data: content(SIZE - 400_000, 2) },
];
const full = stream({ size: SIZE, ranges, checkpoint: 'virtnbdbackup.0' });
const packed = stream({ size: SIZE, ranges, checkpoint: 'virtnbdbackup.0', piece: 65_536 });
const framed = stream({
  size: SIZE,
  ranges: ranges.slice(0, 2).concat({ start: 400_000, data: (SIZE - 400_000) as never }),
  checkpoint: 'virtnbdbackup.0',
  piece: 100_000,
  pack: data => lz4Frame(data, ['-B4', '--content-size']),
});
const increment = stream({
  size: SIZE,
  ranges: [{ start: 65_536, data: content(9000, 3) }],
  checkpoint: 'virtnbdbackup.1',
  parent: 'virtnbdbackup.0',
});
const beside = {
  'vmconfig.virtnbdbackup.0.xml': domainXml('web', ['sda', 'sdb']),
  'checkpoints/virtnbdbackup.0.xml': Buffer.from(
    '<domaincheckpoint><creationTime>1795191567</creationTime></domaincheckpoint>',
  ),
};

async function seeds(): Promise<readonly Seed[]> {
  return [
    { title: 'full', name: 'sda.full.data', files: { ...beside, 'sda.full.data': full, 'sdb.full.data': full } },
    { title: 'compressed', name: 'sda.full.data', files: { 'sda.full.data': packed } },
    { title: 'frames of the lz4 program', name: 'sda.full.data', files: { 'sda.full.data': framed } },
    {
      title: 'increment',
      name: 'sda.inc.virtnbdbackup.1.data',
      files: { 'sda.inc.virtnbdbackup.1.data': increment, 'sda.full.data': full },
    },
  ];
}

export const target = adapterTarget(virtnbdbackup, ['lz4'], seeds);
