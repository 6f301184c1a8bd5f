import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Keyring, Problem } from '../../src/base/contracts.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { localStore } from '../../src/stores/local.ts';
import type { Structure } from '../../test/kit/adapter-checks.ts';
import { adapterKit, type MadeImage } from '../../test/kit/adapter-kit.ts';
import { fileDigest, missing, run } from '../../test/kit/oracles.ts';
import { SAMPLES, sampleMissing, scratch } from '../../test/kit/samples.ts';
import { ewf } from './index.ts';
import { Descriptor, FILE_HEADER } from './structs.ts';

const NO_KEYS: Keyring = { secrets: async () => [] };

/** Sections one by one, and the whole: every byte that matters is covered by a checksum. */
function structures(file: Uint8Array): readonly Structure[] {
  const found: Structure[] = [{ at: 0, length: file.length, checked: true }];
  for (let at = FILE_HEADER; at + Descriptor.size <= file.length; ) {
    found.push({ at, length: Descriptor.size, checked: true });
    const { next } = Descriptor.parse(file, at);
    if (next <= at) break;
    at = next;
  }
  return found;
}

const alone = {
  test: 'missing parent',
  reason: 'there is no parent; missing segments have tests of their own',
} as const;

/** A disk of whole sectors whose chunks are some zeros, some text and some noise. */
function content(size: number): Uint8Array {
  const disk = Buffer.alloc(size);
  for (let at = 0, seed = 1; at < size; at += 4096) {
    const part = disk.subarray(at, at + 4096);
    const kind = Math.floor(at / 4096) % 7;
    if (kind < 3) continue;
    for (let i = 0; i < part.length; i++) {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
      part[i] = kind === 3 ? 65 + (i % 26) : seed >>> 24;
    }
  }
  return disk;
}

function acquire(folder: string, name: string, options: readonly string[], size: number): void {
  fs.writeFileSync(path.join(folder, 'disk.raw'), content(size));
  const all = ['-u', '-q', '-t', path.join(folder, name), ...options, path.join(folder, 'disk.raw')];
  execFileSync('ewfacquire', all, { stdio: ['ignore', 'ignore', 'inherit'] });
}

const acquired = (format: string, extension: string, options: readonly string[], size: number): MadeImage => ({
  title: `${format} ${options.join(' ')}`,
  needs: ['ewfacquire'],
  structures,
  skip: [alone],
  async make(folder) {
    acquire(folder, 'made', ['-f', format, ...options], size);
    return { file: `made.${extension}`, raw: 'disk.raw' };
  },
});

adapterKit(ewf, {
  images: [
    { sample: 'ewf/plaso/image.E01', structures },
    { sample: 'ewf/sleuthkit/image.E01', structures },
    { sample: 'ewf/generated/q-smart.s01', structures },
    { sample: 'ewf/generated/q-encase6.E01', structures },
    { sample: 'ewf/generated/q-ewfx.e01', structures },
    { sample: 'ewf/dfvfs/ext2.E01', structures },
    { sample: 'ewf/sleuthkit/imageformat_mmls_1.E01', structures },
    {
      sample: 'ewf/generated/q-split.E01',
      beside: [2, 3, 4, 5, 6].map(number => `ewf/generated/q-split.E0${number}`),
      structures,
      skip: [alone],
    },
    acquired('encase1', 'E01', ['-c', 'none', '-b', '16'], 2_000_384),
    acquired('encase5', 'E01', ['-c', 'empty-block', '-b', '128'], 1_500_160),
    acquired('ewf', 'e01', ['-c', 'fast', '-S', '1048576'], 3_000_320),
    acquired('linen6', 'E01', ['-c', 'best', '-b', '64', '-d', 'sha1'], 1_048_576),
  ],
});

const NAMES = ['q-encase6.E01', 'q-ewfx.e01', 'q-smart.s01', 'q-split.E01'];
const there = sampleMissing('ewf/generated/q-split.E01') === null;

async function verified(folder: string, name: string, level: 1 | 2 | 3 = 3): Promise<readonly Problem[]> {
  await using image = await ewf.open(name, localStore(folder), NO_KEYS);
  const problems: Problem[] = [];
  const { signal } = new AbortController();
  await image.verify!({ level, found: problem => problems.push(problem), progress: () => {}, signal });
  return problems;
}

describe.skipIf(!there)('the samples', () => {
  const generated = path.join(SAMPLES, 'ewf/generated');

  test('verify finds nothing wrong', async () => {
    for (const name of NAMES) expect(await verified(generated, name), name).toEqual([]);
    for (const file of [
      'dfvfs/ext2.E01',
      'plaso/image.E01',
      'sleuthkit/image.E01',
      'sleuthkit/imageformat_mmls_1.E01',
    ]) {
      expect(await verified(path.join(SAMPLES, 'ewf', path.dirname(file)), path.basename(file)), file).toEqual([]);
    }
  });

  test('the segments of a split image are one restore point', async () => {
    await using repository = await openRepository(localStore(generated), [ewf], NO_KEYS);
    const shown = repository.sets.map(({ name, points }) => [name, points.map(p => [p.file, p.state])]);
    expect(shown).toEqual([
      ['q-encase6', [['q-encase6.E01', 'ok']]],
      ['q-ewfx', [['q-ewfx.e01', 'ok']]],
      ['q-smart', [['q-smart.s01', 'ok']]],
      ['q-split', [['q-split.E01', 'ok']]],
    ]);
    expect(repository.unknown).toEqual([]);
  });

  test('the case, as the examiner named it', async () => {
    await using image = await ewf.open('q-encase6.E01', localStore(generated), NO_KEYS);
    expect(image.notes).toEqual(['case: case', 'evidence: ev', 'description: desc', 'examiner: ex', 'notes: note']);
    await using old = await ewf.open('q-smart.s01', localStore(generated), NO_KEYS);
    expect(old.notes).toEqual(image.notes);
  });

  test('the time of the acquisition', async () => {
    const timeOf = async (file: string): Promise<string | undefined> => {
      await using image = await ewf.open(
        path.basename(file),
        localStore(path.join(SAMPLES, path.dirname(file))),
        NO_KEYS,
      );
      return image.points[0]!.time?.toISOString();
    };
    // Seconds since 1970 in the first two, a date without a zone in the last.
    expect(await timeOf('ewf/generated/q-encase6.E01')).toBe('2026-11-20T16:26:21.000Z');
    expect(await timeOf('ewf/plaso/image.E01')).toBe('2013-12-10T11:28:38.000Z');
    expect(await timeOf('ewf/sleuthkit/imageformat_mmls_1.E01')).toBe('2018-05-16T15:05:08.000Z');
  });
});

const FORMATS = [
  ['ewf', 'e01'],
  ['smart', 's01'],
  ['ftk', 'E01'],
  ['encase1', 'E01'],
  ['encase2', 'E01'],
  ['encase3', 'E01'],
  ['encase4', 'E01'],
  ['encase5', 'E01'],
  ['encase6', 'E01'],
  ['linen5', 'E01'],
  ['linen6', 'E01'],
  ['ewfx', 'e01'],
] as const;

test.skipIf(missing(['ewfacquire', 'ewfexport', 'ewfverify']) !== null)(
  'libewf reads the same disk from what libewf wrote in every format',
  async () => {
    const folder = scratch();
    try {
      for (const [format, extension] of FORMATS) {
        acquire(folder, format, ['-f', format, '-c', 'fast'], 500_224);
        const name = `${format}.${extension}`;
        const file = path.join(folder, name);
        expect((await run('ewfverify', ['-q', file])).code, format).toBe(0);
        await run('ewfexport', ['-q', '-u', '-f', 'raw', '-t', path.join(folder, format), file]);
        const theirs = await fileDigest(path.join(folder, `${format}.raw`));
        await using repository = await openRepository(localStore(folder), [ewf], NO_KEYS);
        const point = repository.sets.flatMap(({ points }) => points).find(p => p.file === name);
        await using disk = await point!.openDisk(0);
        const whole = new Uint8Array(disk.size);
        await disk.read(whole, 0);
        expect(createHash('sha256').update(whole).digest('hex'), format).toBe(theirs);
        expect(await verified(folder, name), format).toEqual([]);
      }
    } finally {
      fs.rmSync(folder, { recursive: true });
    }
  },
);
