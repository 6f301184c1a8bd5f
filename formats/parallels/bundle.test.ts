import { describe, expect, test } from 'vitest';
import { openDiskFile } from '../../src/chain/file.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { pattern } from '../../test/kit/disks.ts';
import { openStack } from '../../test/kit/reference.ts';
import { counted } from '../../test/kit/tampered.ts';
import { type BundleSpec, descriptorXml, guidOf, hdsFile, NULL_GUID } from './fixtures.ts';
import { parallels } from './index.ts';

const keys = { secrets: async () => [] };
const CLUSTER = 65_536;
const cluster = (seed: number): Uint8Array => {
  const data = new Uint8Array(CLUSTER);
  pattern(data, 0, seed);
  return data;
};
const image = (...clusters: (Uint8Array | null)[]): Uint8Array =>
  hdsFile({ clusterSectors: 128, clusters, unit: 'clusters' });
const zeros = new Uint8Array(CLUSTER);
const [ROOT, MIDDLE, SIDE, TOP] = [guidOf(1), guidOf(2), guidOf(3), guidOf(4)];

/** A disk of four clusters in two stretches; three snapshots of which one is a side branch, and the state in use. */
const SPEC: BundleSpec = {
  sectors: 4 * 128,
  top: TOP,
  storages: [
    { start: 0, end: 256, images: [ROOT, MIDDLE, SIDE, TOP].map((guid, i) => ({ guid, file: `x.0.${i}.hds` })) },
    {
      start: 256,
      end: 512,
      images: [
        { guid: TOP, file: '/Users/me/VMs/x.hdd/x.1.3.hds' },
        { guid: ROOT, type: 'Plain', file: 'x.1.0.raw' },
        { guid: MIDDLE, file: 'C:\\VMs\\x.hdd\\x.1.1.hds' },
        { guid: SIDE, file: 'x.1.2.hds' },
      ],
    },
  ],
  shots: [
    { guid: TOP, parent: MIDDLE },
    { guid: SIDE, parent: ROOT },
    { guid: MIDDLE, parent: ROOT },
    { guid: ROOT, parent: NULL_GUID },
  ],
};
const FILES = {
  'x.hdd/DiskDescriptor.xml': descriptorXml(SPEC),
  'x.hdd/x.0.0.hds': image(cluster(1), null),
  'x.hdd/x.0.1.hds': image(null, cluster(2)),
  'x.hdd/x.0.2.hds': image(cluster(3), null),
  'x.hdd/x.0.3.hds': image(null, null),
  'x.hdd/x.1.0.raw': Buffer.concat([cluster(4), cluster(5)]),
  'x.hdd/x.1.1.hds': image(cluster(6), null),
  'x.hdd/x.1.2.hds': image(null, null),
  'x.hdd/x.1.3.hds': image(null, cluster(7)),
};
const NAME = 'x.hdd/DiskDescriptor.xml';
const with_ = (change: Readonly<Record<string, Uint8Array | null>>) => {
  const files = Object.entries({ ...FILES, ...change }).filter(
    (entry): entry is [string, Uint8Array] => entry[1] !== null,
  );
  return memoryStore(Object.fromEntries(files));
};
const withSpec = (change: Partial<BundleSpec>) => with_({ [NAME]: descriptorXml({ ...SPEC, ...change }) });

describe('a bundle with snapshots', () => {
  test('every snapshot is a point, parents first, the state in use last', async () => {
    await using opened = await parallels.open(NAME, memoryStore(FILES), keys);
    expect(opened.points.map(({ id, type }) => [id.slice(-37, -29), type])).toEqual([
      ['00000001', 'snapshot'],
      ['00000003', 'snapshot'],
      ['00000002', 'snapshot'],
      ['00000004', 'incremental'],
    ]);
    expect(new Set(opened.points.map(point => point.identity)).size).toBe(4);
    expect(opened.points.every(point => point.problem === null)).toBe(true);
  });

  test.each([
    [0, [cluster(1), zeros, cluster(4), cluster(5)]],
    [1, [cluster(3), zeros, cluster(4), cluster(5)]],
    [2, [cluster(1), cluster(2), cluster(6), cluster(5)]],
    [3, [cluster(1), cluster(2), cluster(6), cluster(7)]],
  ])('point %d is what its chain says', async (point, want) => {
    await using stack = await openStack({ adapter: parallels, store: memoryStore(FILES), name: NAME, keys, point });
    const got = new Uint8Array(stack.size);
    await stack.read(got, 0);
    expect(Buffer.compare(got, Buffer.concat(want))).toBe(0);
    // Across the border of two stretches.
    const part = got.slice(0, 1000);
    await stack.read(part, 2 * CLUSTER - 500);
    expect(Buffer.compare(part, Buffer.concat(want).subarray(2 * CLUSTER - 500, 2 * CLUSTER + 500))).toBe(0);
  });

  test('in a repository it is one set, and its files are no disks of their own', async () => {
    await using repository = await openRepository(memoryStore(FILES), [parallels], keys);
    expect(repository.sets.map(set => [set.name, set.points.length])).toEqual([['x.hdd', 4]]);
    expect(repository.sets[0]!.points.every(point => point.state === 'ok')).toBe(true);
    expect(repository.unknown).toEqual(['x.hdd/x.1.0.raw']);
    await using file = await openDiskFile(NAME, memoryStore(FILES), [parallels], keys);
    const got = new Uint8Array(CLUSTER);
    await file.disk.read(got, 3 * CLUSTER);
    expect(Buffer.compare(got, cluster(7))).toBe(0);
    await expect(openDiskFile('x.hdd/x.0.3.hds', memoryStore(FILES), [parallels], keys)).rejects.toMatchObject({
      fault: 'not-this-format',
    });
  });

  test('a missing file breaks its snapshot and those above it, and is named; nothing stays open', async () => {
    const { store, open } = counted(with_({ 'x.hdd/x.1.1.hds': null }));
    {
      await using opened = await parallels.open(NAME, store, keys);
      expect(opened.points.map(point => point.problem?.fault ?? null)).toEqual([null, null, 'broken-chain', null]);
      expect(opened.points[2]!.problem).toMatchObject({
        message: expect.stringContaining('x.1.1.hds is missing'),
        where: { file: 'x.hdd/x.1.1.hds' },
      });
    }
    expect(open()).toBe(0);
    await using repository = await openRepository(with_({ 'x.hdd/x.1.1.hds': null }), [parallels], keys);
    expect(repository.sets[0]!.points.map(point => point.state)).toEqual(['ok', 'ok', 'broken', 'broken']);
  });

  test.each<[string, Partial<BundleSpec>, string]>([
    [
      'two snapshots above each other',
      { shots: [...SPEC.shots.slice(0, 2), { guid: MIDDLE, parent: TOP }, SPEC.shots[3]!] },
      'loops',
    ],
    ['a parent that is not there', { shots: SPEC.shots.slice(0, 3) }, 'is missing'],
  ])('%s: the chain is broken', async (_name, change, message) => {
    await using repository = await openRepository(withSpec(change), [parallels], keys);
    const top = repository.sets.flatMap(set => set.points).find(point => point.type === 'incremental');
    expect(top?.problem).toMatchObject({ fault: 'broken-chain', message: expect.stringContaining(message) });
  });

  test('a descriptor that cannot be read hides its files; without one they say what they are', async () => {
    const broken = with_({ [NAME]: new TextEncoder().encode('<Parallels_disk_image ') });
    await using repository = await openRepository(broken, [parallels], keys);
    expect(repository.sets.flatMap(set => set.points).map(point => [point.file, point.state])).toEqual([
      [NAME, 'broken'],
    ]);
    const name = `x.0.${TOP}.hds`;
    await using alone = await parallels.open(name, memoryStore({ [name]: image(null, null) }), keys);
    expect(alone.points.length).toBe(1);
    expect(alone.warnings).toEqual([expect.stringContaining('may be incomplete')]);
  });

  test('encrypted: told, and not read', async () => {
    await using opened = await parallels.open(NAME, withSpec({ engine: guidOf(9) }), keys);
    expect(opened.encrypted).toBe(true);
    expect(opened.points.map(point => [point.problem?.fault, point.disks[0]!.layer])).toEqual(
      Array.from({ length: 4 }, () => ['unsupported', null]),
    );
  });
});

describe('a descriptor that contradicts itself or is not known is refused by name', () => {
  const [first, second] = SPEC.storages;
  test.each<[string, Partial<BundleSpec>, string, string]>([
    ['a gap', { storages: [first!, { ...second!, start: 257 }] }, 'corrupt', 'Storage'],
    ['an overlap', { storages: [first!, { ...second!, start: 255 }] }, 'corrupt', 'Storage'],
    ['parts that end early', { storages: [first!] }, 'corrupt', 'Storage'],
    ['no disk', { sectors: 0, storages: [] }, 'corrupt', 'Disk_size'],
    ['padding', { padding: 1 }, 'unsupported', 'Padding'],
    [
      'a type of image',
      { storages: [{ ...first!, end: 512, images: [{ guid: ROOT, type: 'Odd', file: 'a' }] }] },
      'unsupported',
      'Type',
    ],
    [
      'a file without name',
      { storages: [{ ...first!, end: 512, images: [{ guid: ROOT, file: '../..' }] }] },
      'corrupt',
      'File',
    ],
    ['one GUID twice', { shots: [...SPEC.shots, SPEC.shots[0]!] }, 'corrupt', 'GUID'],
    ['no state in use', { top: guidOf(77) }, 'corrupt', 'TopGUID'],
    ['no GUID', { top: 'x' }, 'corrupt', 'TopGUID'],
  ])('%s', async (_name, change, fault, field) => {
    const { store, open } = counted(withSpec(change));
    await expect(parallels.open(NAME, store, keys)).rejects.toMatchObject({ fault, where: { file: NAME, field } });
    expect(open()).toBe(0);
  });

  test('an image that is too small for its stretch', async () => {
    await using opened = await parallels.open(NAME, with_({ 'x.hdd/x.0.3.hds': image(null) }), keys);
    expect(opened.points[3]!.problem).toMatchObject({ fault: 'corrupt', where: { file: 'x.hdd/x.0.3.hds' } });
  });
});

describe('an image file', () => {
  const FILE = hdsFile({ clusterSectors: 63, clusters: [cluster(1).subarray(0, 63 * 512), null], unit: 'sectors' });
  const opened = (change: (view: DataView) => void) => {
    const file = FILE.slice();
    change(new DataView(file.buffer));
    return parallels.open('x.hdd', memoryStore({ 'x.hdd': file }), keys);
  };

  test('clusters of 63 sectors, counted in sectors', async () => {
    await using stack = await openStack({ adapter: parallels, store: memoryStore({ x: FILE }), name: 'x', keys });
    const got = new Uint8Array(stack.size);
    await stack.read(got, 0);
    const want = new Uint8Array(2 * 63 * 512);
    want.set(cluster(1).subarray(0, 63 * 512));
    expect(Buffer.compare(got, want)).toBe(0);
  });

  test.each<[string, (view: DataView) => void, string, string]>([
    ['version', view => view.setUint32(16, 3, true), 'unsupported', 'version'],
    ['flags', view => view.setUint32(52, 2, true), 'unsupported', 'flags'],
    ['no cluster', view => view.setUint32(28, 0, true), 'unsupported', 'clusterSectors'],
    ['huge clusters', view => view.setUint32(28, 0xffff_ffff, true), 'unsupported', 'clusterSectors'],
    ['no sectors', view => view.setUint32(36, 0, true), 'corrupt', 'sectors'],
    ['a table beyond the file', view => view.setUint32(32, 0xffff_ffff, true), 'corrupt', 'tableEntries'],
    ['too few clusters', view => view.setUint32(32, 1, true), 'corrupt', 'tableEntries'],
  ])('%s is refused', async (_name, change, fault, field) => {
    await expect(opened(change)).rejects.toMatchObject({ fault, where: { file: 'x.hdd', field } });
  });

  test('a cluster in the metadata or beyond the end fails when it is read, and only that one', async () => {
    const clusters = Array.from({ length: 200 }, (_, i) => (i === 5 ? cluster(1).subarray(0, 512) : null));
    for (const [place, message] of [
      [1, "in the file's metadata"],
      [0xffff_ffff, 'beyond the end'],
    ] as const) {
      const file = hdsFile({ clusterSectors: 1, clusters, unit: 'sectors' });
      new DataView(file.buffer).setUint32(64 + 7 * 4, place, true);
      await using found = await parallels.open('x.hdd', memoryStore({ 'x.hdd': file }), keys);
      const layer = found.points[0]!.disks[0]!.layer!;
      await layer.load(0, 1);
      expect(() => layer.locate(7 * 512, 1)).toThrowError(
        expect.objectContaining({ fault: 'corrupt', message: expect.stringContaining(message) }),
      );
      expect(layer.locate(5 * 512, layer.size - 5 * 512)).toMatchObject({ kind: 'plain', length: 512 });
      expect(layer.locate(6 * 512, layer.size - 6 * 512)).toEqual({ kind: 'zero', length: 512 });
    }
  });

  test('one that was not closed says so', async () => {
    await using found = await opened(view => view.setUint32(44, 0x746f_6e59, true));
    expect(found.warnings).toEqual([expect.stringContaining('not closed cleanly')]);
  });
});
