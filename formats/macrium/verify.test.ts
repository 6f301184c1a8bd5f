import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Keyring, Problem, Store } from '../../src/base/contracts.ts';
import { localStore } from '../../src/stores/local.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { SAMPLES, sampleMissing } from '../../test/kit/samples.ts';
import { buildFile, bytesOf, type FileSpec, type Stored } from './fixtures.ts';
import { macrium } from './index.ts';
import { blocks, fatDisk, gptDisk, nameOf, simpleDisk, threeFiles } from './shapes.ts';

const ring = (secret?: string): Keyring => ({
  secrets: async () => (secret === undefined ? [] : [Buffer.from(secret)]),
});

async function verified(store: Store, name: string, level: 1 | 2 | 3, keys = ring()) {
  await using image = await macrium.open(name, store, keys);
  const problems: Problem[] = [];
  let last = 0;
  const result = await image.verify!({
    level,
    found: problem => problems.push(problem),
    progress(done, total) {
      expect(done).toBeGreaterThanOrEqual(last);
      expect(done).toBeLessThanOrEqual(total);
      last = done;
    },
    signal: new AbortController().signal,
  });
  return { ...result, problems };
}

const storeOf = (files: readonly FileSpec[]) =>
  memoryStore(Object.fromEntries(files.map(file => [nameOf(file.number), bytesOf(buildFile(file))])));

/** Metadata blocks of `simpleDisk`: boot track, bitmap, index, description, auxiliary data. */
const METADATA = 5;

describe('verify', () => {
  test('every block of the file, those of a child apart', async () => {
    const store = storeOf(threeFiles());
    for (const [number, stored] of [7, 3, 2].entries()) {
      const { checked, problems } = await verified(store, nameOf(number), 3);
      expect([checked, problems]).toEqual([METADATA + stored, []]);
    }
    expect((await verified(store, nameOf(0), 2)).checked).toBe(METADATA);
  });

  test('any changed byte of a block, of an index or of other metadata is found, and where it lies', async () => {
    const files: FileSpec[] = [{ number: 0, disks: [gptDisk(), fatDisk()], shortIndex: true }];
    const built = buildFile(files[0]!);
    const whole = bytesOf(built);
    const all: readonly Stored[] = [
      ...built.stored.flat().flatMap(each => [...each.values()]),
      ...built.reserved.flat().flat(),
    ];
    for (const { at, length } of all) {
      const bytes = whole.slice();
      bytes[at + Math.floor(length / 2)]! ^= 0x10;
      const { problems } = await verified(memoryStore({ [nameOf(0)]: bytes }), nameOf(0), 3);
      expect(problems).toMatchObject([{ fault: 'corrupt', file: nameOf(0), offset: at }]);
      expect(problems[0]!.message).toMatch(
        /^block \d+ of partition \d+ on disk \d+ (fails its MD5|does not decompress)$/,
      );
    }
    for (const { at, length } of built.indexes.filter(index => index.length > 8)) {
      const bytes = whole.slice();
      bytes[at + length - 5]! ^= 0x10;
      const { problems } = await verified(memoryStore({ [nameOf(0)]: bytes }), nameOf(0), 1);
      expect(problems).toMatchObject([{ message: '$INDEX fails its MD5', offset: at }]);
    }
  });

  test('the blocks of a split backup are checked with its last part', async () => {
    const part: FileSpec = { number: 0, split: true, disks: [simpleDisk(blocks(1, [0, 1]))] };
    const stored = buildFile(part).stored[0]![0]!;
    const disk = simpleDisk(new Map());
    const all = new Map<number, Uint8Array | Stored>([...stored, ...blocks(2, [2])]);
    const last: FileSpec = {
      number: 1,
      increment: 0,
      disks: [{ ...disk, partitions: [{ ...disk.partitions[0]!, blocks: all }] }],
    };
    const store = storeOf([part, last]);
    expect(await verified(store, nameOf(1), 3)).toMatchObject({ checked: METADATA + 3, problems: [] });
    const bytes = store.bytes(nameOf(0));
    bytes[stored.get(1)!.at + 10]! ^= 1;
    store.put(nameOf(0), bytes);
    const { problems } = await verified(store, nameOf(1), 3);
    expect(problems).toMatchObject([{ file: nameOf(0), offset: stored.get(1)!.at, block: 1, disk: 'disk0' }]);
  });

  test('a locked file is checked as far as its metadata goes, and says so', async () => {
    const files = threeFiles().map(file => ({ ...file, encryption: { bits: 256, password: 'x' } as const }));
    const store = storeOf(files);
    const locked = await verified(store, nameOf(0), 3);
    expect(locked).toMatchObject({ checked: METADATA, problems: [{ fault: 'locked' }] });
    expect((await verified(store, nameOf(0), 2)).problems).toEqual([]);
    expect(await verified(store, nameOf(0), 3, ring('x'))).toMatchObject({ checked: METADATA + 7, problems: [] });
  });

  test('it stops when it is told to', async () => {
    await using image = await macrium.open(nameOf(0), storeOf(threeFiles()), ring());
    const stop = AbortSignal.abort(new Error('enough'));
    const run = { level: 3, found() {}, progress() {}, signal: stop } as const;
    await expect(image.verify!(run)).rejects.toThrow('enough');
  });
});

/** Deltas whose fulls nobody has: their own blocks can be checked all the same. */
describe.each([
  { folder: 'Backup-Set', file: 'DD5A77E6B68A6C34-Full-01-01.mrimg', stored: 48, size: 534_773_760 },
  { folder: 'Backup-Set-MP', file: '584221F3840B0DBE-MP-Full-03-03.mrimg', stored: 45, size: 534_773_760 },
])('$folder', ({ folder, file, stored, size }) => {
  const sample = `macrium/reflect-x/${folder}/${file}`;
  const reason = sampleMissing(sample);

  test.skipIf(reason !== null)('all blocks of the delta hold, a changed byte shows', async () => {
    const store = localStore(path.join(SAMPLES, 'macrium/reflect-x', folder));
    const { checked, problems } = await verified(store, file, 3);
    await using image = await macrium.open(file, store, ring());
    expect(problems).toEqual([]);
    const partitions = folder === 'Backup-Set' ? 1 : 3;
    expect(checked - stored).toBe(3 + 2 * partitions);
    const bytes = new Uint8Array(fs.readFileSync(path.join(SAMPLES, sample)));
    bytes[100]! ^= 1;
    expect((await verified(memoryStore({ [file]: bytes }), file, 3)).problems).toHaveLength(1);
    // What its point lacks is named; its disk is larger than the whole cylinders that it tells.
    const [point] = image.points;
    expect(point!.problem).toMatchObject({ fault: 'broken-chain', message: expect.stringContaining('file number 0') });
    expect(point!.disks[0]!.size).toBeGreaterThan(size);
  });
});
