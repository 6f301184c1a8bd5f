/** Every sample of a backup product: each disk of each point has the content that is expected, or is refused for the reason given. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import type { ImageError } from '../../src/base/errors.ts';
import type { RestorePoint } from '../../src/chain/point.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { adapters } from '../../src/registry.ts';
import { localStore } from '../../src/stores/local.ts';
import { memoryScratch } from './memory-scratch.ts';
import { type Expected, expectations, SAMPLES, sampleMissing, scratch } from './samples.ts';
import { asStack, readWhole } from './whole.ts';

/** What the list calls an error, and the fault that says so. */
const FAULTS: Readonly<Record<string, string>> = { 'chain-incomplete': 'broken-chain', truncated: 'corrupt' };

interface Product {
  readonly folder: string;
  /** Secrets of the locked ones. */
  readonly keys?: readonly Uint8Array[];
  /** Makes a folder of what is packed; else the samples' own is read. */
  unpack?(to: string): void;
  /** The file and disk of a point that the list names. */
  place?(file: string, point: string): string;
  /** Files that are no backups. */
  readonly unknown?: readonly string[];
  /** What the list does not say, and who said it. */
  readonly others?: Readonly<Record<string, Known>>;
}

type Known =
  | { readonly size: number; readonly sha256: string | null; readonly nz64k?: string }
  | { readonly fault: string };

const CHAIN: Readonly<Record<string, string>> = {
  'virtnbdbackup.0': 'sda.full.data',
  'virtnbdbackup.2': 'sda.inc.virtnbdbackup.2.data',
  'diff on top of virtnbdbackup.2 (no dirty blocks)': 'sda.diff.1795191567.data',
};
const MULTI = '584221F3840B0DBE-MP-Full';

const PRODUCTS: readonly Product[] = [
  { folder: 'aff4' },
  { folder: 'ewf' },
  {
    folder: 'macrium',
    keys: [Buffer.from('bootmount')],
    // The archive is in a test of its own: 120 GiB (`formats/macrium/demo.test.ts`).
    unknown: [
      ...[0, 1, 2].map(i => `reflect-x/Backup-Set-MP/${MULTI}-0${i}-0${i}.mrimg.metadata`),
      'reflect-x/demo.zip',
    ],
  },
  { folder: 'partclone', unknown: ['generated/e4.img.zst', 'generated/nt.img.zst'] },
  {
    folder: 'pbs',
    keys: [Buffer.from('000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f')],
    unpack: to => execFileSync('tar', ['xzf', path.join(SAMPLES, 'pbs/datastore.tar.gz'), '-C', to]),
    place(_file, point) {
      const [snapshot, disk] = point.split(' ') as [string, string];
      return `ds/${snapshot}/index.json.blob ${disk.replace('drive-', '')}`;
    },
  },
  { folder: 'vma', place: (file, point) => `${file} ${point.replace('drive-', '')}` },
  {
    folder: 'virtnbdbackup',
    place: (_file, point) => `generated/chain/${CHAIN[point]} sda`,
    others: {
      // virtnbdrestore 1.9.15, `--until virtnbdbackup.1`.
      'generated/chain/sda.inc.virtnbdbackup.1.data sda': {
        size: 268_435_456,
        sha256: 'e339af52c402d4cb597bb71486d7b0927c55586f2b45eadf9130f27cfb2d5634',
      },
    },
  },
  { folder: 'xva', place: file => `${file} disk0` },
];

const samplesOf = ({ folder }: Product): readonly Expected[] =>
  expectations().filter(({ file }) => file.startsWith(`${folder}/`));

/** By file and disk, or by the file alone where it has one disk. */
function knownOf(product: Product): Map<string, Known> {
  const found = new Map<string, Known>(Object.entries(product.others ?? {}));
  for (const { file, expect: wanted } of samplesOf(product)) {
    const name = file.slice(product.folder.length + 1);
    if (product.unknown?.includes(name)) continue;
    if (wanted.kind === 'content') found.set(name, wanted as Known);
    if (wanted.kind === 'error') found.set(name, { fault: FAULTS[(wanted as { error: string }).error]! });
    if (wanted.kind !== 'points') continue;
    const { points } = wanted as unknown as { points: Readonly<Record<string, Known>> };
    for (const [point, known] of Object.entries(points)) found.set(product.place!(name, point), known);
  }
  return found;
}

async function contentOf(point: RestorePoint, index: number): Promise<Known> {
  try {
    await using disk = await point.openDisk(index);
    const { size, sha256, nz64k } = await readWhole(asStack(disk), () => {});
    return { size, sha256, nz64k: nz64k! };
  } catch (error) {
    return { fault: (error as ImageError).fault };
  }
}

/** What was found, as far as it is known what it should be. */
const comparable = (got: Known, known: Known): Known => {
  if ('fault' in got || 'fault' in known) return got;
  return known.sha256 !== null
    ? { size: got.size, sha256: got.sha256 }
    : { size: got.size, sha256: null, nz64k: got.nz64k! };
};

describe.each(PRODUCTS)('samples of $folder', product => {
  const reason = sampleMissing(product.folder);
  test.skipIf(reason !== null)(
    `every disk of every point${reason === null ? '' : ` (skipped: ${reason})`}`,
    async () => {
      const folder = product.unpack === undefined ? path.join(SAMPLES, product.folder) : scratch();
      try {
        product.unpack?.(folder);
        const keys = { secrets: async () => product.keys ?? [] };
        await using repository = await openRepository(localStore(folder), adapters, keys, { scratch: memoryScratch() });
        expect(repository.unknown).toEqual(product.unknown ?? []);
        const left = knownOf(product);
        for (const point of repository.sets.flatMap(({ points }) => points)) {
          for (const [index, { name }] of point.disks.entries()) {
            const key = left.has(`${point.file} ${name}`) ? `${point.file} ${name}` : point.file;
            const known = left.get(key);
            expect(known, `${point.file} ${name} is in no list`).toBeDefined();
            left.delete(key);
            const got = comparable(await contentOf(point, index), known!);
            expect({ [key]: got }).toEqual({ [key]: comparable(known!, known!) });
          }
        }
        // Every row of the list was met.
        expect([...left.keys()]).toEqual([]);
      } finally {
        if (product.unpack !== undefined) fs.rmSync(folder, { recursive: true, force: true });
      }
    },
  );
});

test.skipIf(expectations().length === 0)('there is nothing in the list that this table does not know', () => {
  const kinds = new Set(PRODUCTS.flatMap(samplesOf).map(({ expect: { kind } }) => kind));
  expect([...kinds].filter(kind => !['content', 'points', 'error', 'none'].includes(kind))).toEqual([]);
  const faults = PRODUCTS.flatMap(product => [...knownOf(product).values()]).filter(known => 'fault' in known);
  expect(faults.every(({ fault }) => fault !== undefined)).toBe(true);
});
