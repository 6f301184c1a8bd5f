import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Adapter, Image, Problem, Scratch } from '../../src/base/contracts.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { localStore } from '../../src/stores/local.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { memoryScratch } from '../../test/kit/memory-scratch.ts';
import { missing, run } from '../../test/kit/oracles.ts';
import { openStack } from '../../test/kit/reference.ts';
import { expectationOf, SAMPLES, sampleMissing, scratch } from '../../test/kit/samples.ts';
import { clonezilla, partclone } from './index.ts';

// Clonezilla images, made by the programs that Clonezilla itself calls.

const TOOLS = ['sfdisk', 'mkfs.ext4', 'mkfs.fat', 'partclone.extfs', 'partclone.fat32'] as const;
const MIB = 1_048_576;
const SECTOR = 512;

async function succeed(program: string, args: readonly string[]): Promise<string> {
  const { code, out, err } = await run(program, args);
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${code}: ${err} ${out}`);
  return out;
}

interface FixturePartition {
  readonly number: number;
  readonly at: number;
  readonly length: number;
  readonly kind: 'ext4' | 'fat32' | 'swap' | 'none';
}

interface FixtureDisk {
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
async function clonezillaFolder(disk: FixtureDisk, raw: string, folder: string, work: string): Promise<void> {
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

const mbrDisk: FixtureDisk = {
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

const gptDisk: FixtureDisk = {
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

const NO_KEYS = { secrets: async () => [] };
const NAME = '2026-03-04-05-img/parts';

async function content(store: ReturnType<typeof localStore>, scratchSpace?: Scratch, name = NAME): Promise<Uint8Array> {
  const adapter: Adapter = {
    ...clonezilla,
    open: (...args) => clonezilla.open(args[0], args[1], args[2], scratchSpace),
  };
  await using stack = await openStack({ adapter, store, name, keys: NO_KEYS });
  const out = new Uint8Array(stack.size);
  for (let at = 0; at < out.length; at += MIB) await stack.read(out.subarray(at, Math.min(out.length, at + MIB)), at);
  return out;
}

/**
 * -1: they are the same. The cylinders, heads and sectors in the records of logical partitions are left out: they
 * depend on a geometry that an image does not record, and nothing reads them where sector numbers are there.
 */
function firstDifference(a: Uint8Array, b: Uint8Array): number {
  if (Buffer.compare(a, b) === 0) return -1;
  const isGeometry = (at: number): boolean => {
    const within = (at % 512) - 446;
    const isRecord = at >= 512 && a[at - (at % 512) + 510] === 0x55 && a[at - (at % 512) + 511] === 0xaa;
    return isRecord && within >= 0 && within < 32 && [1, 2, 3, 5, 6, 7].includes(within % 16);
  };
  return a.length === b.length
    ? a.findIndex((byte, i) => byte !== b[i] && !isGeometry(i))
    : Math.min(a.length, b.length);
}

async function problemsOf(image: Image): Promise<readonly Problem[]> {
  const found: Problem[] = [];
  const signal = new AbortController().signal;
  await image.verify!({ level: 1, found: problem => found.push(problem), progress() {}, signal });
  return found;
}

const absent = missing([...TOOLS, 'mkswap']);

function suite(title: string, disk: FixtureDisk): void {
  describe.skipIf(absent !== null)(`${title}${absent === null ? '' : ` (${absent})`}`, () => {
    const top = scratch();
    const raw = path.join(top, 'disk');
    const folder = path.join(top, 'store', path.dirname(NAME));
    const work = path.join(top, 'work');
    fs.mkdirSync(folder, { recursive: true });
    fs.mkdirSync(work);
    const store = localStore(path.join(top, 'store'));
    beforeAll(async () => {
      await clonezillaFolder(disk, raw, folder, work);
    });
    afterAll(() => fs.rmSync(top, { recursive: true, force: true }));
    /** A copy of the image that may be changed. */
    const copy = (change: (folder: string) => void): ReturnType<typeof localStore> => {
      const to = fs.mkdtempSync(path.join(top, 'copy-'));
      fs.cpSync(path.join(top, 'store'), to, { recursive: true });
      change(path.join(to, path.dirname(NAME)));
      return localStore(to);
    };

    test('the disk is the one that was saved', async () => {
      expect(firstDifference(await content(store), fs.readFileSync(raw))).toBe(-1);
    });

    test('sfdisk sees the same table in it', async () => {
      const file = path.join(work, 'assembled');
      fs.writeFileSync(file, await content(store));
      const dump = (of: string): string => execFileSync('sfdisk', ['-d', of]).toString().replaceAll(of, '');
      expect(dump(file)).toBe(dump(raw));
    });

    test('in a repository it is one set with one point', async () => {
      await using repository = await openRepository(store, [clonezilla, partclone], NO_KEYS);
      expect(repository.sets.map(({ name, points }) => [name, points.length, points[0]!.state])).toEqual([
        ['2026-03-04-05-img', 1, 'ok'],
      ]);
      expect(repository.sets[0]!.points[0]!.time?.toISOString()).toBe('2026-03-04T05:06:07.000Z');
      expect(repository.sets[0]!.points[0]!.disks.map(({ name, size }) => [name, size])).toEqual([['sda', disk.size]]);
    });

    test('verify finds nothing, and a byte that was changed', async () => {
      await using sound = await clonezilla.open(NAME, store, NO_KEYS);
      expect(await problemsOf(sound)).toEqual([]);
      const file = 'sda1.*-ptcl-img.uncomp';
      const damaged = copy(to => {
        const own = fs.readdirSync(to).find(name => name.startsWith(file.slice(0, 5)))!;
        const bytes = fs.readFileSync(path.join(to, own));
        bytes[bytes.length - 1000]! ^= 4;
        fs.writeFileSync(path.join(to, own), bytes);
      });
      await using broken = await clonezilla.open(NAME, damaged, NO_KEYS);
      expect(await problemsOf(broken)).toEqual([expect.objectContaining({ fault: 'corrupt', disk: 'sda1' })]);
      await expect(content(damaged)).rejects.toMatchObject({ fault: 'corrupt' });
    });

    const split = (to: string): void => {
      for (const name of fs.readdirSync(to).filter(own => own.endsWith('.uncomp'))) {
        execFileSync('split', ['-b', '70000', path.join(to, name), path.join(to, `${name}.`)]);
        fs.rmSync(path.join(to, name));
      }
    };
    test('cut into pieces, and with one of them missing', async () => {
      expect(firstDifference(await content(copy(split)), fs.readFileSync(raw))).toBe(-1);
      const gap = copy(to => {
        split(to);
        fs.rmSync(path.join(to, fs.readdirSync(to).find(name => name.endsWith('.uncomp.ab'))!));
      });
      await using image = await clonezilla.open(NAME, gap, NO_KEYS);
      expect(image.points[0]!.problem).toMatchObject({ fault: 'broken-chain', message: 'a piece is missing' });
      expect(image.points[0]!.disks.every(({ layer }) => layer === null)).toBe(true);
    });

    const packed = (program: string, ending: string) => (to: string) => {
      for (const name of fs.readdirSync(to).filter(own => own.endsWith('.uncomp'))) {
        const bare = path.join(to, name.slice(0, -7));
        execFileSync('sh', ['-c', `${program} < ${bare}.uncomp | split -b 50000 - ${bare}.${ending}.`]);
        fs.rmSync(`${bare}.uncomp`);
      }
    };
    test.each([
      ['gzip -1', 'gz'],
      ...(disk === mbrDisk
        ? [
            ['zstd -q', 'zst'],
            ['xz -0', 'xz'],
            ['lz4 -q', 'lz4'],
          ]
        : []),
    ] as [string, string][])('compressed by %s: listed, and read with scratch space', async (program, ending) => {
      if (missing([program.split(' ')[0]!]) !== null) return;
      const folderOf = copy(packed(program, ending));
      await using image = await clonezilla.open(NAME, folderOf, NO_KEYS);
      expect(image.points[0]!.problem).toMatchObject({
        fault: 'unsupported',
        hint: expect.stringMatching(/cat .* > /),
      });
      const space = memoryScratch();
      expect(firstDifference(await content(folderOf, space), fs.readFileSync(raw))).toBe(-1);
      expect(space.kept.length).toBe(disk.partitions.filter(({ kind }) => kind === 'ext4' || kind === 'fat32').length);
    });

    test('what nothing here can unpack says how to', async () => {
      const folderOf = copy(packed('cat', 'lrz'));
      await using image = await clonezilla.open(NAME, folderOf, NO_KEYS, memoryScratch());
      expect(image.points[0]!.problem?.hint).toContain('| lrzip -d -o - > sda1.');
    });

    test('the command of the hint makes it readable', async () => {
      const folderOf = copy(to => {
        packed('xz -0', 'xz')(to);
        for (const name of new Set(fs.readdirSync(to).flatMap(own => /^(.*-img)\.xz/.exec(own)?.[1] ?? []))) {
          execFileSync('sh', ['-c', `cat ${name}.xz.* | xz -dc > ${name}.uncomp`], { cwd: to });
        }
      });
      expect(firstDifference(await content(folderOf), fs.readFileSync(raw))).toBe(-1);
    });

    test('a partition that is named and missing makes the image unreadable', async () => {
      const gone = copy(to => {
        for (const name of fs.readdirSync(to)) if (name.startsWith('sda1.')) fs.rmSync(path.join(to, name));
      });
      await using image = await clonezilla.open(NAME, gone, NO_KEYS);
      expect(image.points[0]!.problem).toMatchObject({ fault: 'broken-chain' });
    });
  });
}

suite('a disk with an MBR and logical partitions', mbrDisk);
suite('a disk with a GPT', gptDisk);

test('a single compressed piece, as a sample has it', async context => {
  const sample = 'partclone/generated/sda1.ext4-ptcl-img.gz.aa';
  const reason = sampleMissing(sample);
  if (reason !== null) return context.skip(reason);
  const name = path.basename(sample);
  const store = memoryStore({ [name]: fs.readFileSync(path.join(SAMPLES, sample)) });
  const whole = await content(store, memoryScratch(), name);
  const { size, sha256 } = expectationOf(sample).expect as unknown as { size: number; sha256: string };
  expect([whole.length, createHash('sha256').update(whole).digest('hex')]).toEqual([size, sha256]);
});

test.each([
  [
    'a type that is no GUID',
    'label: gpt\n/dev/sda1 : start=2048, size=8192, type=C12A7328-F81F-11D2-BA4B',
    'has the type',
  ],
  ['a start beyond an MBR', 'label: dos\n/dev/sda1 : start=8589934592, size=8192, type=83', 'is possible'],
  ['another kind of table', 'label: sun\n', '"sun" is not known'],
])('a dump with %s makes the image unreadable', async (_, dump, message) => {
  const store = memoryStore({ parts: Buffer.from('sda1\n'), 'sda-pt.sf': Buffer.from(dump) });
  await using image = await clonezilla.open('parts', store, NO_KEYS);
  expect(image.points[0]!.problem?.message).toContain(message);
});
