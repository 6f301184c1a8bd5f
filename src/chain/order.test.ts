/** Chains that hostile or unlucky files make: loops, endless ones, parents that are missing or were renamed. */
import { describe, expect, test } from 'vitest';
import { blockVhd, uuidOf } from '../../formats/vhd/fixtures.ts';
import { vhd } from '../../formats/vhd/index.ts';
import type { Adapter, Image, LayerId, ParentRef } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { memoryStore } from '../stores/memory.ts';
import { openDiskFile } from './file.ts';
import { chainOf, indexLinks, type Link } from './order.ts';
import { openRepository } from './repository.ts';

const NO_KEYS = { secrets: async () => [] };

const link = (file: string, parent: ParentRef | null): Link => ({
  file,
  adapter: 'toy',
  encrypted: false,
  stamp: '',
  point: {
    id: `toy:${file}` as LayerId,
    parent,
    set: null,
    time: null,
    type: 'full',
    disks: [],
    identity: file,
    problem: null,
  },
});
const byName = (name: string): ParentRef => ({ by: 'name', name, format: null });
const byId = (name: string): ParentRef => ({ by: 'id', id: `toy:${name}` as LayerId, names: [] });

function faultOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof ImageError) return `${error.fault}: ${error.message}`;
    throw error;
  }
  return 'none';
}

/** Files `0` to `length - 1`, each on the one before it. */
const line = (length: number): readonly Link[] =>
  Array.from({ length }, (_, i) => link(String(i), i === 0 ? null : byName(String(i - 1))));

describe('the order of a chain', () => {
  test.each([byName, byId])('loops of one to five images are refused, and so is what lies over them', parent => {
    for (let length = 1; length <= 5; length++) {
      const loop = Array.from({ length }, (_, i) => link(`l${i}`, parent(`l${(i + 1) % length}`)));
      const over = link('over', parent('l0'));
      const links = indexLinks([...loop, over]);
      for (const tip of links.all) expect(faultOf(() => chainOf(tip, links))).toMatch(/^broken-chain: the chain loops/);
    }
  });

  test('4,096 layers are a chain, one more is none', () => {
    const all = line(4097);
    const links = indexLinks(all);
    expect(chainOf(all[4095]!, links).map(({ file }) => file)).toEqual(all.slice(0, 4096).map(({ file }) => file));
    expect(faultOf(() => chainOf(all[4096]!, links))).toBe('broken-chain: the chain is longer than 4096 layers');
  });

  test('what is refused of 100,000 images is found by looking at each of them once', () => {
    const all = line(100_000);
    let asked = 0;
    const links = indexLinks(all.toReversed());
    const counted = {
      ...links,
      byName(name: string) {
        asked++;
        return links.byName(name);
      },
    };
    for (const tip of all.toReversed().filter((_, i) => i % 16 === 0 && i < 95_000))
      faultOf(() => chainOf(tip, counted));
    expect(asked).toBeLessThan(100_000);
  });

  test('a gap names what is missing, for everything above it', () => {
    const all = [link('a', byName('gone')), link('b', byName('a')), link('c', byName('b'))];
    const links = indexLinks(all);
    for (const tip of all) expect(faultOf(() => chainOf(tip, links))).toBe('broken-chain: the parent gone is missing');
  });
});

/** Files whose content is the name of the file below. */
function toys() {
  const counts = { opened: 0 };
  const toy: Adapter = {
    name: 'toy',
    title: 'Toy',
    extensions: [],
    supports: { differencing: true, encryption: false, compression: false, write: false },
    probe: () => 'certain',
    async open(name, store): Promise<Image> {
      counts.opened++;
      await using source = await store.open(name);
      const below = new Uint8Array(source.size);
      await source.read(below, 0);
      const { point } = link(name, source.size === 0 ? null : byName(new TextDecoder().decode(below)));
      return {
        adapter: 'toy',
        name,
        encrypted: false,
        warnings: [],
        points: [point],
        async [Symbol.asyncDispose]() {},
      };
    },
  };
  return { toy, counts };
}

describe('opening one file', () => {
  test('ends for a loop, and for a chain without an end', async () => {
    const files = Array.from({ length: 10_000 }, (_, i) => [String(i), Buffer.from(String((i + 1) % 10_000))] as const);
    const { toy, counts } = toys();
    const opening = openDiskFile('0', memoryStore(Object.fromEntries(files)), [toy], NO_KEYS);
    await expect(opening).rejects.toMatchObject({ fault: 'broken-chain' });
    expect(counts.opened).toBeLessThan(4200);
    const loop = memoryStore({ a: Buffer.from('b'), b: Buffer.from('a') });
    await expect(openDiskFile('a', loop, [toy], NO_KEYS)).rejects.toMatchObject({
      fault: 'broken-chain',
      message: expect.stringContaining('loops'),
    });
  });
});

describe('a parent by its identity', () => {
  const base = blockVhd({ blockSize: 4096, blocks: [{ data: new Uint8Array(4096).fill(7) }], uuid: uuidOf(1) });
  const child = blockVhd({
    blockSize: 4096,
    blocks: [null],
    uuid: uuidOf(2),
    parent: { uuid: uuidOf(1), name: 'base.vhd', locators: [] },
  });

  test('is found under another name, and named when it is missing', async () => {
    await using renamed = await openRepository(memoryStore({ 'old.vhd': base, 'child.vhd': child }), [vhd], NO_KEYS);
    expect(renamed.sets.flatMap(set => set.points).map(({ state }) => state)).toEqual(['ok', 'ok']);
    await using alone = await openRepository(memoryStore({ 'child.vhd': child }), [vhd], NO_KEYS);
    const [point] = alone.sets[0]!.points;
    expect(point!.problem).toMatchObject({
      fault: 'broken-chain',
      message: expect.stringMatching(/base\.vhd.* is missing/),
    });
  });
});
