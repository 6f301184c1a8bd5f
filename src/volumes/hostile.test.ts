/**
 * Damaged and hostile volumes: bytes are changed where a clean walk reads metadata. A walk then ends soon, in bounded
 * memory, with right answers or an ImageError for the file; nothing else is ever thrown.
 */
import fs from 'node:fs';
import path from 'node:path';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { afterAll, describe, expect, test } from 'vitest';
import type { Disk } from '../../src/base/contracts.ts';
import { memoryDisk } from '../../test/kit/disks.ts';
import { random } from '../../test/kit/random.ts';
import { emptyImage, lacking, plainTree, scratch, tool } from '../../test/kit/volume-images.ts';
import { volumesOf, walk } from '../../test/kit/volume-walk.ts';
import { eachUnused } from './free.ts';

const RUNS = process.env.BOOTMOUNT_LONG === '1' ? 5000 : 60;
const folder = scratch();
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

function smallTree(): string {
  const tree = path.join(folder, 'tree');
  if (fs.existsSync(tree)) return tree;
  plainTree(tree);
  for (let i = 30; i < 400; i++) fs.rmSync(path.join(tree, 'many', `File ${i} of many.dat`));
  return tree;
}

const made = (name: string, size: number, make: (file: string) => void) => (): Uint8Array => {
  const file = path.join(folder, name);
  emptyImage(file, size);
  make(file);
  return fs.readFileSync(file);
};

const SAMPLES = path.resolve(import.meta.dirname, '../../../shared/images/filesystems');
const sample = (name: string) => (): Uint8Array => {
  const bytes = fs.readFileSync(path.join(SAMPLES, name));
  return name.endsWith('.gz') ? gunzipSync(bytes) : zstdDecompressSync(bytes);
};
const noSample = (name: string): string => (fs.existsSync(path.join(SAMPLES, name)) ? '' : 'the sample is missing');
const ATTRIBUTE_LIST = 'msuhanov+dfir_ntfs/ntfs3_attrlist.raw.gz';
const EXFAT = 'msuhanov+dfir_ntfs/exfat_lin_part.raw.gz';
const XFS = 'danifunker+rusty-backup/xfs_v2_dir2_small.img.zst';
const JOURNAL = 'nicholasbishop+ext4-view-rs/test_disk_4k_block_journal.bin.zst';

const subjects: readonly (readonly [name: string, cannot: string, make: () => Uint8Array])[] = [
  [
    'ext4',
    lacking('mke2fs'),
    // Without checksums, which would find nearly every change.
    made('ext4', 16 * 2 ** 20, file =>
      tool('mke2fs', ['-q', '-F', '-t', 'ext4', '-O', '^metadata_csum', '-d', smallTree(), file]),
    ),
  ],
  [
    'ext3',
    lacking('mke2fs'),
    made('ext3', 16 * 2 ** 20, file => tool('mke2fs', ['-q', '-F', '-t', 'ext3', '-d', smallTree(), file])),
  ],
  [
    'fat32',
    lacking('mkfs.fat', 'mcopy'),
    made('fat32', 40 * 2 ** 20, file => {
      tool('mkfs.fat', ['-F', '32', '-s', '1', file]);
      tool('mcopy', [
        '-s',
        '-Q',
        '-i',
        file,
        ...fs.readdirSync(smallTree()).map(name => path.join(smallTree(), name)),
        '::',
      ]);
    }),
  ],
  [
    'btrfs',
    lacking('mkfs.btrfs'),
    made('btrfs', 120 * 2 ** 20, file => tool('mkfs.btrfs', ['-q', '-f', '--rootdir', smallTree(), file])),
  ],
  ['ntfs', noSample(ATTRIBUTE_LIST), sample(ATTRIBUTE_LIST)],
  ['exfat', noSample(EXFAT), sample(EXFAT)],
  ['xfs', noSample(XFS), sample(XFS)],
  ['ext4 with a journal', noSample(JOURNAL), sample(JOURNAL)],
];

interface Watched extends Disk {
  reads: number;
}

/** Counts reads; `seen` collects what short reads, which are those of metadata, look at. */
function watched(disk: Disk, seen: [number, number][] | null): Watched {
  return {
    ...disk,
    reads: 0,
    read(into, at) {
      this.reads++;
      if (seen !== null && into.length <= 65_536) seen.push([at, into.length]);
      return disk.read(into, at);
    },
  };
}

const LIMITS = { entries: 3000, fileBytes: 2_000_000 };

describe.each(subjects)('%s', (_name, cannot, make) => {
  test.skipIf(cannot !== '')(
    `changed bytes give right answers or an ImageError ${cannot}`,
    { timeout: 600_000 },
    async () => {
      const content = make();
      const seen: [number, number][] = [];
      const clean = watched(memoryDisk(content), seen);
      const cleanWalk = await walk((await volumesOf(clean)).volumes[0]!.volume.root, LIMITS);
      expect(cleanWalk.size).toBeGreaterThan(3);
      expect([...cleanWalk.values()].filter(({ line }) => line.startsWith('error'))).toEqual([]);
      let errors = 0;
      let slowest = 0;
      for (let run = 1; run <= RUNS; run++) {
        const { below, pick } = random(run * 7919);
        const changes: [number, number][] = [];
        for (let i = 0; i <= below(20); i++) {
          const [at, length] = pick(run % 3 === 0 ? seen : seen.slice(0, 60));
          let place = at + below(run % 2 === 0 ? length : Math.min(length, 256));
          // Most of a page of metadata is empty, and a change there mostly says nothing.
          for (let n = 0; n < 16 && content[place] === 0; n++) place = at + below(length);
          changes.push([place, content[place]!]);
          content[place] = pick([0, 1, 0x7f, 0x80, 0xff, below(256)]);
        }
        const disk = watched(memoryDisk(content), null);
        const begin = performance.now();
        const { volumes, notes } = await volumesOf(disk);
        errors += notes.length;
        for (const found of volumes) {
          try {
            const walked = await walk(found.volume.root, LIMITS);
            for (const { line } of walked.values()) if (line.startsWith('error')) errors++;
            await eachUnused(found, () => {});
          } catch (error) {
            expect(error).toHaveProperty('fault');
            errors++;
          }
        }
        slowest = Math.max(slowest, performance.now() - begin);
        expect(disk.reads).toBeLessThan(100_000);
        for (const [place, byte] of changes.reverse()) content[place] = byte;
      }
      // Control: the changes do hit something.
      expect(errors).toBeGreaterThan(0);
      expect(slowest).toBeLessThan(20_000);
      expect(process.memoryUsage().rss).toBeLessThan(1.5 * 2 ** 30);
    },
  );
});
