import { type Spec, version2 } from '../../../formats/partclone/fixtures.ts';
import { clonezilla } from '../../../formats/partclone/index.ts';
import { adapterTarget, type Seed } from '../target.ts';

const VOLUME: Spec = { blockSize: 1024, blocks: 200, mode: 32, perSum: 16, reseed: true, bitmap: 1 };
const volume = version2(VOLUME);
const text = (lines: readonly string[]): Uint8Array => Buffer.from(`${lines.join('\n')}\n`);
const sector = (partition: number): Uint8Array => {
  const raw = Buffer.alloc(512, 0x90);
  raw.fill(0, 440, 510);
  raw[450] = partition;
  raw.writeUInt32LE(2048, 454);
  raw.writeUInt32LE(2048, 458);
  raw.writeUInt16LE(0xaa55, 510);
  return raw;
};

const mbr = {
  'i/parts': text(['sda1 sda5']),
  'i/disk': text(['sda']),
  'i/clonezilla-img': text(['at 2026-03-04 05:06:07 UTC']),
  'i/sda-pt.parted': text(['Disk /dev/sda: 16384s', 'Sector size (logical/physical): 512B/512B']),
  'i/sda-pt.sf': text([
    'label: dos',
    'label-id: 0x1234abcd',
    'unit: sectors',
    '',
    '/dev/sda1 : start=        2048, size=        2048, type=83, bootable',
    '/dev/sda2 : start=        6144, size=        8192, type=5',
    '/dev/sda5 : start=        8192, size=        2048, type=83',
    '/dev/sda6 : start=       12288, size=        1024, type=82',
  ]),
  'i/sda-mbr': sector(0x83),
  'i/sda-hidden-data-after-mbr': new Uint8Array(4096).fill(7),
  'i/swappt-sda6.info': text(['UUID="6b1d1c8e-7c2a-4a6e-9d3b-0f4c5a6b7c8d"', 'LABEL="s"']),
  'i/sda1.ext4-ptcl-img.uncomp.aa': volume.subarray(0, 50_000),
  'i/sda1.ext4-ptcl-img.uncomp.ab': volume.subarray(50_000, 100_000),
  'i/sda1.ext4-ptcl-img.uncomp.ac': volume.subarray(100_000),
  'i/sda5.ext4-ptcl-img.uncomp': volume,
};

const gpt = {
  'i/parts': text(['sda1']),
  'i/disk': text(['sda']),
  'i/sda-pt.parted': text(['Disk /dev/sda: 16384s', 'Sector size (logical/physical): 512B/512B']),
  'i/sda-pt.sf': text([
    'label: gpt',
    'label-id: 11111111-2222-3333-4444-555555555555',
    'first-lba: 34',
    'last-lba: 16350',
    '',
    '/dev/sda1 : start=2048, size=4096, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid=11111111-2222-3333-4444-666666666666, name="root"',
  ]),
  'i/sda1.dd-img': new Uint8Array(65_536).fill(3),
};

async function seeds(): Promise<readonly Seed[]> {
  return [
    { title: 'an MBR with logical partitions', name: 'i/parts', files: mbr },
    { title: 'a GPT', name: 'i/parts', files: gpt },
  ];
}

export const target = adapterTarget(clonezilla, [], seeds);
