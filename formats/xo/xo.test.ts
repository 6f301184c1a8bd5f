import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { gzipSync, zstdDecompressSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import type { Image, Keyring, Problem } from '../../src/base/contracts.ts';
import { viewOf } from '../../src/base/struct.ts';
import { headerSum } from '../../src/base/vhd.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { adapterKit, type MadeImage } from '../../test/kit/adapter-kit.ts';
import { expectationOf, SAMPLES, sampleMissing } from '../../test/kit/samples.ts';
import { type DirectorySpec, directoryFiles, type Files } from './fixtures.ts';
import { xo } from './index.ts';

const NO_KEYS: Keyring = { secrets: async () => [] };
const BLOCK = 65_536;
const SIZE = 40 * BLOCK - 512;
const VDI = 'xo-vm-backups/vm/vdis/job/vdi';
const BASE = `${VDI}/20261120T100000Z.alias.vhd`;
const CHILD = `${VDI}/20261121T100000Z.alias.vhd`;

const block = (seed: number): Uint8Array => Uint8Array.from({ length: BLOCK }, (_, i) => (i * seed + (i >> 8)) % 251);
const each = (numbers: readonly number[], seed: number, bits?: (sector: number) => boolean): DirectorySpec['blocks'] =>
  new Map(numbers.map(n => [n, { data: block(seed + n), ...(bits === undefined ? {} : { bits }) }]));

const base = (filter: DirectorySpec['filter'] = null): Files => {
  const spec = { uuid: 1, size: SIZE, blockSize: BLOCK, blocks: each([0, 1, 5, 17, 39], 3), filter };
  return directoryFiles(`${VDI}/data/base.vhd`, spec, [BASE, 'data/base.vhd']);
};
const someSectors = (sector: number): boolean => sector % 5 < 2;
const child = (filter: DirectorySpec['filter'] = null): Files => {
  const parent = { uuid: 1, name: '20261120T100000Z.alias.vhd' };
  const spec = { uuid: 2, parent, size: SIZE, blockSize: BLOCK, blocks: each([1, 6, 39], 90, someSectors), filter };
  return directoryFiles(`${VDI}/data/child.vhd`, spec, [CHILD, './data/child.vhd\n']);
};

/** What the fixtures mean, put together by the plainest means. */
function twin(withChild: boolean): Buffer {
  const disk = Buffer.alloc(40 * BLOCK);
  for (const n of [0, 1, 5, 17, 39]) disk.set(block(3 + n), n * BLOCK);
  for (const n of withChild ? [1, 6, 39] : []) {
    for (let s = 0; s < BLOCK / 512; s++) {
      if (someSectors(s)) disk.set(block(90 + n).subarray(s * 512, s * 512 + 512), n * BLOCK + s * 512);
    }
  }
  return disk.subarray(0, SIZE);
}

function put(folder: string, files: Files): void {
  for (const [name, data] of Object.entries(files)) {
    fs.mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
    fs.writeFileSync(path.join(folder, name), data);
  }
}

const made = (title: string, files: Files, file: string, content: Buffer): MadeImage => ({
  title,
  needs: [],
  skip: [
    { test: 'sources closed', reason: 'files are open only while they are read' },
    { test: 'missing parent', reason: 'alone, an alias has no directory; a missing parent has a test of its own' },
    ...(file === CHILD ? [{ test: 'parallel readers', reason: 'the parent is read beside it' } as const] : []),
  ],
  structures: alias => [{ at: 0, length: alias.length, checked: true }],
  async make(folder) {
    put(folder, files);
    fs.writeFileSync(path.join(folder, 'twin'), content);
    return { file, raw: 'twin' };
  },
});

adapterKit(xo, {
  images: [
    made('a full one', base('none'), BASE, twin(false)),
    made('a differencing one, gzip over brotli', { ...base('brotli'), ...child('gzip') }, CHILD, twin(true)),
    made('by its footer', rooted('none'), 'disk.vhd/footer', twin(false)),
  ],
});

/** A directory without an alias. */
function rooted(filter: DirectorySpec['filter']): Files {
  const files = Object.entries(base(filter)).filter(([name]) => name !== BASE);
  return Object.fromEntries(files.map(([name, data]) => [name.replace(`${VDI}/data/base.vhd`, 'disk.vhd'), data]));
}

const open = (files: Files, name = BASE): Promise<Image> => xo.open(name, memoryStore(files), NO_KEYS);

async function verify(image: Image, level: 1 | 2 | 3): Promise<readonly Problem[]> {
  const problems: Problem[] = [];
  const { signal } = new AbortController();
  await image.verify!({ level, found: problem => problems.push(problem), progress: () => {}, signal });
  return problems;
}

describe('a remote', () => {
  test('points are named after their aliases, and the chain reads with every pair of filters', async () => {
    for (const below of [null, 'none', 'gzip', 'brotli'] as const) {
      for (const above of [null, 'brotli'] as const) {
        const store = memoryStore({ ...base(below), ...child(above) });
        await using repository = await openRepository(store, [xo], NO_KEYS);
        expect(repository.unknown).toEqual([]);
        expect(repository.sets.map(({ points }) => points.map(p => [p.name, p.type, p.state]))).toEqual([
          [
            ['2026-11-20T10-00-00Z', 'full', 'ok'],
            ['2026-11-21T10-00-00Z', 'incremental', 'ok'],
          ],
        ]);
        for (const [i, point] of repository.sets[0]!.points.entries()) {
          await using disk = await point.openDisk(0);
          const whole = new Uint8Array(disk.size);
          await disk.read(whole, 0);
          expect(Buffer.compare(whole, twin(i === 1)), `${below} ${above}`).toBe(0);
        }
      }
    }
  });

  test('a missing parent breaks the chain', async () => {
    await using repository = await openRepository(memoryStore(child()), [xo], NO_KEYS);
    expect(repository.sets[0]!.points[0]!.problem).toMatchObject({ fault: 'broken-chain' });
  });
});

const PAIR = ['vhd/generated-diff/parent.vhd.zst', 'vhd/generated-diff/child.vhd.zst'];

/** The parts of a dynamic or differencing VHD as the files of a directory. */
function takenApart(name: string, file: Buffer): Files {
  const headerAt = Number(file.readBigUInt64BE(16));
  const header = file.subarray(headerAt, headerAt + 1024);
  const tableAt = Number(header.readBigUInt64BE(16));
  const blockSize = header.readUInt32BE(32);
  const length = blockSize + Math.ceil(blockSize / 512 / 8 / 512) * 512;
  const table = new Uint8Array(header.readUInt32BE(28));
  const files: Files = {};
  for (let i = 0; i < table.length; i++) {
    const at = file.readUInt32BE(tableAt + i * 4);
    if (at === 0xffff_ffff) continue;
    table[Math.floor(i / 8)]! |= 0x80 >> (i % 8);
    files[`${name}/blocks/0/${i}`] = gzipSync(file.subarray(at * 512, at * 512 + length));
  }
  files[`${name}/footer`] = gzipSync(file.subarray(0, 512));
  files[`${name}/header`] = gzipSync(header);
  files[`${name}/bat`] = gzipSync(table);
  files[`${name}/chunk-filters.json`] = Buffer.from('["gzip"]');
  return files;
}

test.skipIf(PAIR.some(file => sampleMissing(file) !== null))('a chain of two VHDs, taken apart', async () => {
  const read = (file: string): Buffer => zstdDecompressSync(fs.readFileSync(path.join(SAMPLES, file)));
  const files = { ...takenApart('a.vhd', read(PAIR[0]!)), ...takenApart('b.vhd', read(PAIR[1]!)) };
  await using repository = await openRepository(memoryStore(files), [xo], NO_KEYS);
  const points = repository.sets.flatMap(set => set.points);
  expect(points.map(point => point.file)).toEqual(['a.vhd/footer', 'b.vhd/footer']);
  for (const [i, point] of points.entries()) {
    await using disk = await point.openDisk(0);
    const whole = new Uint8Array(disk.size);
    await disk.read(whole, 0);
    const { size, sha256 } = expectationOf(PAIR[i]!).expect as { kind: string; size: number; sha256: string };
    expect([whole.length, createHash('sha256').update(whole).digest('hex')], point.file).toEqual([size, sha256]);
  }
});

describe('damage', () => {
  const without = (name: string): Files => {
    const files = base('gzip');
    delete files[`${VDI}/data/base.vhd/${name}`];
    return files;
  };

  test('a missing or damaged block is an error for that block alone', async () => {
    const missing = without('blocks/0/5');
    const damaged = base('gzip');
    const file = damaged[`${VDI}/data/base.vhd/blocks/0/5`]!;
    file[Math.floor(file.length / 2)]! ^= 8;
    for (const files of [missing, damaged]) {
      await using image = await open(files);
      const { layer } = image.points[0]!.disks[0]!;
      await expect(layer!.unpack(5, new Uint8Array(BLOCK))).rejects.toMatchObject({ fault: 'corrupt' });
      await layer!.unpack(17, new Uint8Array(BLOCK));
      expect(await verify(image, 3)).toMatchObject([{ fault: 'corrupt', block: 5 }]);
    }
    const short = { ...base(), [`${VDI}/data/base.vhd/blocks/0/5`]: new Uint8Array(700) };
    await using image = await open(short);
    expect(await verify(image, 2)).toMatchObject([{ fault: 'corrupt', block: 5 }]);
    await using sound = await open(base());
    expect(await verify(sound, 3)).toEqual([]);
  });

  test('missing and damaged descriptions are refused', async () => {
    for (const name of ['footer', 'header', 'bat']) {
      await expect(open(without(name)), name).rejects.toMatchObject({ fault: 'corrupt' });
    }
    const flipped = base();
    flipped[`${VDI}/data/base.vhd/footer`]![50]! ^= 1;
    await expect(open(flipped)).rejects.toMatchObject({ fault: 'corrupt' });
    const large = base();
    const header = large[`${VDI}/data/base.vhd/header`]!;
    header[32] = 0x40;
    viewOf(header).setUint32(36, headerSum(header));
    await expect(open(large)).rejects.toMatchObject({ fault: 'unsupported' });
    // The last one is a name that every object answers to.
    for (const filter of ['lzma', 'constructor']) {
      const filters = { ...base(), [`${VDI}/data/base.vhd/chunk-filters.json`]: Buffer.from(`["${filter}"]`) };
      await expect(open(filters)).rejects.toMatchObject({ fault: 'unsupported' });
    }
  });

  test('an alias leads to a directory inside the repository, and nowhere else', async () => {
    for (const [target, fault] of [
      ['../../../../../../../etc/passwd', 'corrupt'],
      ['/etc', 'corrupt'],
      ['20261120T100000Z.alias.vhd', 'corrupt'],
      ['x'.repeat(2000), 'corrupt'],
      ['', 'unsupported'],
      ['\x01\x93\xff', 'unsupported'],
      ['data/none.vhd', 'corrupt'],
    ] as const) {
      await expect(open({ ...base(), [BASE]: Buffer.from(target, 'latin1') })).rejects.toMatchObject({ fault });
    }
  });

  test('a bomb is not unpacked further than a block goes', async () => {
    const blocks = new Map([[0, { data: new Uint8Array(2 ** 26) }]]);
    const large = directoryFiles('e.vhd', { uuid: 1, size: 2 ** 26, blockSize: 2 ** 26, blocks, filter: 'gzip' });
    const files = base('gzip');
    files[`${VDI}/data/base.vhd/blocks/0/5`] = large['e.vhd/blocks/0/0']!;
    await using image = await open(files);
    const { layer } = image.points[0]!.disks[0]!;
    await expect(layer!.unpack(5, new Uint8Array(BLOCK))).rejects.toMatchObject({ fault: 'corrupt' });
  });
});
