import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { constants, gunzipSync, gzipSync, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { openRepository } from '../../src/chain/repository.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { adapterKit, type MadeImage } from '../../test/kit/adapter-kit.ts';
import { memoryScratch } from '../../test/kit/memory-scratch.ts';
import { expectationOf, SAMPLES, sampleMissing } from '../../test/kit/samples.ts';
import { archive, deviceContent } from './fixtures.ts';
import { vma } from './index.ts';

const SHA = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex');
const NO_KEYS = { secrets: async () => [] };
const ZST = 'vma/generated/small.vma.zst';
const sample = (file: string): Buffer => fs.readFileSync(path.join(SAMPLES, file));
type Points = Record<string, { readonly size: number; readonly sha256: string }>;
const pointsOf = (file: string): Points => (expectationOf(file).expect as unknown as { points: Points }).points;

/** A device of an archive, put together by the plainest means; its digest is the one that is known. */
function extract(file: Buffer, device: number, size: number): Uint8Array {
  const out = Buffer.alloc(Math.ceil(size / 65_536) * 65_536);
  for (let at = file.readUInt32BE(56); at < file.length; ) {
    let piece = at + 512;
    for (let slot = 0; slot < 59; slot++) {
      const [mask, dev, cluster] = [0, 3, 4].map((within, i) => {
        const entry = at + 40 + slot * 8 + within;
        return i === 0 ? file.readUInt16BE(entry) : i === 1 ? file.readUInt8(entry) : file.readUInt32BE(entry);
      }) as [number, number, number];
      for (let bit = 0; bit < 16; bit++) {
        if (((mask >> bit) & 1) === 0) continue;
        if (dev === device) file.copy(out, cluster * 65_536 + bit * 4096, piece, piece + 4096);
        piece += 4096;
      }
    }
    at = piece;
  }
  return out.subarray(0, size);
}

function structures(file: Uint8Array) {
  const raw = Buffer.from(file);
  const found = [{ at: 0, length: raw.readUInt32BE(56), checked: true }];
  for (let at = raw.readUInt32BE(56); at + 512 <= raw.length; at += 512 + raw.readUInt16BE(at + 6) * 4096) {
    found.push({ at, length: 512, checked: true });
  }
  return found;
}

const small: MadeImage = {
  title: 'the sample with two devices, its first one',
  needs: [],
  structures,
  async make(folder) {
    const file = zstdDecompressSync(sample(ZST));
    fs.writeFileSync(path.join(folder, 'small.vma'), file);
    const { size, sha256 } = pointsOf(ZST)['drive-scsi0']!;
    const raw = extract(file, 1, size);
    expect(SHA(raw)).toBe(sha256);
    fs.writeFileSync(path.join(folder, 'twin'), raw);
    return { file: 'small.vma', raw: 'twin' };
  },
};

const scattered: MadeImage = {
  title: 'two devices, clusters in any order, extents that are not full',
  needs: [],
  structures,
  async make(folder) {
    const content = deviceContent(2_097_152 + 70_144, 3);
    const devices = [
      { name: 'drive-scsi0', content },
      { name: 'drive-virtio1', content: deviceContent(1_000_448, 9) },
    ];
    const order = <T>(all: readonly T[]): readonly T[] => all.map((_, i) => all[(i * 17 + 5) % all.length]!);
    fs.writeFileSync(path.join(folder, 'a.vma'), archive({ devices, order, slots: 7 }));
    fs.writeFileSync(path.join(folder, 'twin'), content);
    return { file: 'a.vma', raw: 'twin' };
  },
};

adapterKit(vma, { images: sampleMissing(ZST) === null ? [small, scattered] : [scattered] });

async function contents(name: string, file: Uint8Array, scratch = memoryScratch()): Promise<Points> {
  await using repository = await openRepository(memoryStore({ [name]: file }), [vma], NO_KEYS, { scratch });
  const got: Points = {};
  const point = repository.sets[0]!.points[0]!;
  if (point.problem !== null) throw point.problem;
  for (const [i, { name: disk, size }] of point.disks.entries()) {
    await using opened = await point.openDisk(i);
    const content = new Uint8Array(size);
    for (let at = 0; at < size; at += 1_000_003) {
      await opened.read(content.subarray(at, Math.min(size, at + 1_000_003)), at);
    }
    got[`drive-${disk}`] = { size, sha256: SHA(content) };
  }
  return got;
}

describe('samples of the Proxmox vma tool', () => {
  test.skipIf(sampleMissing(ZST) !== null)('both devices', async () => {
    expect(await contents('small.vma', zstdDecompressSync(sample(ZST)))).toEqual(pointsOf(ZST));
  });

  const EMPTY = 'vma/generated/empty.vma.zst';
  test.skipIf(sampleMissing(EMPTY) !== null)('a device of zeros', async () => {
    expect(await contents('empty.vma', zstdDecompressSync(sample(EMPTY)))).toEqual(pointsOf(EMPTY));
  });

  const CUT = 'vma/dissect/test.vma.gz';
  test.skipIf(sampleMissing(CUT) !== null)(
    'a truncated archive reads as far as it goes, and never as zeros',
    async () => {
      const file = gunzipSync(sample(CUT));
      const store = memoryStore({ 'vzdump-qemu-100-2021_01_01-00_00_00.vma': file });
      await using repository = await openRepository(store, [vma], NO_KEYS);
      const [set] = repository.sets;
      expect(set).toMatchObject({ name: 'vzdump-qemu-100' });
      const point = set!.points[0]!;
      expect(point).toMatchObject({ state: 'ok', disks: [{ size: 10 * 2 ** 30 }] });
      const raw = extract(file.subarray(0), 1, 10 * 2 ** 20);
      await using disk = await point.openDisk(0);
      let good = 0;
      let bad = 0;
      for (let cluster = 0; cluster < 400; cluster++) {
        const part = new Uint8Array(65_536);
        try {
          await disk.read(part, cluster * 65_536);
          good++;
          if (cluster < 160)
            expect(Buffer.compare(part, raw.subarray(cluster * 65_536, (cluster + 1) * 65_536))).toBe(0);
        } catch (error) {
          expect(error).toMatchObject({ fault: 'corrupt' });
          bad++;
        }
      }
      expect([good + bad, good > 0, bad > 280]).toEqual([400, true, true]);
      await expect((async () => disk.read(new Uint8Array(1), 9 * 2 ** 30))()).rejects.toMatchObject({
        message: expect.stringContaining('is not in the archive'),
      });
    },
  );
});

describe('compressed archives', () => {
  const devices = [{ name: 'drive-scsi0', content: deviceContent(3_000_320, 4) }];
  const plain = archive({ devices, config: 'boot: order=scsi0' });
  const want = { 'drive-scsi0': { size: 3_000_320, sha256: SHA(devices[0]!.content) } };
  const LZO = 'vma/generated/small.vma.lzo';
  const packed: readonly (readonly [string, () => Uint8Array, Points])[] = [
    ['x.vma.zst', () => zstdCompressSync(plain, { params: { [constants.ZSTD_c_checksumFlag]: 1 } }), want],
    ['x.vma.gz', () => gzipSync(plain), want],
    ...(sampleMissing(LZO) === null ? [['x.vma.lzo', () => sample(LZO), pointsOf(LZO)] as const] : []),
  ];

  test.each(packed)('%s is listed, and says how to unpack it', async (name, make, points) => {
    const file = make();
    expect(vma.probe(file, file, name)).toBe('certain');
    await using image = await vma.open(name, memoryStore({ [name]: file }), NO_KEYS);
    const point = image.points[0]!;
    expect(point.problem).toMatchObject({ fault: 'unsupported', hint: expect.stringMatching(/-d|gunzip/) });
    expect(point.disks.map(({ name: disk, size, layer }) => [`drive-${disk}`, size, layer])).toEqual(
      Object.entries(points).map(([disk, { size }]) => [disk, size, null]),
    );
  });

  test.each(packed)('%s is unpacked once into a scratch store', async (name, make, points) => {
    const scratch = memoryScratch();
    const file = make();
    for (let i = 0; i < 2; i++) expect(await contents(name, file, scratch)).toEqual(points);
    expect(scratch.kept).toHaveLength(1);
  });

  test.each(packed)('%s, damaged: an error, and nothing is kept', async (name, make) => {
    const scratch = memoryScratch();
    const sound = make();
    for (const file of [
      sound.slice(0, sound.length - 50),
      Uint8Array.from(sound, (b, i) => (i === Math.floor(sound.length / 2) ? b ^ 255 : b)),
    ]) {
      await expect(contents(name, file, scratch)).rejects.toMatchObject({ fault: 'corrupt' });
      expect(scratch.kept).toEqual([]);
    }
  });

  test('a bomb is stopped at the length that the devices allow', async () => {
    const bomb = zstdCompressSync(Buffer.concat([plain, Buffer.alloc(50_000_000)]));
    await expect(contents('x.vma.zst', bomb)).rejects.toThrow('more comes out');
  });
});
