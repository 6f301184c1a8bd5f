/** Which files make a restore point: parents, gaps, merged and split files, orders that a file may come in. */
import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import type { Keyring, Store } from '../../src/base/contracts.ts';
import { openDiskFile } from '../../src/chain/file.ts';
import type { RestorePoint } from '../../src/chain/point.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { type Built, buildFile, bytesOf, content, type FileSpec, type Stored } from './fixtures.ts';
import { macrium } from './index.ts';
import { blocks, historyTo, MIB, nameOf, restored, simpleDisk, threeFiles } from './shapes.ts';

const NO_KEYS: Keyring = { secrets: async () => [] };
const SIZE = 8 * MIB;

const storeOf = (files: readonly FileSpec[], name = (file: FileSpec): string => nameOf(file.number)) =>
  memoryStore(Object.fromEntries(files.map(file => [name(file), bytesOf(buildFile(file))])));

/** The file with its first index changed, and the MD5 of that made right. */
function withIndex(built: Built, change: (index: DataView) => void): Uint8Array {
  const raw = bytesOf(built);
  const [{ at, length }] = built.indexes as [Built['indexes'][number]];
  const index = raw.subarray(at, at + length);
  change(new DataView(raw.buffer, raw.byteOffset + at, length));
  raw.set(createHash('md5').update(index).digest(), at - 32 + 12);
  return raw;
}

async function pointsOf(store: Store): Promise<{ points: readonly RestorePoint[] } & AsyncDisposable> {
  const repository = await openRepository(store, [macrium], NO_KEYS);
  const points = repository.sets.flatMap(set => set.points);
  return { points, [Symbol.asyncDispose]: () => repository[Symbol.asyncDispose]() };
}

async function contentOf(point: RestorePoint): Promise<Uint8Array> {
  await using disk = await point.openDisk(0);
  const out = new Uint8Array(disk.size).fill(0xcc);
  await disk.read(out, 0);
  return out;
}

async function expectPoint(point: RestorePoint | undefined, files: readonly FileSpec[]): Promise<void> {
  expect(point?.problem).toBeNull();
  expect(Buffer.compare(await contentOf(point!), restored(files, SIZE))).toBe(0);
}

describe('a set', () => {
  test('a point for each file, named by machine, time and type', async () => {
    const files = threeFiles();
    await using opened = await pointsOf(storeOf(files));
    const [full, first, second] = opened.points;
    expect(opened.points.map(({ set, name, type, parent }) => [set, name, type, parent])).toEqual([
      ['OFFICE-0123456789ABCDEF', '2023-11-14T22-13-20Z', 'full', null],
      ['OFFICE-0123456789ABCDEF', '2023-11-15T22-13-20Z', 'incremental', full!.name],
      ['OFFICE-0123456789ABCDEF', '2023-11-16T22-13-20Z', 'incremental', first!.name],
    ]);
    await expectPoint(full, files.slice(0, 1));
    await expectPoint(first, files.slice(0, 2));
    await expectPoint(second, files);
  });

  test('names decide nothing, and neither does what the file says its type is', async () => {
    const files = threeFiles().map((file, i) => ({ ...file, type: (['diff', 'full', 'full'] as const)[i]! }));
    await using opened = await pointsOf(storeOf(files, file => `folder/${['zz', 'mm', 'aa'][file.number]}.mrimgx`));
    await expectPoint(opened.points[2], files);
  });

  test('a missing file breaks the points that need it, and names its number', async () => {
    const files = threeFiles();
    await using opened = await pointsOf(storeOf(files.filter(file => file.number !== 1)));
    const [full, second] = opened.points;
    await expectPoint(full, files.slice(0, 1));
    expect(second!.problem).toMatchObject({ fault: 'broken-chain' });
    expect(second!.problem!.message).toBe(`file number 1 of the backup set (${nameOf(1)}) is missing`);
    await expect(second!.openDisk(0)).rejects.toThrow('file number 1');
  });

  test('without a history, a gap in the numbers of deltas is a missing file', async () => {
    const files = threeFiles().map(({ history: _, ...file }) => file);
    await using whole = await pointsOf(storeOf(files));
    await expectPoint(whole.points[2], files);
    await using opened = await pointsOf(storeOf(files.filter(file => file.number !== 1)));
    expect(opened.points[1]!.problem!.message).toContain('file number 1 of the backup set is missing');
    await using alone = await pointsOf(storeOf(files.slice(2)));
    expect(alone.points[0]!.problem!.message).toContain('no file with a full index is here; file number 0');
  });

  test('a file of another set with the same number is no parent', async () => {
    const files = threeFiles();
    const store = storeOf(files.filter(file => file.number !== 0));
    const other: FileSpec = {
      ...files[0]!,
      edit: description => Object.assign(description._header!, { imageid: 'FEDCBA9876543210' }),
    };
    store.put('other.mrimgx', bytesOf(buildFile(other)));
    await using opened = await pointsOf(store);
    expect(opened.points.filter(point => point.state === 'ok').map(point => point.file)).toEqual(['other.mrimgx']);
  });

  test('two sets in two folders do not mix', async () => {
    const files = threeFiles();
    const changed = [{ ...files[0]!, disks: [simpleDisk(blocks(9, [0, 3]))] }, files[1]!];
    const store = storeOf(files.slice(0, 2), file => `a/${nameOf(file.number)}`);
    for (const file of changed) store.put(`b/${nameOf(file.number)}`, bytesOf(buildFile(file)));
    await using opened = await pointsOf(store);
    const at = (file: string): RestorePoint | undefined => opened.points.find(point => point.file === file);
    await expectPoint(at(`a/${nameOf(1)}`), files.slice(0, 2));
    await expectPoint(at(`b/${nameOf(1)}`), changed);
  });

  test('one file that is opened by itself finds the others by the names in its history', async () => {
    const files = threeFiles();
    const all = storeOf(files);
    const store: Store = { ...all, async *list() {} };
    await using file = await openDiskFile(nameOf(2), store, [macrium], NO_KEYS);
    const out = new Uint8Array(SIZE);
    await file.disk.read(out, 0);
    expect(Buffer.compare(out, restored(files, SIZE))).toBe(0);
  });
});

describe('indexes', () => {
  test('a full index may name blocks of older files; the point then needs them', async () => {
    const [full] = threeFiles();
    const older = buildFile(full!).stored[0]![0]!;
    const merged = new Map<number, Uint8Array | Stored>([...older, ...blocks(4, [3, 41])]);
    const next: FileSpec = { number: 1, type: 'inc', history: historyTo(1), disks: [simpleDisk(new Map())] };
    const disk = { ...next.disks[0]!, partitions: [{ ...next.disks[0]!.partitions[0]!, blocks: merged }] };
    const files = [full!, { ...next, disks: [disk] }];
    await using opened = await pointsOf(storeOf(files));
    await expectPoint(opened.points[1], files.slice(1));
    expect(opened.points[1]!.parent).toBe(opened.points[0]!.name);
    await using alone = await pointsOf(storeOf(files.slice(1)));
    expect(alone.points[0]!.problem).toMatchObject({ fault: 'broken-chain' });
    // Without a history nobody knows before the block is read: then that block is an error, and no hole.
    const { history: _, ...silent } = files[1]!;
    await using unknown = await pointsOf(storeOf([silent]));
    await using target = await unknown.points[0]!.openDisk(0);
    await expect(target.read(new Uint8Array(512), MIB)).rejects.toThrow('file number 0');
    const own = new Uint8Array(65_536);
    await target.read(own, MIB + 3 * 65_536);
    expect(Buffer.compare(own, content(65_536, 4003, false))).toBe(0);
  });

  test('a delta need not be in the order of its blocks', async () => {
    const [full, first] = threeFiles();
    const files = [full!, { ...first!, disks: [simpleDisk(blocks(2, [41, 1, 11]))] }];
    await using opened = await pointsOf(storeOf(files));
    await expectPoint(opened.points[1], files);
  });

  test('of two words on one block in a delta the last one counts', async () => {
    const [full, first] = threeFiles();
    const delta = { ...first!, disks: [simpleDisk(blocks(2, [41, 1, 11]))] };
    const store = storeOf([full!]);
    const raw = withIndex(buildFile(delta), index => index.setUint32(8 + 34 + 30, 41, true));
    store.put(nameOf(1), raw);
    await using opened = await pointsOf(store);
    const twice = new Map([...blocks(2, [11]), [41, content(65_536, 2001)]]);
    await expectPoint(opened.points[1], [full!, { ...delta, disks: [simpleDisk(twice)] }]);
  });

  test('a delta may turn a block into zeros, and bring it back', async () => {
    const files = threeFiles();
    const back: FileSpec = {
      number: 3,
      delta: true,
      history: historyTo(3),
      disks: [simpleDisk(blocks(8, [2]))],
    };
    await using opened = await pointsOf(storeOf([...files, back]));
    await expectPoint(opened.points[3], [...files, back]);
  });

  test('what a volume has grown by is zeros until a delta stores it, whatever the parent shows there', async () => {
    const small = simpleDisk(blocks(1, [0, 63]));
    const grown = simpleDisk(blocks(2, [90]));
    const [old] = small.partitions;
    const files: FileSpec[] = [
      {
        number: 0,
        disks: [
          {
            ...small,
            partitions: [
              { ...old!, length: 64 * 65_536, blockCount: 64 },
              // Gone in the delta, where the first volume took its place.
              { start: MIB + 70 * 65_536, length: 65_536, blockCount: 1, blocks: blocks(3, [0]) },
            ],
          },
        ],
      },
      { number: 1, delta: true, history: historyTo(1), disks: [grown] },
    ];
    await using opened = await pointsOf(storeOf(files));
    const expected = restored(files, SIZE);
    expect(expected[MIB + 70 * 65_536]).toBe(0);
    await expectPoint(opened.points[1], files);
  });

  test('a volume that moved under a delta is refused', async () => {
    const [full, first] = threeFiles();
    const [partition] = first!.disks[0]!.partitions;
    const moved = { ...first!.disks[0]!, partitions: [{ ...partition!, start: 2 * MIB, length: MIB, blockCount: 96 }] };
    await using opened = await pointsOf(storeOf([full!, { ...first!, disks: [moved] }]));
    expect(opened.points[1]!.problem).toMatchObject({ fault: 'unsupported' });
  });
});

describe('merged files', () => {
  test('a number that was merged into another file is there', async () => {
    const files = threeFiles();
    const both = simpleDisk(
      new Map<number, Uint8Array | 'zero'>([...blocks(2, [1, 41]), [2, 'zero'], ...blocks(3, [11, 12])]),
    );
    const consolidated: FileSpec = { number: 2, delta: true, merged: [1], history: historyTo(2), disks: [both] };
    const later: FileSpec = { number: 3, delta: true, history: historyTo(3), disks: [simpleDisk(blocks(6, [50]))] };
    await using opened = await pointsOf(storeOf([files[0]!, consolidated, later]));
    expect(opened.points).toHaveLength(3);
    await expectPoint(opened.points[1], [files[0]!, consolidated]);
    await expectPoint(opened.points[2], [files[0]!, consolidated, later]);
  });

  test('blocks that were copied keep the number of their file, which is now part of the merged one', async () => {
    const [full] = threeFiles();
    const synthetic: FileSpec = {
      ...full!,
      number: 2,
      increment: 2,
      merged: [0, 1],
      history: historyTo(2),
      disks: [simpleDisk(blocks(1, [0, 7]))],
    };
    // The file number stands in the last two bytes of an element.
    const raw = withIndex(buildFile(synthetic), index => index.setUint16(8 + 7 * 30 + 28, 1, true));
    await using opened = await pointsOf(memoryStore({ [nameOf(2)]: raw }));
    await expectPoint(opened.points[0], [synthetic]);
  });
});

describe('split files', () => {
  const part = (): FileSpec => ({ number: 0, increment: 0, split: true, disks: [simpleDisk(blocks(1, [0, 1]))] });
  /** The last part has the index of both. */
  const last = (first: FileSpec): FileSpec => {
    const stored = buildFile(first).stored[0]![0]!;
    const all = new Map<number, Uint8Array | Stored>([...stored, ...blocks(2, [2, 95])]);
    const disk = simpleDisk(new Map());
    return {
      number: 1,
      increment: 0,
      type: 'full',
      disks: [{ ...disk, partitions: [{ ...disk.partitions[0]!, blocks: all }] }],
    };
  };

  test('all parts are one restore point, on which deltas stand', async () => {
    const first = part();
    const second = last(first);
    const delta: FileSpec = { number: 2, increment: 1, delta: true, disks: [simpleDisk(blocks(3, [1, 3]))] };
    await using opened = await pointsOf(storeOf([first, second, delta]));
    expect(opened.points.map(point => point.file)).toEqual([nameOf(1), nameOf(2)]);
    await expectPoint(opened.points[0], [second]);
    await expectPoint(opened.points[1], [second, delta]);
  });

  test('a missing part names its number; parts without the last one are no silence', async () => {
    const first = part();
    await using headless = await pointsOf(storeOf([last(first)]));
    expect(headless.points[0]!.problem!.message).toContain('file number 0');
    await using endless = await pointsOf(storeOf([first]));
    expect(endless.points[0]!.problem!.message).toContain('whose last part, which holds the index, is missing');
  });
});

test('a file that changed under a name that is known is looked at afresh', async () => {
  const files = threeFiles();
  const store = storeOf(files.slice(0, 1));
  await using before = await macrium.open(nameOf(0), store, NO_KEYS);
  store.put(nameOf(0), bytesOf(buildFile({ ...files[0]!, disks: [simpleDisk(blocks(9, [5]))] })));
  await using after = await macrium.open(nameOf(0), store, NO_KEYS);
  expect(after.points[0]!.identity).not.toBe(before.points[0]!.identity);
  expect(after.points[0]!.id).not.toBe(before.points[0]!.id);
});
