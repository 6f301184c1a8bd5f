import path from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Image, Keyring, Problem } from '../../src/base/contracts.ts';
import { METADATA } from '../../src/base/shared-budget.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { localStore } from '../../src/stores/local.ts';
import type { Structure } from '../../test/kit/adapter-checks.ts';
import { adapterKit } from '../../test/kit/adapter-kit.ts';
import { SAMPLES, sampleMissing } from '../../test/kit/samples.ts';
import { aff4 } from './index.ts';

const NO_KEYS: Keyring = { secrets: async () => [] };

/** All of it: checksums cover every member, and the directory leads to members that name themselves. */
const structures = (file: Uint8Array): readonly Structure[] => {
  const directoryAt = Buffer.from(file).indexOf(Buffer.from('PK\x01\x02', 'latin1'));
  return [
    { at: 0, length: file.length, checked: true },
    { at: directoryAt, length: file.length - directoryAt, checked: true },
  ];
};

adapterKit(aff4, {
  images: [
    { sample: 'aff4/Base-Linear.aff4', structures },
    {
      sample: 'aff4/striped/Base-Linear_1.aff4',
      beside: ['aff4/striped/Base-Linear_2.aff4'],
      structures,
      skip: [{ test: 'missing parent', reason: 'there is no parent; a missing volume has tests of its own' }],
    },
  ],
});

async function verified(image: Image, level: 1 | 2 | 3): Promise<readonly Problem[]> {
  const problems: Problem[] = [];
  const { signal } = new AbortController();
  await image.verify!({ level, found: problem => problems.push(problem), progress: () => {}, signal });
  return problems;
}

describe.skipIf(sampleMissing('aff4/striped/Base-Linear_2.aff4') !== null)('the reference images', () => {
  test('every digest that they store holds', async () => {
    for (const file of ['aff4/Base-Linear.aff4', 'aff4/striped/Base-Linear_1.aff4']) {
      const folder = path.join(SAMPLES, path.dirname(file));
      await using image = await aff4.open(path.basename(file), localStore(folder), NO_KEYS);
      for (const level of [1, 2, 3] as const) expect(await verified(image, level), `${file}, ${level}`).toEqual([]);
      const { held } = METADATA;
      await verified(image, 2);
      expect(METADATA.held, 'metadata read again').toBe(held);
    }
  });

  test('the volumes of a striped image are one restore point', async () => {
    await using repository = await openRepository(localStore(path.join(SAMPLES, 'aff4/striped')), [aff4], NO_KEYS);
    expect(repository.sets.map(({ name, points }) => [name, points.map(({ file, state }) => [file, state])])).toEqual([
      ['Base-Linear_1', [['Base-Linear_1.aff4', 'ok']]],
    ]);
    expect(repository.unknown).toEqual([]);
  });

  test('case, drive and time as the examiner knows them', async () => {
    await using image = await aff4.open('Base-Linear.aff4', localStore(path.join(SAMPLES, 'aff4')), NO_KEYS);
    expect(image.points[0]!.time?.toISOString()).toBe('2016-12-07T03:40:09.280Z');
    expect(image.points[0]!.disks).toMatchObject([{ name: 'disk0', size: 268_435_456, sectorSize: 512 }]);
    expect(image.notes).toEqual([
      'case: Canonical Image Generation, Canonical Image Generation Test Case, Administrator',
      'evidence: Case ID: 1SR Canonical, Drive 1',
      'drive: Seagate, ST-506, SGAT5060001234, 1.02a, ATA, /dev/sdz',
      'acquisition: Completed Normally',
    ]);
  });
});
