/**
 * Backups that were made to hurt: absurd counts, lists that lead to themselves, bombs. Each product's adapter refuses them, in
 * less than a second of processor time and 64 MiB.
 */
import { describe, expect, test } from 'vitest';
import { aff4 } from '../../formats/aff4/index.ts';
import { ewf } from '../../formats/ewf/index.ts';
import { macrium } from '../../formats/macrium/index.ts';
import { clonezilla, partclone } from '../../formats/partclone/index.ts';
import { pbs } from '../../formats/pbs/index.ts';
import { virtnbdbackup } from '../../formats/virtnbdbackup/index.ts';
import { vma } from '../../formats/vma/index.ts';
import { xo } from '../../formats/xo/index.ts';
import { xva } from '../../formats/xva/index.ts';
import type { Adapter } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { tryCase } from '../fuzz/case.ts';
import { DamagedFiles } from '../fuzz/damage.ts';
import { type FuzzTarget, orImageError } from '../fuzz/target.ts';
import { CLONES, LIBVIRT, XEN } from './hostile/copies.ts';
import { AFF4, aff4With, EWF } from './hostile/evidence.ts';
import { type Hostile, MIB } from './hostile/hostile.ts';
import { MACRIUM, PROXMOX } from './hostile/machines.ts';
import { memoryScratch } from './memory-scratch.ts';
import { random } from './random.ts';

/** Other tests run at the same time; processor time is what counts. */
const BOUNDS = { slowMs: 1000, memory: 64 * MIB };

const of = (adapter: Adapter, list: readonly Omit<Hostile, 'adapter'>[]): readonly Hostile[] =>
  list.map(each => ({ ...each, adapter }));

const TABLE: readonly Hostile[] = [
  ...of(aff4, AFF4),
  ...of(ewf, EWF),
  ...of(macrium, MACRIUM),
  ...of(virtnbdbackup, LIBVIRT),
  ...PROXMOX,
  ...CLONES,
  ...XEN,
];

/** Opens, reads the first bytes of every disk, verifies. What fails says so as an ImageError, and is counted. */
function reading(adapter: Adapter, refusals: ImageError[]): FuzzTarget {
  const noting = (work: () => unknown): Promise<void> =>
    orImageError(async () => {
      try {
        await work();
      } catch (error) {
        if (error instanceof ImageError) refusals.push(error);
        throw error;
      }
    });
  return {
    needs: [],
    seeds: async () => [],
    exercise: (store, name) =>
      noting(async () => {
        await using opened = await adapter.open(name, store, { secrets: async () => [] }, memoryScratch());
        for (const { disks, problem } of opened.points) {
          if (problem !== null) refusals.push(problem);
          for (const { layer } of disks) {
            if (layer === null || layer.size === 0) continue;
            await noting(async () => {
              await layer.load(0, 4096);
              const place = layer.locate(0, 4096);
              if (place?.kind === 'packed') await layer.unpack(place.unit, new Uint8Array(layer.blockSize));
              if (place?.kind === 'plain') await place.source.read(new Uint8Array(place.length), place.at);
            });
          }
        }
      }),
  };
}

describe.each(TABLE)('$adapter.name: $what', ({ adapter, name, files }) => {
  test('is refused in time and in little memory', async () => {
    const made = await files();
    const refusals: ImageError[] = [];
    const target = reading(adapter, refusals);
    const wrong = await tryCase(target, () => ({ name, files: new DamagedFiles(made), numbers: random(1) }), BOUNDS);
    expect(wrong).toBeNull();
    expect(refusals.length).toBeGreaterThan(0);
  });
});

test('every product is in the table', () => {
  const there = new Set(TABLE.map(({ adapter }) => adapter));
  expect(
    [aff4, ewf, macrium, pbs, vma, virtnbdbackup, partclone, clonezilla, xva, xo].filter(a => !there.has(a)),
  ).toEqual([]);
});

test('what is sound is no refusal', async () => {
  const refusals: ImageError[] = [];
  const store = memoryStore({ ...aff4With(turtle => turtle) } as Record<string, Uint8Array>);
  await reading(aff4, refusals).exercise(store, 'a.aff4', random(1));
  expect(refusals).toEqual([]);
});
