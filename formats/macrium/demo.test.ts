/** The product's own demonstration image: 120 GiB, of which 1,608 blocks are stored. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Adapter, Bytes, Keyring } from '../../src/base/contracts.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { localStore } from '../../src/stores/local.ts';
import { digest, randomReads, type Subject } from '../../test/kit/adapter-checks.ts';
import { materialize } from '../../test/kit/disks.ts';
import { missing, run } from '../../test/kit/oracles.ts';
import { expectationOf, SAMPLES, sampleMissing, scratch } from '../../test/kit/samples.ts';
import { macrium, macriumAdapter } from './index.ts';

const SAMPLE = 'macrium/reflect-x/demo.zip';
const NAME = '2394E9AA621DDC3A-00-00.mrimgx';
const PARTITION = 16_777_216;
const reason = sampleMissing(SAMPLE) ?? missing(['7zz']);
const NO_KEYS: Keyring = { secrets: async () => [] };

describe.skipIf(reason !== null)('demo image', () => {
  let folder: string;
  beforeAll(() => {
    folder = scratch();
    execFileSync('7zz', ['e', '-bd', `-o${folder}`, path.join(SAMPLES, SAMPLE), `demo/${NAME}`], { stdio: 'ignore' });
  });
  afterAll(() => {
    fs.rmSync(folder, { recursive: true, force: true });
    fs.rmSync(`${folder}.twin`, { force: true });
  });

  const diskOf = async (adapter: Adapter) => {
    const repository = await openRepository(localStore(folder), [adapter], NO_KEYS);
    const [point] = repository.sets[0]!.points;
    return { repository, point: point!, disk: await point!.openDisk(0) };
  };

  test('as stored it has the content that the reference code restores', async () => {
    const { size, nz64k } = expectationOf(SAMPLE).expect as { size: number; nz64k: string };
    const subject: Subject = {
      adapter: macriumAdapter({ completeTables: false }),
      others: [],
      store: localStore(folder),
      name: NAME,
      folder,
      keys: NO_KEYS,
      content: { size, sha256: null, nz64k },
      structures: [],
      formats: ['macrium'],
      twin: `${folder}.twin`,
    };
    await digest(subject);
    await randomReads(subject);
  });

  test('all 1,608 blocks hold', async () => {
    await using image = await macrium.open(NAME, localStore(folder), NO_KEYS);
    const found: unknown[] = [];
    const signal = new AbortController().signal;
    const { checked } = await image.verify!({ level: 3, found: problem => found.push(problem), progress() {}, signal });
    expect(found).toEqual([]);
    // Beside the blocks: boot track, bitmap, index, description, auxiliary data.
    expect(checked).toBe(1608 + 5);
  });

  test('its names say machine, time and type', async () => {
    const { repository, point } = await diskOf(macrium);
    await using _ = repository;
    expect([point.set, point.name, point.type]).toEqual(['MS-W-0-2394E9AA621DDC3A', '2024-07-10T10-42-16Z', 'full']);
  });

  test('7-Zip lists its NTFS, and finds both partition tables', async () => {
    const { repository, disk } = await diskOf(macrium);
    await using _ = repository;
    const show = async (at: Bytes, length: Bytes, name: string): Promise<string> => {
      const file = path.join(folder, name);
      const piece = { kind: 'disk', at, length, from: 0 } as const;
      await materialize({ suffix: '', size: length, pieceAt: () => piece }, disk, file);
      return file;
    };
    const tables = await run('7zz', ['l', '-tgpt', await show(0, disk.size, 'disk0.img')]);
    expect(tables.out).toMatch(/Type = GPT/);
    expect(tables.out).not.toMatch(/ERROR|WARNING/);
    const volume = await show(PARTITION, 128_830_144_512, 'volume.img');
    const list = await run('7zz', ['l', '-tntfs', volume]);
    expect(list.out).toMatch(/Label = Demo/);
    expect(list.out).toMatch(/23 files, 14 folders/);
    const { out } = await run('7zz', ['e', '-so', '-tntfs', volume, 'readme.txt']);
    expect(out.trim()).toBe('This is a demonstration of a Macrium X image file restored using img_to_vhdx.exe');
  });
});
