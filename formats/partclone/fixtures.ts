/** Clonezilla images for tests, made by the programs that Clonezilla itself calls. */
import fs from 'node:fs';
import path from 'node:path';
import { run } from '../../test/kit/oracles.ts';

export const TOOLS = ['sfdisk', 'mkfs.ext4', 'mkfs.fat', 'partclone.extfs', 'partclone.fat32'] as const;
export const MIB = 1_048_576;
const SECTOR = 512;

async function succeed(program: string, args: readonly string[]): Promise<string> {
  const { code, out, err } = await run(program, args);
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${code}: ${err} ${out}`);
  return out;
}

export interface FixturePartition {
  readonly number: number;
  readonly at: number;
  readonly length: number;
  readonly kind: 'ext4' | 'fat32' | 'swap' | 'none';
}

export interface FixtureDisk {
  readonly size: number;
  /** What sfdisk reads. */
  readonly script: string;
  readonly partitions: readonly FixturePartition[];
}

const put = (file: string, bytes: Uint8Array, at: number): void => {
  const fd = fs.openSync(file, 'r+');
  fs.writeSync(fd, bytes, 0, bytes.length, at);
  fs.closeSync(fd);
};
const take = (file: string, at: number, length: number): Buffer => {
  const fd = fs.openSync(file, 'r');
  const out = Buffer.alloc(length);
  fs.readSync(fd, out, 0, length, at);
  fs.closeSync(fd);
  return out;
};

const SWAP_UUID = '6b1d1c8e-7c2a-4a6e-9d3b-0f4c5a6b7c8d';

async function makeVolume(kind: FixturePartition['kind'], file: string, content: string): Promise<void> {
  if (kind === 'ext4') await succeed('mkfs.ext4', ['-q', '-F', '-b', '4096', '-d', content, file]);
  if (kind === 'fat32') await succeed('mkfs.fat', ['-F', '32', '-i', '12345678', file]);
  if (kind === 'swap') await succeed('mkswap', ['-q', '-U', SWAP_UUID, '-L', 'swapped', file]);
}

async function savePartition(kind: FixturePartition['kind'], volume: string, target: string, log: string) {
  const program = kind === 'ext4' ? 'partclone.extfs' : 'partclone.fat32';
  await succeed(program, ['-q', '-F', '-c', '-L', log, '-s', volume, '-O', target]);
}

/** Makes the disk at `raw` and its image, as of the disk `sda`, in `folder`. Volumes and logs go to `work`. */
export async function clonezillaFolder(disk: FixtureDisk, raw: string, folder: string, work: string): Promise<void> {
  fs.writeFileSync(raw, '');
  fs.truncateSync(raw, disk.size);
  const script = path.join(work, 'script');
  fs.writeFileSync(script, disk.script);
  await succeed('sh', ['-c', `sfdisk -q ${raw} < ${script}`]);
  put(raw, Buffer.alloc(440, 0xeb), 0);
  const isGpt = disk.script.includes('label: gpt');
  if (!isGpt) put(raw, Buffer.alloc(200 * SECTOR, 0x5a), 40 * SECTOR);
  const content = path.join(work, 'content');
  fs.mkdirSync(content, { recursive: true });
  for (let i = 0; i < 40; i++) fs.writeFileSync(path.join(content, `file${i}`), Buffer.alloc(i * 3001, i + 1));
  const parts: string[] = [];
  for (const { number, at, length, kind } of disk.partitions) {
    const name = `sda${number}`;
    const volume = path.join(work, name);
    fs.writeFileSync(volume, '');
    fs.truncateSync(volume, length);
    await makeVolume(kind, volume, content);
    put(raw, fs.readFileSync(volume), at);
    if (kind === 'none') continue;
    if (kind === 'swap') {
      fs.writeFileSync(path.join(folder, `swappt-${name}.info`), `UUID="${SWAP_UUID}"\nLABEL="swapped"\n`);
      continue;
    }
    parts.push(name);
    await savePartition(kind, volume, path.join(folder, `${name}.${kind}-ptcl-img.uncomp`), path.join(work, 'log'));
  }
  const dump = await succeed('sfdisk', ['-d', raw]);
  fs.writeFileSync(path.join(folder, 'sda-pt.sf'), dump.replaceAll(raw, '/dev/sda'));
  const sectors = disk.size / SECTOR;
  const text = `Model: ATA (scsi)\nDisk /dev/sda: ${sectors}s\nSector size (logical/physical): 512B/512B\n`;
  fs.writeFileSync(path.join(folder, 'sda-pt.parted'), text);
  fs.writeFileSync(path.join(folder, 'parts'), `${parts.join(' ')}\n`);
  fs.writeFileSync(path.join(folder, 'disk'), 'sda\n');
  fs.writeFileSync(path.join(folder, 'clonezilla-img'), 'Starting /usr/sbin/ocs-sr at 2026-03-04 05:06:07 UTC...\n');
  fs.writeFileSync(path.join(folder, 'sda-mbr'), take(raw, 0, SECTOR));
  const first = Math.min(...disk.partitions.map(({ at }) => at));
  if (isGpt) {
    fs.writeFileSync(path.join(folder, 'sda-gpt-1st'), take(raw, 0, 34 * SECTOR));
    fs.writeFileSync(path.join(folder, 'sda-gpt-2nd'), take(raw, disk.size - 33 * SECTOR, 33 * SECTOR));
  } else fs.writeFileSync(path.join(folder, 'sda-hidden-data-after-mbr'), take(raw, SECTOR, first - SECTOR));
}

export const mbrDisk: FixtureDisk = {
  size: 96 * MIB,
  script: [
    'label: dos',
    'label-id: 0x1234abcd',
    '2048,40960,83,*',
    '43008,153600,5',
    '',
    '',
    '45056,81920,c',
    '129024,16384,82',
    '147456,20480,83',
  ].join('\n'),
  partitions: [
    { number: 1, at: MIB, length: 20 * MIB, kind: 'ext4' },
    { number: 5, at: 22 * MIB, length: 40 * MIB, kind: 'fat32' },
    { number: 6, at: 63 * MIB, length: 8 * MIB, kind: 'swap' },
    { number: 7, at: 72 * MIB, length: 10 * MIB, kind: 'ext4' },
  ],
};

export const gptDisk: FixtureDisk = {
  size: 80 * MIB,
  script: [
    'label: gpt',
    'label-id: 11111111-2222-3333-4444-555555555555',
    'start=2048,size=81920,type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B,name="EFI"',
    'start=83968,size=40960,type=0FC63DAF-8483-4772-8E79-3D69D8477DE4,name="root"',
  ].join('\n'),
  partitions: [
    { number: 1, at: MIB, length: 40 * MIB, kind: 'fat32' },
    { number: 2, at: 41 * MIB, length: 20 * MIB, kind: 'ext4' },
  ],
};
