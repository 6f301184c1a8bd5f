/** Every byte of a small repository flipped, every cut, swaps and replays: noticed, or the right bytes. */
import zlib from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Problem, VerifyRun } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { viewOf } from '../../src/base/struct.ts';
import { type MemoryStore, memoryStore } from '../../src/stores/memory.ts';
import { layerOf, openLayer, pattern, readAll, SECRET, type Write, writeLayer } from './kit.ts';
import { type RawRecord, recordsOf, sealChecksums, sealSum } from './raw-records.ts';
import { FIRST_RECORD, KEY_AREAS, PAGE, RECORD_HEADER, SLOTS, SUPERBLOCKS, sealCrc } from './structs.ts';

const BLOCK = 4096;
const FULL = '0.bml';
const CHILD = '1.bml';

/** BML_EXHAUSTIVE=1 tries every byte, in some two minutes; otherwise a sample, and all record headers. */
const STRIDE = process.env.BML_EXHAUSTIVE === undefined && process.env.BOOTMOUNT_LONG !== '1' ? 37 : 1;

interface Repo {
  readonly store: MemoryStore;
  readonly files: Readonly<Record<string, Uint8Array>>;
  readonly full: Uint8Array;
  readonly child: Uint8Array;
}

/** 130 blocks, so that the tree has two levels; few of them stored, so that every byte can be tried. */
async function makeRepo(secret: Uint8Array | null): Promise<Repo> {
  const store = memoryStore();
  const size = 130 * BLOCK - 100;
  const first: Write[] = [
    [0, 0, pattern(BLOCK, 3)],
    [0, 1, pattern(BLOCK, 6)],
    [0, 2, 'zero'],
    [0, 129, pattern(BLOCK, 9)],
  ];
  const second: Write[] = [
    [0, 1, pattern(BLOCK, 12)],
    [0, 3, pattern(BLOCK, 1).fill(5, 300)],
    [0, 0, 'zero'],
  ];
  await writeLayer(store, FULL, { size, secret }, first);
  await using parent = await openLayer(store, FULL, secret);
  await writeLayer(store, CHILD, { size, secret, parent }, second);
  await using image = await openLayer(store, CHILD, secret);
  const files = { [FULL]: store.bytes(FULL), [CHILD]: store.bytes(CHILD) };
  return { store, files, full: await readAll(layerOf(parent)), child: await readAll(layerOf(image)) };
}

/** 'same' when the child reads as it should, 'refused' when an ImageError says why not. Wrong bytes are an assertion. */
async function readChild(repo: Repo, files: Record<string, Uint8Array>, secret: Uint8Array | null, name = CHILD) {
  try {
    await using image = await openLayer(memoryStore(files), name, secret);
    const read = await readAll(layerOf(image));
    expect(Buffer.compare(read, name === CHILD ? repo.child : repo.full), 'the bytes that were read').toBe(0);
    return 'same';
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    expect(['corrupt', 'unsupported', 'not-this-format', 'broken-chain', 'wrong-key']).toContain(error.fault);
    return 'refused';
  }
}

async function problemsOf(
  files: Record<string, Uint8Array>,
  name: string,
  secret: Uint8Array | null,
  level: 1 | 2 | 3,
) {
  const found: Problem[] = [];
  const run: VerifyRun = { level, found: p => found.push(p), progress() {}, signal: new AbortController().signal };
  await using image = await openLayer(memoryStore(files), name, secret);
  await image.verify!(run);
  return { found, warnings: image.warnings };
}

describe.each([['plain', null] as const, ['encrypted', SECRET] as const])('a damaged repository, %s', (_, secret) => {
  let repo: Repo;
  beforeAll(async () => {
    repo = await makeRepo(secret);
  });
  const damaged = (name: string, change: (bytes: Uint8Array) => unknown): Record<string, Uint8Array> => {
    const bytes = repo.files[name]!.slice();
    const changed = change(bytes);
    return { ...repo.files, [name]: changed instanceof Uint8Array ? changed : bytes };
  };

  test.each([FULL, CHILD])('each flipped byte of the records and pages of %s is noticed or harmless', async name => {
    const { length } = repo.files[name]!;
    // The key areas are uniform: each has its own test; here some of their bytes.
    const offsets = [0, 9, 35, 100, 4000, ...SLOTS, ...KEY_AREAS, 12400, 61450];
    for (let at = FIRST_RECORD; at < length; at += STRIDE) offsets.push(at);
    for (const { at } of dataRecords(repo.files[name]!)) for (let i = 0; i < RECORD_HEADER; i++) offsets.push(at + i);
    let refused = 0;
    for (const at of offsets) {
      const files = damaged(name, bytes => {
        bytes[at]! ^= 1 << (at % 8);
      });
      if ((await readChild(repo, files, secret, name)) === 'refused') refused++;
    }
    expect(refused).toBeGreaterThan(100);
  });

  test('control: the comparison does see wrong bytes', async () => {
    const wrong = { ...repo, child: repo.full };
    await expect(readChild(wrong, repo.files, secret)).rejects.toThrow('the bytes that were read');
  });

  test('verify at level 1 notices each flipped byte, by its checksum alone', async () => {
    const { length } = repo.files[CHILD]!;
    for (let at = 0; at < length; at += at < FIRST_RECORD ? 1997 : STRIDE) {
      const files = damaged(CHILD, bytes => {
        bytes[at]! ^= 0x10;
      });
      const seen = await problemsOf(files, CHILD, null, 1).then(
        ({ found, warnings }) => found.length + warnings.length,
        error => (error instanceof ImageError ? 1 : Promise.reject(error)),
      );
      expect(seen, `flip at ${at}`).toBeGreaterThan(0);
    }
    expect((await problemsOf(repo.files, CHILD, null, 1)).found).toEqual([]);
  });

  test('a file cut at each structure boundary is refused or reads right', async () => {
    const { length } = repo.files[CHILD]!;
    for (let at = 0; at < length; at += at < FIRST_RECORD ? 2048 : 64) {
      for (const cut of [at, at + 1]) {
        const files = damaged(CHILD, bytes => bytes.slice(0, cut));
        const result = await readChild(repo, files, secret);
        if (cut <= length - 2 * PAGE) expect(result, `cut at ${cut}`).toBe('refused');
      }
    }
  });

  test('bytes after the trailer are reported and the commit is still found', async () => {
    const files = damaged(CHILD, bytes => Buffer.concat([bytes, pattern(5000, 1)]));
    expect(await readChild(repo, files, secret)).toBe('same');
    expect((await problemsOf(files, CHILD, secret, 1)).warnings).toHaveLength(1);
  });

  test('a file cut right behind its commit, whose last page is sound, is damaged', async () => {
    const files = damaged(CHILD, bytes => bytes.slice(0, bytes.length - PAGE));
    expect(await readChild(repo, files, secret)).toBe('same');
    const { found } = await problemsOf(files, CHILD, null, 1);
    expect(found).toMatchObject([{ fault: 'corrupt', message: expect.stringContaining('sound trailer') }]);
  });

  test('swapped records of two blocks are refused', async () => {
    const records = dataRecords(repo.files[FULL]!);
    expect(records.length).toBe(3);
    const [a, b] = [records[0]!, records[1]!];
    const files = damaged(FULL, bytes => {
      const one = bytes.slice(a.at, a.at + a.length);
      bytes.set(bytes.slice(b.at, b.at + b.length), a.at);
      bytes.set(one, b.at);
    });
    expect(await readChild(repo, files, secret, FULL)).toBe('refused');
  });

  const swap = (bytes: Uint8Array, a: RawRecord, b: RawRecord): void => {
    const one = bytes.slice(a.at, a.at + a.padded);
    bytes.set(bytes.slice(b.at, b.at + b.padded), a.at);
    bytes.set(one, b.at);
  };

  test('level 1 finds every two records that changed places, also where nothing refers to them', async () => {
    const records = recordsOf(repo.files[FULL]!);
    let seen = 0;
    for (const [i, a] of records.entries()) {
      for (const b of records.slice(i + 1).filter(({ padded }) => padded === a.padded)) {
        const files = damaged(FULL, bytes => swap(bytes, a, b));
        const { found } = await problemsOf(files, FULL, null, 1);
        expect(found).toMatchObject([{ fault: 'corrupt', message: expect.stringContaining('in the places') }]);
        // A file that says nothing of a sum is not judged by it.
        const without = damaged(FULL, bytes => {
          swap(bytes, a, b);
          for (const at of SUPERBLOCKS) {
            bytes[at + 16] = 0;
            sealCrc(bytes.subarray(at, at + PAGE));
          }
        });
        expect((await problemsOf(without, FULL, null, 1)).found).toEqual([]);
        seen++;
      }
    }
    expect(seen).toBeGreaterThan(2);
  });

  test('level 2 finds swapped blocks and another version of a block without the key', async () => {
    const [a, b] = dataRecords(repo.files[FULL]!) as [RawRecord, RawRecord];
    const swapped = damaged(FULL, bytes => {
      swap(bytes, a, b);
      sealSum(bytes);
    });
    expect((await problemsOf(swapped, FULL, null, 1)).found).toEqual([]);
    const found = (await problemsOf(swapped, FULL, null, 2)).found.filter(one => one.block !== undefined);
    expect(found.map(one => [one.disk, one.block, one.offset])).toEqual([
      ['disk0', 0, a.at],
      ['disk0', 1, b.at],
    ]);
    if (secret === null) return;
    const older = damaged(FULL, bytes => {
      bytes[a.at + a.length - 16]! ^= 1;
      sealChecksums(bytes.subarray(a.at, a.at + a.length));
      sealSum(bytes);
    });
    expect((await problemsOf(older, FULL, null, 1)).found).toEqual([]);
    expect((await problemsOf(older, FULL, null, 2)).found).toMatchObject([
      { block: 0, message: expect.stringContaining('another version of the block') },
    ]);
  });

  test('level 2 knows the record of the writer', async () => {
    const files = damaged(FULL, bytes => {
      const session = recordsOf(bytes).find(({ kind }) => kind === 3);
      const record = bytes.subarray(session!.at, session!.at + session!.length);
      record[RECORD_HEADER + 40]! ^= 1;
      sealChecksums(record);
      sealSum(bytes);
    });
    expect((await problemsOf(files, FULL, null, 1)).found).toEqual([]);
    expect((await problemsOf(files, FULL, null, 2)).found).toMatchObject([{ offset: FIRST_RECORD }]);
  });

  test('a record whose header is forged to name another block is refused by what the entry knows', async () => {
    const records = dataRecords(repo.files[FULL]!).filter(
      record => record.length === dataRecords(repo.files[FULL]!)[0]!.length,
    );
    expect(records.length).toBeGreaterThan(1);
    const [a, b] = [records[0]!, records[1]!];
    const files = damaged(FULL, bytes => {
      const forged = bytes.slice(b.at, b.at + b.length);
      forged.set(bytes.subarray(a.at + 16, a.at + 24), 16);
      sealChecksums(forged);
      bytes.set(forged, a.at);
    });
    expect(await readChild(repo, files, secret, FULL)).toBe('refused');
  });

  test('a node with sound checksums that its parent does not know is refused', async () => {
    const forge = (bytes: Uint8Array): void => {
      for (const { kind, at, length } of recordsOf(bytes)) {
        if (kind !== 2) continue;
        const record = bytes.subarray(at, at + length);
        if (record[5] !== 1 || record[23] !== 1) continue;
        // The node is replaced by an empty one: holes where data were.
        const empty = zlib.zstdCompressSync(new Uint8Array(4096));
        const view = viewOf(record);
        view.setUint32(32, empty.length, true);
        record.set(empty, RECORD_HEADER);
        sealChecksums(record.subarray(0, RECORD_HEADER + empty.length));
      }
    };
    expect(await readChild(repo, damaged(FULL, forge), secret, FULL)).toBe('refused');
  });

  test('verify at level 3 names disk and block of a damaged record', async () => {
    const { at } = dataRecords(repo.files[FULL]!)[1]!;
    const block = repo.files[FULL]![at + 16];
    const files = damaged(FULL, bytes => {
      bytes[at + RECORD_HEADER + 20]! ^= 1;
    });
    const { found } = await problemsOf(files, FULL, secret, 3);
    expect(found.map(p => p.offset)).toEqual([at, at]);
    expect(found[1]).toMatchObject({ fault: 'corrupt', disk: 'disk0', block, file: FULL });
  });

  test('a missing parent breaks the child, names the layer, and leaves the parent file alone readable', async () => {
    const store = memoryStore({ [CHILD]: repo.files[CHILD]! });
    await using image = await openLayer(store, CHILD, secret);
    const problem = image.points[0]!.problem!;
    expect(problem.fault).toBe('broken-chain');
    expect(problem.message).toMatch(/needs layer [0-9a-f]{32} of 2026-02-03T04:05:06.000Z, which was in 0\.bml/);
    expect(await readChild(repo, repo.files, secret, FULL)).toBe('same');
  });

  test('a renamed parent is found by its set and layer', async () => {
    const files = { 'moved.bml': repo.files[FULL]!, [CHILD]: repo.files[CHILD]! };
    expect(await readChild(repo, files, secret)).toBe('same');
  });

  test('a layer of another set under the parent name is not taken for it', async () => {
    const other = await makeRepo(secret);
    const files = { [FULL]: other.files[FULL]!, [CHILD]: repo.files[CHILD]! };
    expect(await readChild(repo, files, secret)).toBe('refused');
  });

  test('both superblocks gone: refused; one gone: a warning', async () => {
    const one = damaged(CHILD, bytes => {
      bytes[20]! ^= 1;
    });
    expect(await readChild(repo, one, secret)).toBe('same');
    expect((await problemsOf(one, CHILD, secret, 1)).warnings[0]).toMatch(/superblock/);
    const both = damaged(CHILD, bytes => {
      bytes[20]! ^= 1;
      bytes[61440 + 20]! ^= 1;
    });
    expect(await readChild(repo, both, secret)).toBe('refused');
  });

  test.each([
    ['compatible', 16, null],
    ['read-only', 24, /unknown: reading only/],
    ['incompatible', 32, 'incompatible feature 17 (unknown) is not supported'],
  ] as const)('an unknown %s feature', async (_name, at, expected) => {
    const files = damaged(CHILD, bytes => {
      for (const base of [0, 61440]) {
        bytes[base + at + 2]! |= 2;
        sealCrc(bytes.subarray(base, base + PAGE));
      }
    });
    if (typeof expected === 'string') {
      await expect(openLayer(memoryStore(files), CHILD, secret)).rejects.toMatchObject({
        fault: 'unsupported',
        message: expected,
        where: { file: CHILD, at: 32 },
      });
      return;
    }
    expect(await readChild(repo, files, secret)).toBe('same');
    const { warnings } = await problemsOf(files, CHILD, secret, 1);
    if (expected === null) expect(warnings).toEqual([]);
    else expect(warnings[0]).toMatch(expected);
  });

  test('a higher major version is refused by its number', async () => {
    const files = damaged(CHILD, bytes => {
      for (const base of [0, 61440]) {
        bytes[base + 8] = 2;
        sealCrc(bytes.subarray(base, base + PAGE));
      }
    });
    const open = openLayer(memoryStore(files), CHILD, secret);
    await expect(open).rejects.toMatchObject({ fault: 'unsupported', message: expect.stringContaining('version 2') });
  });

  afterAll(() => expect(repo.store.bytes(FULL)).toEqual(repo.files[FULL]));
});

const dataRecords = (bytes: Uint8Array): readonly RawRecord[] => recordsOf(bytes).filter(({ kind }) => kind === 1);

test('an older point put back under a newer one, with the same layer id, is noticed without the key', async () => {
  const store = memoryStore();
  await writeLayer(store, FULL, { secret: SECRET }, [[0, 1, pattern(BLOCK, 1)]]);
  await using parent = await openLayer(store, FULL, SECRET);
  await writeLayer(store, CHILD, { secret: SECRET, parent }, [[0, 2, pattern(BLOCK, 2)]]);
  const files = { [FULL]: store.bytes(FULL), [CHILD]: store.bytes(CHILD) };
  expect((await problemsOf(files, CHILD, null, 2)).found).toEqual([]);
  // Whoever has no key can still make a commit whose checksums fit; its hash is another one then.
  const at = viewOf(files[FULL]!.subarray(files[FULL]!.length - PAGE)).getUint32(128, true);
  const commit = files[FULL]!.subarray(at, at + PAGE);
  commit[88]! ^= 1;
  commit[PAGE - 10]! ^= 1;
  sealCrc(commit);
  const { found } = await problemsOf(files, CHILD, null, 2);
  expect(found).toMatchObject([{ fault: 'corrupt', file: CHILD, message: expect.stringContaining('another version') }]);
});
