/** A `.bml` repository of some 170 KiB that has every structure of the format, and what is seen of it once it is damaged. */
import { BATCH } from '../../formats/bml/batches.ts';
import { consolidateBml } from '../../formats/bml/consolidate.ts';
import { type Failing, failing } from '../../formats/bml/failing.ts';
import { bml } from '../../formats/bml/index.ts';
import { layerOf, openLayer, pattern, readAll, SECRET, specOf, type Write, writeLayer } from '../../formats/bml/kit.ts';
import { recordsOf } from '../../formats/bml/raw-records.ts';
import { createBml } from '../../formats/bml/write.ts';
import type { Keyring, LayerWriter, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { verify } from '../../src/jobs/verify.ts';
import { type MemoryStore, memoryStore } from '../../src/stores/memory.ts';

const BLOCK = 4096;
/** More than 128 blocks, so that the tree has two levels. */
const BLOCKS = 130;
const NEVER = new AbortController().signal;

export type Files = Readonly<Record<string, Uint8Array>>;

export interface SmallRepository {
  readonly secret: Uint8Array | null;
  readonly files: Files;
  readonly before: Uint8Array;
  /** A record of block 0 of the full, of the same run of its writer as the one that is there, and as long. */
  readonly older: Uint8Array;
  /** Each point's disk, by the identity of the point. */
  readonly disks: ReadonlyMap<string, Uint8Array>;
}

export const FULL = 'full.bml';
export const TIP = 'tip.bml';

const size = BLOCKS * BLOCK - 512;

/** Costs nothing, since the key is derived hundreds of thousands of times. */
const RAW = [{ kdf: 'raw' }] as const;

/** What a run of the full wrote before it was killed: some of it serves the next one, some is replaced by it. */
const BEFORE: readonly Write[] = [
  [0, 0, pattern(BLOCK, 1)],
  [0, 1, pattern(BLOCK, 6)],
  [0, 7, pattern(BLOCK, 12)],
  [0, 9, pattern(BLOCK, 24)],
];

const LAYERS: readonly (readonly [name: string, parent: string | null, writes: readonly Write[]])[] = [
  [
    FULL,
    null,
    [
      [0, 0, pattern(BLOCK, 3)],
      [0, 1, pattern(BLOCK, 6)],
      [0, 2, 'zero'],
      [0, 7, pattern(BLOCK, 27)],
      [0, 9, 'zero'],
      [0, 129, pattern(BLOCK, 10)],
    ],
  ],
  [
    'middle.bml',
    FULL,
    [
      [0, 1, pattern(BLOCK, 15)],
      [0, 5, pattern(BLOCK, 18)],
    ],
  ],
  [
    TIP,
    'middle.bml',
    [
      [0, 3, pattern(BLOCK, 4).fill(5, 300)],
      [0, 5, pattern(BLOCK, 21)],
      [0, 7, 'zero'],
    ],
  ],
];

/**
 * A full whose writer was killed once and went on, and the second of two incrementals with the first one consolidated into
 * it. `before`: the file of the second one as it was before that.
 */
export async function smallRepository(secret: Uint8Array | null): Promise<SmallRepository> {
  const store = memoryStore();
  let older: Uint8Array | null = null;
  const { log } = await dryRun(secret);
  await writeLayer(
    failing(store, log.indexOf('sync'), true).store,
    FULL,
    { size, secret, derivations: RAW },
    BEFORE,
  ).catch(() => {});
  for (const [name, under, writes] of LAYERS) {
    await using parent = under === null ? null : await openLayer(store, under, secret);
    const { store: counted, log } = failing(store, -1, false);
    await using writer = await createBml(name, counted, specOf({ size, secret, parent }), { derivations: RAW });
    if (under === null) older = await olderRecord(writer, log, store);
    for (const [disk, block, state] of writes) await writer.write(disk, block, state);
    await writer.commit();
  }
  const before = store.bytes(TIP);
  await consolidateBml(store, { files: ['middle.bml', TIP], signal: NEVER, progress() {} });
  const contents = new Map<string, Uint8Array>();
  for (const name of [FULL, TIP]) {
    await using image = await openLayer(store, name, secret);
    contents.set(name, await readAll(layerOf(image)));
  }
  const files = Object.fromEntries([FULL, TIP].map(name => [name, store.bytes(name)]));
  await using repository = await openRepository(storeOf(files), [bml], ringOf(secret));
  const points = repository.sets.flatMap(set => set.points);
  const disks = new Map(points.map(point => [point.identity, contents.get(point.file)!]));
  return { secret, files, before, older: older!, disks };
}

/** Block 0 is written and stored; only a full batch is stored early. It will be written again. */
async function olderRecord(writer: LayerWriter, log: readonly string[], store: MemoryStore): Promise<Uint8Array> {
  const before = log.length;
  for (let i = 0; i < BATCH / BLOCK; i++) await writer.write(0, i === 0 ? 0 : 1, pattern(BLOCK, i === 0 ? 33 : 36));
  while (log.length === before) await new Promise(resolve => setImmediate(resolve));
  for await (const { name } of store.list()) {
    const bytes = store.bytes(name);
    const found = recordsOf(bytes).findLast(
      ({ kind, at }) => kind === 1 && bytes[at + 6] === 1 && bytes[at + 16] === 0,
    );
    if (found !== undefined) return bytes.slice(found.at, found.at + found.padded);
  }
  throw new Error('the older record is not there');
}

async function dryRun(secret: Uint8Array | null): Promise<Failing> {
  const run = failing(memoryStore(), -1, false);
  await writeLayer(run.store, FULL, { size, secret, derivations: RAW }, BEFORE);
  return run;
}

/** What is read; one call at a time. */
const scratch = new Uint8Array(BLOCKS * BLOCK);

const ringOf = (secret: Uint8Array | null): Keyring => ({ secrets: async () => (secret === null ? [] : [secret]) });

/** Lets pass what says that the data cannot be had; anything else is a fault of the program. */
function expectRefusal(error: unknown): void {
  if (!(error instanceof ImageError) || error.fault === 'usage') throw error;
}

/** The files as they are, without a copy. */
const storeOf = (files: Files): Store => ({
  label: 'damaged',
  async *list() {
    for (const [name, { length }] of Object.entries(files)) yield { name, size: length, modified: new Date(0) };
  },
  async open(name) {
    const bytes = files[name];
    if (bytes === undefined) throw new ImageError('not-found', 'no such file in the repository', { file: name });
    return {
      name,
      size: bytes.length,
      read(into, at) {
        if (at + into.length > bytes.length) throw new ImageError('corrupt', 'the file ends early', { file: name, at });
        into.set(bytes.subarray(at, at + into.length));
      },
      async [Symbol.asyncDispose]() {},
    };
  },
  async [Symbol.asyncDispose]() {},
});

/** 'right': all points are there with their bytes; 'refused': an error says why not, or a point is not there. */
export type Read = 'right' | 'refused';

/** Reads every point as a mount does. Throws when a byte is wrong. `strangers`: points of another set. */
export async function readPoints(
  { secret, disks }: SmallRepository,
  files: Files,
  strangers: SmallRepository['disks'],
): Promise<Read> {
  const store = storeOf(files);
  await using repository = await openRepository(store, [bml], ringOf(secret));
  const right = new Set<string>();
  for (const point of repository.sets.flatMap(set => set.points)) {
    try {
      await using disk = await point.openDisk(0);
      const all = scratch.subarray(0, disk.size);
      await disk.read(all, 0);
      const wanted = disks.get(point.identity) ?? strangers.get(point.identity);
      if (wanted === undefined || Buffer.compare(wanted, all) !== 0) throw new Error(`wrong bytes of ${point.file}`);
      if (disks.has(point.identity)) right.add(point.identity);
    } catch (error) {
      expectRefusal(error);
    }
  }
  return right.size === disks.size ? 'right' : 'refused';
}

/** How many problems `verify` has at a level, with the key or without. */
export async function problemsAt(
  { secret }: SmallRepository,
  files: Files,
  level: 1 | 2 | 3,
  withKey: boolean,
): Promise<number> {
  const store = storeOf(files);
  const ring = ringOf(withKey ? secret : null);
  await using repository = await openRepository(store, [bml], ring);
  const { problems } = await verify({
    repository,
    level,
    unread: repository.unknown,
    wanted: () => true,
    openImage: file => bml.open(file, store, ring),
    fileSize: file => files[file]?.length ?? 0,
    found() {},
    progress() {},
    signal: NEVER,
  });
  return problems.length;
}

export const SECRETS = { plain: null, encrypted: SECRET } as const;
