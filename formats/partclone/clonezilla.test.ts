import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Image, Problem } from '../../src/base/contracts.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { localStore } from '../../src/stores/local.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { missing } from '../../test/kit/oracles.ts';
import { openStack } from '../../test/kit/reference.ts';
import { expectationOf, SAMPLES, sampleMissing, scratch } from '../../test/kit/samples.ts';
import { clonezillaFolder, type FixtureDisk, gptDisk, MIB, mbrDisk, TOOLS } from './fixtures.ts';
import { clonezilla, clonezillaAdapter, partclone } from './index.ts';

const NO_KEYS = { secrets: async () => [] };
const NAME = '2026-03-04-05-img/parts';

async function content(store: ReturnType<typeof localStore>, adapter = clonezilla, name = NAME): Promise<Uint8Array> {
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
      ['zstd -q', 'zst'],
    ])('compressed by %s: listed, and read with a scratch store', async (program, ending) => {
      const folderOf = copy(packed(program, ending));
      await using image = await clonezilla.open(NAME, folderOf, NO_KEYS);
      expect(image.points[0]!.problem).toMatchObject({
        fault: 'unsupported',
        hint: expect.stringMatching(/cat .* > /),
      });
      const space = memoryStore();
      expect(firstDifference(await content(folderOf, clonezillaAdapter(space)), fs.readFileSync(raw))).toBe(-1);
      const names: string[] = [];
      for await (const { name } of space.list()) names.push(name);
      expect(names.length).toBe(disk.partitions.filter(({ kind }) => kind === 'ext4' || kind === 'fat32').length);
    });

    test('what nothing here can unpack says how to', async () => {
      const folderOf = copy(packed('xz -0', 'xz'));
      await using image = await clonezillaAdapter(memoryStore()).open(NAME, folderOf, NO_KEYS);
      expect(image.points[0]!.problem?.hint).toContain('| xz -dc > sda1.');
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
  const whole = await content(store, clonezillaAdapter(memoryStore()), name);
  const { size, sha256 } = expectationOf(sample).expect as unknown as { size: number; sha256: string };
  expect([whole.length, createHash('sha256').update(whole).digest('hex')]).toEqual([size, sha256]);
});
