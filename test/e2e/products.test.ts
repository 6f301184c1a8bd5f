/**
 * What `verify` says of each product's own backups: nothing when they are sound, and the file when one byte of them is
 * flipped. A point whose files read all of themselves is not read again.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { zstdDecompressSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Adapter, Disk } from '../../src/base/contracts.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { type VerifyResult, verify } from '../../src/jobs/verify.ts';
import { adapters } from '../../src/registry.ts';
import { localStore } from '../../src/stores/local.ts';
import { memoryScratch } from '../kit/memory-scratch.ts';
import { SAMPLES, sampleMissing, scratch } from '../kit/samples.ts';

const secret = new TextEncoder().encode('bootmount');
let folder: string;
beforeAll(() => {
  folder = scratch();
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

interface Verification {
  readonly result: VerifyResult;
  /** Points that were read as a guest would. */
  readonly read: readonly string[];
}

async function verifyFolder(at: string, keys: readonly Uint8Array[]): Promise<Verification> {
  const store = localStore(at);
  const ring = { secrets: async () => keys };
  const space = memoryScratch();
  await using repository = await openRepository(store, adapters, ring, { scratch: space });
  const read: string[] = [];
  const adapterOf = (file: string): Adapter => {
    const point = repository.sets.flatMap(({ points }) => points).find(its => its.file === file)!;
    return adapters.find(({ name }) => name === point.adapter)!;
  };
  const sets = repository.sets.map(set => ({
    ...set,
    points: set.points.map(point => ({
      ...point,
      openDisk: (index: number): Promise<Disk> => {
        read.push(`${point.set}@${point.name}`);
        return point.openDisk(index);
      },
    })),
  }));
  const result = await verify({
    repository: { ...repository, sets },
    wanted: () => true,
    level: 3,
    openImage: file => adapterOf(file).open(file, store, ring, space),
    fileSize: () => 1,
    found() {},
    progress() {},
    signal: new AbortController().signal,
  });
  return { result, read };
}

interface Case {
  readonly product: string;
  readonly sample: string;
  readonly keys?: readonly Uint8Array[];
  /** Puts the backup into the folder, and says which byte of which file is flipped. */
  make(to: string): { readonly file: string; readonly at: number };
  /** Whether the files' own checks read everything. */
  readonly whole: boolean;
}

const copy = (from: string, to: string): void => fs.cpSync(path.join(SAMPLES, from), to, { recursive: true });
const half = (file: string): number => Math.floor(fs.statSync(file).size / 2);

const CASES: readonly Case[] = [
  {
    product: 'Macrium Reflect X, encrypted, full and delta',
    sample: 'macrium/synthetic',
    keys: [secret],
    make(to) {
      copy('macrium/synthetic', to);
      return { file: '5EED5EED00112233-00-00.mrimgx', at: 5000 };
    },
    whole: true,
  },
  {
    product: 'Proxmox Backup Server',
    sample: 'pbs/datastore.tar.gz',
    make(to) {
      execFileSync('tar', ['xzf', path.join(SAMPLES, 'pbs/datastore.tar.gz'), '-C', to]);
      const all = fs.readdirSync(to, { recursive: true }) as string[];
      const chunks = all.filter(name => /\.chunks\/[0-9a-f]{4}\/[0-9a-f]{64}$/.test(name)).toSorted();
      const plain = chunks.find(name => fs.readFileSync(path.join(to, name)).readUInt32BE(0) === 0x42ab3807)!;
      return { file: plain ?? chunks[0]!, at: 60 };
    },
    whole: false,
  },
  {
    product: 'VMA',
    sample: 'vma/generated/small.vma.zst',
    make(to) {
      const packed = fs.readFileSync(path.join(SAMPLES, 'vma/generated/small.vma.zst'));
      const plain = zstdDecompressSync(packed);
      fs.writeFileSync(path.join(to, 'small.vma'), plain);
      // In the first extent's header: the data has no checksums.
      return { file: 'small.vma', at: plain.readUInt32BE(56) + 60 };
    },
    whole: false,
  },
  {
    product: 'VMA in zstd',
    sample: 'vma/generated/small.vma.zst',
    make(to) {
      const file = path.join(to, 'small.vma.zst');
      fs.copyFileSync(path.join(SAMPLES, 'vma/generated/small.vma.zst'), file);
      return { file: 'small.vma.zst', at: half(file) };
    },
    whole: false,
  },
  {
    product: 'virtnbdbackup, lz4',
    sample: 'virtnbdbackup/generated/copy-lz4',
    make(to) {
      copy('virtnbdbackup/generated/copy-lz4', to);
      return { file: 'sda.copy.data', at: half(path.join(to, 'sda.copy.data')) };
    },
    whole: true,
  },
  {
    product: 'partclone',
    sample: 'partclone/generated/e4.pcl.zst',
    make(to) {
      const plain = zstdDecompressSync(fs.readFileSync(path.join(SAMPLES, 'partclone/generated/e4.pcl.zst')));
      fs.writeFileSync(path.join(to, 'e4.pcl'), plain);
      return { file: 'e4.pcl', at: plain.length >> 1 };
    },
    whole: true,
  },
  {
    product: 'a piece of Clonezilla in gzip',
    sample: 'partclone/generated/sda1.ext4-ptcl-img.gz.aa',
    make(to) {
      const file = path.join(to, 'sda1.ext4-ptcl-img.gz.aa');
      fs.copyFileSync(path.join(SAMPLES, 'partclone/generated/sda1.ext4-ptcl-img.gz.aa'), file);
      return { file: 'sda1.ext4-ptcl-img.gz.aa', at: half(file) };
    },
    whole: true,
  },
  {
    product: 'XVA',
    sample: 'xva/generated/t.xva.zst',
    make(to) {
      const plain = zstdDecompressSync(fs.readFileSync(path.join(SAMPLES, 'xva/generated/t.xva.zst')));
      fs.writeFileSync(path.join(to, 't.xva'), plain);
      return { file: 't.xva', at: plain.length >> 1 };
    },
    whole: true,
  },
  {
    product: 'EWF',
    sample: 'ewf/dfvfs',
    make(to) {
      fs.copyFileSync(path.join(SAMPLES, 'ewf/dfvfs/ext2.E01'), path.join(to, 'ext2.E01'));
      return { file: 'ext2.E01', at: 5000 };
    },
    whole: true,
  },
  {
    product: 'AFF4, striped',
    sample: 'aff4/striped',
    make(to) {
      copy('aff4/striped', to);
      return { file: 'Base-Linear_2.aff4', at: half(path.join(to, 'Base-Linear_2.aff4')) };
    },
    whole: true,
  },
];

describe.each(CASES)('$product', ({ sample, keys = [], make, whole }) => {
  const reason = sampleMissing(sample);
  test.skipIf(reason !== null)('sound, then with one byte flipped', async () => {
    const to = fs.mkdtempSync(path.join(folder, 'case-'));
    const { file, at } = make(to);
    const sound = await verifyFolder(to, keys);
    expect(sound.result.problems).toEqual([]);
    expect(sound.result.bytes).toBeGreaterThan(0);
    if (whole) expect(sound.read).toEqual([]);
    const target = path.join(to, file);
    const bytes = fs.readFileSync(target);
    bytes[at]! ^= 0x10;
    fs.writeFileSync(target, bytes);
    const { problems } = (await verifyFolder(to, keys)).result;
    expect(problems.length).toBeGreaterThan(0);
    expect(problems.some(problem => problem.file.endsWith(path.basename(file).replace(/\.aa$/, '')))).toBe(true);
  });
});
