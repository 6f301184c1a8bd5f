import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { zstdDecompressSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { openRepository } from '../../src/chain/repository.ts';
import { localStore } from '../../src/stores/local.ts';
import { adapterKit, type MadeImage } from '../../test/kit/adapter-kit.ts';
import { expectationOf, SAMPLES, sampleMissing, scratch } from '../../test/kit/samples.ts';
import { addSnapshot, diskContent, type Files } from './fixtures.ts';
import { pbs } from './index.ts';

const SAMPLE = 'pbs/datastore.tar.gz';
const SHA = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex');

interface SampleExpectation {
  readonly points: Record<string, { readonly size: number; readonly sha256: string }>;
  readonly key_hex: string;
}
const expected = (): SampleExpectation => expectationOf(SAMPLE).expect as unknown as SampleExpectation;

const extract = (folder: string): void => {
  execFileSync('tar', ['xzf', path.join(SAMPLES, SAMPLE), '-C', folder]);
};

/** The plain snapshots of the sample, put together by the plainest means; the digest is the one that is known. */
function twinOf(folder: string, snapshot: string, sha256: string): Uint8Array {
  const index = fs.readFileSync(path.join(folder, 'ds', snapshot, 'drive-scsi0.img.fidx'));
  const parts: Uint8Array[] = [];
  for (let at = 4096; at + 32 <= index.length; at += 32) {
    const digest = index.subarray(at, at + 32).toString('hex');
    const blob = fs.readFileSync(path.join(folder, 'ds/.chunks', digest.slice(0, 4), digest));
    const packed = blob.subarray(0, 4).toString('hex') === '31b95842';
    parts.push(packed ? zstdDecompressSync(blob.subarray(12)) : blob.subarray(12));
  }
  const raw = Buffer.concat(parts).subarray(0, Number(index.readBigUInt64LE(64)));
  expect(SHA(raw)).toBe(sha256);
  return raw;
}

const sampleImage = (snapshot: string, twin: string): MadeImage => ({
  title: `the sample's ${snapshot}`,
  needs: ['tar'],
  secret: expected().key_hex,
  async make(folder) {
    extract(folder);
    fs.writeFileSync(path.join(folder, 'twin'), twinOf(folder, twin, expected().points[`${twin} drive-scsi0`]!.sha256));
    return { file: `ds/${snapshot}/index.json.blob`, raw: 'twin' };
  },
  skip: [
    ...(process.env.BOOTMOUNT_LONG === '1'
      ? []
      : [{ test: 'random reads', reason: 'each unpacks 4 MiB; smaller chunks are read below' } as const]),
    { test: 'missing parent', reason: 'a snapshot has no parent; missing files have tests of their own' },
  ],
});

const KEY = Uint8Array.from({ length: 32 }, (_, i) => 7 * i + 1);

function put(folder: string, files: Files): void {
  for (const [name, data] of Object.entries(files)) {
    fs.mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
    fs.writeFileSync(path.join(folder, name), data);
  }
}

const made = (title: string, filename: string, secret: boolean): MadeImage => ({
  title,
  needs: [],
  ...(secret ? { secret: Buffer.from(KEY).toString('hex') } : {}),
  skip: [{ test: 'missing parent', reason: 'a snapshot has no parent; missing files have tests of their own' }],
  async make(folder) {
    const content = diskContent(1_500_160, 3);
    const files: Files = {};
    await addSnapshot(files, {
      folder: 'ns/a/ns/b/vm/7/2026-11-20T10:00:00Z',
      chunkSize: 16_384,
      ...(secret ? { key: KEY, named: true } : {}),
      disks: [{ filename, content, cuts: filename.endsWith('.didx') ? [9_000, 31_000, 1, 20_000] : [16_384] }],
    });
    put(folder, files);
    fs.writeFileSync(path.join(folder, 'twin'), content);
    return { file: 'ns/a/ns/b/vm/7/2026-11-20T10:00:00Z/index.json.blob', raw: 'twin' };
  },
});

const whole = (file: Uint8Array) => [{ at: 0, length: file.length, checked: true }];
const images = [
  made('fixed chunks of 16 KiB', 'drive-scsi0.img.fidx', false),
  made('fixed chunks, encrypted', 'drive-scsi0.img.fidx', true),
  made('a dynamic index of an image', 'root.img.didx', false),
];
if (sampleMissing(SAMPLE) === null) {
  images.push(
    sampleImage('vm/100/2026-11-20T10:00:00Z', 'vm/100/2026-11-20T10:00:00Z'),
    sampleImage('vm/101/2026-11-20T10:00:00Z', 'vm/100/2026-11-20T10:00:00Z'),
  );
}
adapterKit(pbs, { images: images.map(image => ({ ...image, structures: whole })) });

describe.skipIf(sampleMissing(SAMPLE) !== null)('the sample datastore', () => {
  test('every snapshot is a restore point with the content that is known', async () => {
    const folder = scratch();
    try {
      extract(folder);
      const { points, key_hex: key } = expected();
      const keys = { secrets: async () => [Buffer.from(key)] };
      await using repository = await openRepository(localStore(folder), [pbs], keys);
      expect(repository.sets.map(set => [set.name, set.encrypted, set.points.map(p => p.name)])).toEqual([
        ['vm-100', false, ['2026-11-20T10-00-00Z', '2026-11-20T11-00-00Z']],
        ['vm-101', true, ['2026-11-20T10-00-00Z']],
      ]);
      const got: Record<string, object> = {};
      for (const point of repository.sets.flatMap(set => set.points)) {
        for (const [i, { name, size }] of point.disks.entries()) {
          await using disk = await point.openDisk(i);
          const content = new Uint8Array(size);
          await disk.read(content, 0);
          const time = point.time!.toISOString().replace('.000', '');
          got[`${point.set.replace('-', '/')}/${time} drive-${name}`] = { size, sha256: SHA(content) };
        }
      }
      expect(got).toEqual(points);
    } finally {
      fs.rmSync(folder, { recursive: true });
    }
  });
});
