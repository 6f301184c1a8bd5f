import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import type { Image, Keyring, Problem } from '../../src/base/contracts.ts';
import { localStore } from '../../src/stores/local.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import type { Structure } from '../../test/kit/adapter-checks.ts';
import { adapterKit, type MadeImage } from '../../test/kit/adapter-kit.ts';
import { memoryScratch } from '../../test/kit/memory-scratch.ts';
import { missing } from '../../test/kit/oracles.ts';
import { locate } from '../../test/kit/reference.ts';
import { expectationOf, sampleMissing, scratch, unpackSample } from '../../test/kit/samples.ts';
import { counted } from '../../test/kit/tampered.ts';
import { description, tarMember, type XvaSpec, xvaFile } from './fixtures.ts';
import { xva } from './index.ts';
import { xxhash64 } from './xxhash64.ts';

const BLOCK = 1_048_576;
const NO_KEYS: Keyring = { secrets: async () => [] };
const SAMPLE = 'xva/generated/t.xva.zst';
const ALONE = { test: 'missing parent', reason: 'an archive has no parent' } as const;

/** Whole blocks of zeros, and blocks with something in them. */
function content(size: number, seed: number): Uint8Array {
  const disk = new Uint8Array(size);
  for (let at = 0; at < size; at++) {
    if (Math.floor(at / BLOCK) % 3 !== 1) disk[at] = (at * seed + Math.floor(at / 257)) % 256;
  }
  return disk;
}

const SMALL = content(2 * BLOCK + 512, 3);
const LARGE = content(5 * BLOCK + 70_144, 7);
const DISKS: XvaSpec['disks'] = [
  { ref: 'Ref:12', content: SMALL, device: '1' },
  { ref: 'Ref:7', content: LARGE, device: '0' },
];

/** Everything behind the description is covered by a checksum of a header or of a block. */
const structures = (file: Uint8Array): readonly Structure[] => {
  const from = 512 + Math.ceil(Number.parseInt(Buffer.from(file.subarray(124, 135)).toString('latin1'), 8) / 512) * 512;
  return [
    { at: 0, length: from, checked: false },
    { at: from, length: file.length - from, checked: true },
    { at: from, length: 512, checked: true },
    { at: from + 512 + BLOCK, length: 1024, checked: true },
  ];
};

const made = (title: string, spec: XvaSpec): MadeImage => ({
  title,
  needs: [],
  structures: file => structures(file).map(each => (spec.sum === 'none' ? { ...each, checked: false } : each)),
  skip: [ALONE],
  async make(folder) {
    fs.writeFileSync(path.join(folder, 'made.xva'), xvaFile(spec));
    fs.writeFileSync(
      path.join(folder, 'twin'),
      spec.disks.toSorted((a, b) => (a.device < b.device ? -1 : 1))[0]!.content,
    );
    return { file: 'made.xva', raw: 'twin' };
  },
});

const sample: MadeImage = {
  title: 'the sample by xva-img',
  needs: [],
  structures,
  skip: [ALONE],
  async make(folder) {
    const file = unpackSample(SAMPLE, folder);
    // Blocks 0, 3 and 7 of a disk of 8 MiB; its digest is the one that is known.
    const archive = fs.readFileSync(path.join(folder, file));
    const twin = Buffer.alloc(8 * BLOCK);
    for (const [i, number] of [0, 3, 7].entries())
      archive.copy(twin, number * BLOCK, 1536 + i * (BLOCK + 1536), 1536 + i * (BLOCK + 1536) + BLOCK);
    const { points } = expectationOf(SAMPLE).expect as unknown as { points: Record<string, { sha256: string }> };
    expect(createHash('sha256').update(twin).digest('hex')).toBe(points['Ref:7']!.sha256);
    fs.writeFileSync(path.join(folder, 'twin'), twin);
    return { file, raw: 'twin' };
  },
};

const packaged: MadeImage = {
  title: 'packaged by xva-img',
  needs: ['xva-img'],
  structures,
  skip: [ALONE],
  async make(folder) {
    // xva-img leaves out what does not fill a block.
    const size = 4 * BLOCK;
    const aside = fs.mkdtempSync(`${folder}-aside-`);
    fs.writeFileSync(
      path.join(aside, 'ova.xml'),
      description({ disks: [{ ref: 'Ref:5', content: LARGE.subarray(0, size), device: '0' }] }),
    );
    fs.writeFileSync(path.join(folder, 'twin'), LARGE.subarray(0, size));
    fs.mkdirSync(path.join(aside, 'Ref:5'));
    execFileSync('xva-img', ['disk-import', 'Ref:5', path.join(folder, 'twin')], { cwd: aside });
    execFileSync('xva-img', ['package', path.join(folder, 'made.xva'), './ova.xml', './Ref:5'], { cwd: aside });
    fs.rmSync(aside, { recursive: true });
    return { file: 'made.xva', raw: 'twin' };
  },
};

adapterKit(xva, {
  images: [
    ...(sampleMissing(SAMPLE) === null ? [sample] : []),
    packaged,
    made('SHA-1, two disks', { disks: DISKS, sum: 'sha1' }),
    made('xxHash, two disks that take turns', { disks: DISKS, sum: 'xxhash', mixed: true }),
    made('no checksums', { disks: DISKS, sum: 'none', mixed: true }),
  ],
});

const open = (file: Uint8Array, name = 'vm.xva'): Promise<Image> =>
  xva.open(name, memoryStore({ [name]: file }), NO_KEYS);

async function readDisk(image: Image, index: number): Promise<Uint8Array> {
  const { layer, size } = image.points[0]!.disks[index]!;
  const whole = new Uint8Array(size);
  for (let at = 0; at < size; ) {
    const found = await locate(layer!, at, size - at);
    const part = whole.subarray(at, at + found.length);
    if (found.kind === 'plain') await found.source.read(part, found.at);
    if (found.kind === 'packed') {
      const unit = new Uint8Array(BLOCK);
      await layer!.unpack(found.unit, unit);
      part.set(unit.subarray(found.within, found.within + part.length));
    }
    at += found.length;
  }
  return whole;
}

async function verify(image: Image, level: 1 | 2 | 3 = 3): Promise<readonly Problem[]> {
  const problems: Problem[] = [];
  const { signal } = new AbortController();
  await image.verify!({ level, found: problem => problems.push(problem), progress: () => {}, signal });
  return problems;
}

describe('archives', () => {
  test('machine, time and disks in the order of their devices', async () => {
    await using image = await open(
      xvaFile({ disks: DISKS, sum: 'sha1', name: 'web <1> & co' }),
      'x/20261120T100000Z.xva',
    );
    const point = image.points[0]!;
    expect(point).toMatchObject({ set: 'web <1> & co', time: new Date('2026-11-20T10:00:00Z'), problem: null });
    expect(point.disks.map(({ name, size }) => [name, size])).toEqual([
      ['disk0', LARGE.length],
      ['disk1', SMALL.length],
    ]);
    expect(Buffer.compare(await readDisk(image, 0), LARGE)).toBe(0);
    expect(Buffer.compare(await readDisk(image, 1), SMALL)).toBe(0);
    expect(await verify(image)).toEqual([]);
    await using other = await open(xvaFile({ disks: DISKS, sum: 'sha1' }));
    expect(other.points[0]!.time).toEqual(new Date('2026-11-20T09:08:07Z'));
  });

  test('without sizes a disk ends with its last block', async () => {
    await using image = await open(xvaFile({ disks: DISKS, sum: 'xxhash', sizes: false }));
    expect(image.points[0]!.disks.map(({ size }) => size)).toEqual([6 * BLOCK, 3 * BLOCK]);
  });

  test('only the way to the asked block is read, and a checked block is read as it lies', async () => {
    const { store, reads } = counted(memoryStore({ 'vm.xva': xvaFile({ disks: DISKS, sum: 'sha1' }) }));
    await using image = await xva.open('vm.xva', store, NO_KEYS);
    const { layer } = image.points[0]!.disks[1]!;
    const before = reads();
    await layer!.load(0, 1);
    expect(reads() - before).toBeLessThanOrEqual(4);
    expect(layer!.locate(5, 10)).toMatchObject({ kind: 'packed', unit: 0, within: 5 });
    await layer!.unpack(0, new Uint8Array(BLOCK));
    expect(layer!.locate(5, 10)).toMatchObject({ kind: 'plain', length: 10 });
  });

  test('members of length 0 are holes, and long names are understood', async () => {
    const long = `${'d/'.repeat(60)}Ref:9`;
    const data = Buffer.alloc(BLOCK, 5);
    const pax = (name: string): Buffer => {
      const record = ` path=${name}\n`;
      return tarMember('pax', Buffer.from(`${record.length + 3}${record}`), 'x');
    };
    const file = Buffer.concat([
      tarMember('ova.xml', Buffer.from('<other/>')),
      pax(`${long}/00000000`),
      tarMember('short', data),
      tarMember('././@LongLink', Buffer.from(`${long}/00000002\0`), 'L'),
      tarMember('short', new Uint8Array(0)),
      pax(`${long}/00000003`),
      tarMember('short', data.subarray(0, 1024)),
      Buffer.alloc(1024),
    ]);
    await expect(open(file)).rejects.toMatchObject({ fault: 'corrupt' });
    const described = Buffer.concat([tarMember('ova.xml', Buffer.from('<value></value>')), file.subarray(1024)]);
    await using image = await open(described);
    const got = await readDisk(image, 0);
    expect(got.length).toBe(3 * BLOCK + 1024);
    expect([got[0], got[BLOCK], got[2 * BLOCK + 7], got[3 * BLOCK]]).toEqual([5, 0, 0, 5]);
  });

  const compressed: readonly (readonly [string, (file: Uint8Array) => Uint8Array])[] = [
    ['gzip', gzipSync],
    ['zstd', zstdCompressSync],
  ];
  test.each(compressed)('compressed by %s: listed without scratch space, and read with it', async (_, pack) => {
    const packed = pack(xvaFile({ disks: DISKS, sum: 'sha1' }));
    expect(xva.probe(packed, packed, 'vm.xva')).toBe('certain');
    expect(xva.probe(packed, packed, 'vm.tar.gz')).toBe('no');
    const store = memoryStore({ 'vm.xva': packed });
    await using listed = await xva.open('vm.xva', store, NO_KEYS);
    expect(listed.points[0]).toMatchObject({
      problem: { fault: 'unsupported', hint: expect.stringMatching(/ -dc < "vm.xva" > "vm-unpacked.xva"$/) },
      disks: [{ size: LARGE.length, layer: null }, {}],
    });
    const space = memoryScratch();
    await using image = await xva.open('vm.xva', store, NO_KEYS, space);
    expect([image.points[0]!.problem, image.points[0]!.disks[0]!.layer!.deferred!(), space.kept]).toEqual([
      null,
      true,
      [],
    ]);
    expect(Buffer.compare(await readDisk(image, 0), LARGE)).toBe(0);
    expect([image.points[0]!.disks[0]!.layer!.deferred!(), space.kept.length]).toEqual([false, 1]);
    const cut = memoryStore({ 'vm.xva': packed.subarray(0, packed.length >> 1) });
    await using broken = await xva.open('vm.xva', cut, NO_KEYS, memoryScratch());
    await expect(readDisk(broken, 0)).rejects.toMatchObject({ fault: 'corrupt' });
  });

  test('a compressed one that has no ova.xml is refused', async () => {
    await expect(open(gzipSync(Buffer.alloc(10)))).rejects.toMatchObject({ fault: 'corrupt' });
    await expect(open(gzipSync(tarMember('other.xml', Buffer.alloc(600))))).rejects.toMatchObject({
      fault: 'not-this-format',
    });
  });
});

describe('damage', () => {
  const FILE = xvaFile({ disks: DISKS, sum: 'sha1' });
  const find = (name: string): number => FILE.indexOf(`${name}\0`, 0, 'latin1');
  const changed = (change: (file: Buffer) => void): Buffer => {
    const file = Buffer.from(FILE);
    change(file);
    return file;
  };

  test('a flipped byte is an error for its block alone, and verify finds it', async () => {
    for (const sum of ['sha1', 'xxhash'] as const) {
      const file = xvaFile({ disks: DISKS, sum });
      file[file.indexOf('Ref:7/00000002\0', 0, 'latin1') + 512 + 99]! ^= 4;
      await using image = await open(file);
      const { layer } = image.points[0]!.disks[0]!;
      await layer!.load(2 * BLOCK, 1);
      await expect(layer!.unpack(2, new Uint8Array(BLOCK))).rejects.toMatchObject({ fault: 'corrupt' });
      await layer!.unpack(0, new Uint8Array(BLOCK));
      expect(await verify(image)).toMatchObject([{ fault: 'corrupt', disk: 'disk0', block: 2 }]);
      expect(await verify(image, 2)).toEqual([]);
    }
  });

  test('an archive that was cut off reads as far as it goes, never as zeros', async () => {
    for (const end of [find('Ref:7/00000003'), find('Ref:7/00000003') + 700_000, FILE.length - 1024]) {
      await using image = await open(FILE.subarray(0, end));
      const { layer } = image.points[0]!.disks[0]!;
      const whole = end > find('Ref:7/00000005');
      await layer!.load(0, 1);
      await layer!.unpack(0, new Uint8Array(BLOCK));
      if (!whole) await expect(layer!.load(4 * BLOCK, 1)).rejects.toMatchObject({ fault: 'corrupt' });
      expect((await verify(image, 1)).length).toBeGreaterThan(0);
    }
    // With a proper end, the missing last block shows.
    const short = Buffer.concat([FILE.subarray(0, find('Ref:7/00000003')), Buffer.alloc(1024)]);
    await using image = await open(short);
    const { layer } = image.points[0]!.disks[0]!;
    await layer!.load(4 * BLOCK, 1);
    expect(() => layer!.locate(4 * BLOCK, 1)).toThrow(/the rest of the disk is missing/);
    expect(await verify(image, 1)).toMatchObject([{ disk: 'disk0', fault: 'corrupt' }]);
  });

  test('a header that does not hold, blocks out of order and absurd sizes are refused', async () => {
    const head = find('Ref:7/00000002');
    const swapped = Buffer.concat([
      tarMember('ova.xml', Buffer.from(description({ disks: DISKS }))),
      tarMember('Ref:7/00000001', Buffer.alloc(BLOCK, 1)),
      tarMember('Ref:7/00000000', Buffer.alloc(BLOCK, 1)),
      Buffer.alloc(1024),
    ]);
    const tooLong = Buffer.concat([
      tarMember('ova.xml', Buffer.from(description({ disks: DISKS }))),
      tarMember('Ref:7/00000000', Buffer.alloc(BLOCK + 512)),
      Buffer.alloc(1024),
    ]);
    const broken = changed(file => {
      file[head + 3]! ^= 1;
    });
    for (const file of [broken, swapped, tooLong]) {
      await using image = await open(file);
      await expect(image.points[0]!.disks[0]!.layer!.load(3 * BLOCK, 1)).rejects.toThrow();
      expect((await verify(image, 1)).length).toBeGreaterThan(0);
    }
  });

  test('descriptions that are no XML-RPC or too deep are refused', async () => {
    const deep = '<value><array><data>'.repeat(10_000);
    for (const xml of [
      '',
      'nothing',
      '<value><struct><member></member>',
      '<value><array><data>',
      deep,
      '<value><int>3</value>',
    ]) {
      const file = Buffer.concat([tarMember('ova.xml', Buffer.from(xml)), Buffer.alloc(1024)]);
      await expect(open(file), xml.slice(0, 40)).rejects.toMatchObject({ fault: 'corrupt' });
    }
  });
});

test('xxHash of known texts, and as xxhsum has it', async () => {
  expect(xxhash64(new Uint8Array(0)).toString(16)).toBe('ef46db3751d8e999');
  expect(xxhash64(Buffer.from('Nobody inspects the spammish repetition')).toString(16)).toBe('fbcea83c8a378bf1');
  if (missing(['xxh64sum']) !== null) return;
  const folder = scratch();
  try {
    for (const length of [1, 7, 31, 32, 33, 63, 100, 4095, 65_536, 1_048_576]) {
      const file = path.join(folder, 'data');
      const data = LARGE.subarray(11, 11 + length);
      fs.writeFileSync(file, data);
      const theirs = execFileSync('xxh64sum', [file], { encoding: 'utf8' }).slice(0, 16);
      expect(xxhash64(data).toString(16).padStart(16, '0'), `${length} bytes`).toBe(theirs);
    }
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
});

test.skipIf(missing(['xva-img', 'tar']) !== null)('xva-img exports the same disk', async () => {
  const folder = scratch();
  try {
    fs.writeFileSync(path.join(folder, 'vm.xva'), xvaFile({ disks: DISKS, sum: 'sha1' }));
    execFileSync('tar', ['xf', 'vm.xva'], { cwd: folder });
    execFileSync('xva-img', ['disk-export', 'Ref:7/', 'disk.raw'], { cwd: folder });
    const theirs = fs.readFileSync(path.join(folder, 'disk.raw'));
    await using image = await xva.open('vm.xva', localStore(folder), NO_KEYS);
    expect(Buffer.compare(await readDisk(image, 0), theirs.subarray(0, LARGE.length))).toBe(0);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
});
