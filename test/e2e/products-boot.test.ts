/**
 * Backups of products boot: the tiny disk, saved as each product saves it, started by `boot` in QEMU. Clonezilla's is made
 * by partclone; the others, by writers of the tests, only in long runs.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { zstdCompressSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ewfFiles } from '../../formats/ewf/fixtures.ts';
import { buildFile, bytesOf } from '../../formats/macrium/fixtures.ts';
import { addSnapshot, type Files } from '../../formats/pbs/fixtures.ts';
import { stream } from '../../formats/virtnbdbackup/fixtures.ts';
import { archive } from '../../formats/vma/fixtures.ts';
import { directoryFiles } from '../../formats/xo/fixtures.ts';
import { xvaFile } from '../../formats/xva/fixtures.ts';
import { missingPackages } from '../../images/packages.ts';
import { makeTinyDisk, markerIn } from '../../images/tiny-disk.ts';
import { isZero } from '../../src/base/range.ts';
import { missing } from '../kit/oracles.ts';
import { scratch } from '../kit/samples.ts';
import { runCli } from './run-cli.ts';

const MIB = 1_048_576;
const LONG = process.env.BOOTMOUNT_LONG === '1';
const able = process.getuid?.() === 0 && fs.existsSync('/dev/fuse') && missingPackages().length === 0;
const PATIENCE_MS = 300_000;

/** The first partition with 16 bits per entry: partclone 0.3.23 leaves used clusters out where they have 12. */
function withFat16(file: string): void {
  const script = `
    dd if="$1" of=p1 bs=1M skip=1 count=4 status=none
    mkdir files && mcopy -s -i p1 '::*' files
    truncate -s 0 p1 && truncate -s 4M p1
    mkfs.fat -F 16 -s 1 -n TINYBOOT -i 54494e59 p1
    mcopy -s -i p1 files/* ::
    dd if=p1 of="$1" bs=1M seek=1 conv=notrunc status=none`;
  execFileSync('bash', ['-ec', script, 'bash', file], { cwd: folder, stdio: 'pipe' });
}

let folder: string;
let disk: Buffer;
beforeAll(async () => {
  if (!able) return;
  folder = fs.realpathSync(scratch());
  await makeTinyDisk(path.join(folder, 'disk'), 'bios');
  withFat16(path.join(folder, 'disk'));
  disk = fs.readFileSync(path.join(folder, 'disk'));
}, PATIENCE_MS);
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const P1 = { at: MIB, length: 4 * MIB };
const P2 = { at: 5 * MIB, length: 57 * MIB };
const TIME = '2026-11-20T10:00:00Z';

function put(repo: string, files: Files): void {
  for (const [name, bytes] of Object.entries(files)) {
    const file = path.join(repo, name);
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(file, bytes);
  }
}

/** The folder that Clonezilla would write, with both partitions saved by partclone and packed. */
function clonezilla(repo: string, pack: string, ending: string): void {
  const image = path.join(repo, '2026-11-20-10-img');
  fs.mkdirSync(image, { recursive: true });
  const dump = execFileSync('sfdisk', ['-d', path.join(folder, 'disk')], { encoding: 'utf8' });
  const text = (name: string, content: string): void => fs.writeFileSync(path.join(image, name), content);
  text('sda-pt.sf', dump.replaceAll(path.join(folder, 'disk'), '/dev/sda'));
  text('sda-pt.parted', `Disk /dev/sda: ${disk.length / 512}s\nSector size (logical/physical): 512B/512B\n`);
  text('parts', 'sda1 sda2\n');
  text('disk', 'sda\n');
  text('clonezilla-img', 'Starting /usr/sbin/ocs-sr at 2026-11-20 10:00:00 UTC...\n');
  fs.writeFileSync(path.join(image, 'sda-mbr'), disk.subarray(0, 512));
  fs.writeFileSync(path.join(image, 'sda-hidden-data-after-mbr'), disk.subarray(512, MIB));
  for (const [name, type, program, { at, length }] of [
    ['sda1', 'vfat', 'partclone.vfat', P1],
    ['sda2', 'ext2', 'partclone.extfs', P2],
  ] as const) {
    const volume = path.join(folder, name);
    fs.writeFileSync(volume, disk.subarray(at, at + length));
    const saved = path.join(folder, `${name}.img`);
    fs.rmSync(saved, { force: true });
    execFileSync(program, ['-q', '-F', '-c', '-L', path.join(folder, 'log'), '-s', volume, '-O', saved], {
      stdio: 'pipe',
    });
    execFileSync('sh', ['-c', `${pack} < ${saved} | split -b 2000000 - ${image}/${name}.${type}-ptcl-img.${ending}.`]);
  }
}

function macrium(repo: string): void {
  const blockSize = 65_536;
  const partition = ({ at, length }: typeof P1) => {
    const blocks = new Map<number, Uint8Array>();
    for (let n = 0; n * blockSize < length; n++) {
      const block = disk.subarray(at + n * blockSize, at + (n + 1) * blockSize);
      if (!isZero(block)) blocks.set(n, block);
    }
    return { start: at, length, blockSize, blockCount: length / blockSize, blocks };
  };
  const its = {
    format: 'mbr',
    size: disk.length,
    bootTrack: disk.subarray(0, MIB),
    partitions: [P1, P2].map(partition),
  } as const;
  put(repo, { '0123456789ABCDEF-00-00.mrimgx': bytesOf(buildFile({ number: 0, disks: [its] })) });
}

function directory(repo: string): void {
  const blockSize = 2 * MIB;
  const blocks = new Map<number, { readonly data: Uint8Array }>();
  for (let n = 0; n * blockSize < disk.length; n++) {
    const data = disk.subarray(n * blockSize, (n + 1) * blockSize);
    if (!isZero(data)) blocks.set(n, { data });
  }
  const alias = '20261120T100000Z.alias.vhd';
  put(
    repo,
    directoryFiles('data/a.vhd', { uuid: 1, size: disk.length, blockSize, blocks, filter: 'gzip' }, [
      alias,
      './data/a.vhd',
    ]),
  );
}

async function pbs(repo: string): Promise<void> {
  const files: Files = {};
  const disks = [{ filename: 'drive-scsi0.img.fidx', content: disk }];
  await addSnapshot(files, { folder: `vm/100/${TIME}`, chunkSize: 4 * MIB, disks, config: 'boot: order=scsi0' });
  put(repo, files);
}

type Make = (repo: string) => void | Promise<void>;
const PRODUCTS: readonly (readonly [product: string, long: boolean, needs: readonly string[], make: Make])[] = [
  ['Clonezilla, gzip', false, ['partclone.vfat', 'partclone.extfs', 'gzip'], repo => clonezilla(repo, 'gzip -1', 'gz')],
  ['Clonezilla, zstd', true, ['partclone.vfat', 'partclone.extfs', 'zstd'], repo => clonezilla(repo, 'zstd -q', 'zst')],
  ['Macrium Reflect X', true, [], macrium],
  ['Proxmox Backup Server', true, [], pbs],
  [
    'VMA in zstd',
    true,
    [],
    repo =>
      put(repo, { 'a.vma.zst': zstdCompressSync(archive({ devices: [{ name: 'drive-scsi0', content: disk }] })) }),
  ],
  [
    'virtnbdbackup',
    true,
    [],
    repo =>
      put(repo, {
        'sda.full.data': stream({ size: disk.length, ranges: [{ start: 0, data: disk }], checkpoint: 'c' }),
      }),
  ],
  [
    'XVA',
    true,
    [],
    repo => put(repo, { 'a.xva': xvaFile({ disks: [{ ref: 'Ref:7', device: '0', content: disk }], sum: 'xxhash' }) }),
  ],
  ['Xen Orchestra', true, [], directory],
  [
    'EWF',
    true,
    [],
    repo => put(repo, ewfFiles({ content: disk, sectorsPerChunk: 64, perTable: 16_375, compressed: true })),
  ],
];

describe.skipIf(!able)('boots', { timeout: PATIENCE_MS }, () => {
  for (const [product, long, needs, make] of PRODUCTS) {
    test.skipIf((long && !LONG) || missing(needs) !== null)(product, async () => {
      const repo = path.join(folder, product.replaceAll(/\W/g, '-'));
      fs.mkdirSync(repo);
      await make(repo);
      const [set] = JSON.parse((await runCli(['ls', repo, '--json'])).stdout) as { set: string }[];
      const state = path.join(folder, 'state');
      const ran = await runCli([
        'boot',
        set!.set,
        '--repo',
        repo,
        '--headless',
        '--memory',
        '256M',
        '--timeout',
        '200',
        '--scratch',
        state,
      ]);
      expect([ran.code, markerIn(ran.stdout)], ran.stderr).toMatchObject([
        0,
        { firmware: 'bios', read: 'ok', write: 'ok', boots: 1, point: 0 },
      ]);
    });
  }
});
