import { expect, test } from 'vitest';
import type { Image, Keyring, Problem, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { addSnapshot, diskContent, encodeBlob, type Files, type Fixture } from './fixtures.ts';
import { pbs } from './index.ts';

const NO_KEYS: Keyring = { secrets: async () => [] };
const FOLDER = 'vm/100/2026-11-20T10:00:00Z';
const NAME = `${FOLDER}/index.json.blob`;
const CHUNK = 16_384;
const CONTENT = diskContent(300_000, 5);
const SCSI0: Fixture['disks'][number] = { filename: 'drive-scsi0.img.fidx', content: CONTENT };

async function datastore(spec: Partial<Fixture> = {}): Promise<Files> {
  const files: Files = {};
  await addSnapshot(files, { folder: FOLDER, chunkSize: CHUNK, disks: [SCSI0], ...spec });
  return files;
}

/** File of the chunk that holds the first byte of the disk. */
const firstChunk = (files: Files): string => {
  const digest = Buffer.from(files[`${FOLDER}/drive-scsi0.img.fidx`]!.subarray(4096, 4128)).toString('hex');
  return `.chunks/${digest.slice(0, 4)}/${digest}`;
};

const flip = (data: Uint8Array, at: number): Uint8Array => {
  const out = new Uint8Array(data);
  out[at]! ^= 1;
  return out;
};

async function problems(image: Image, level: 1 | 2 | 3): Promise<readonly Problem[]> {
  const found: Problem[] = [];
  await image.verify!({
    level,
    found: problem => found.push(problem),
    progress() {},
    signal: new AbortController().signal,
  });
  return found;
}

async function readAll(store: Store, index = 0): Promise<{ good: number; errors: readonly ImageError[] }> {
  await using repository = await openRepository(store, [pbs], NO_KEYS);
  const point = repository.sets[0]!.points[0]!;
  await using disk = await point.openDisk(index);
  const errors: ImageError[] = [];
  let good = 0;
  for (let at = 0; at < disk.size; at += CHUNK) {
    const part = new Uint8Array(Math.min(CHUNK, disk.size - at));
    try {
      await disk.read(part, at);
      expect(Buffer.compare(part, CONTENT.subarray(at, at + part.length))).toBe(0);
      good++;
    } catch (error) {
      expect(error).toBeInstanceOf(ImageError);
      errors.push(error as ImageError);
    }
  }
  return { good, errors };
}

test('a sound snapshot reads whole and verifies without a finding', async () => {
  const store = memoryStore(await datastore({ config: 'scsi0: local:100/disk.raw' }));
  expect(await readAll(store)).toEqual({ good: 19, errors: [] });
  await using image = await pbs.open(NAME, store, NO_KEYS);
  for (const level of [1, 2, 3] as const) expect(await problems(image, level)).toEqual([]);
});

test('a missing chunk is an error for its range alone, and verify names it', async () => {
  const files = await datastore();
  const file = firstChunk(files);
  delete files[file];
  const store = memoryStore(files);
  const { good, errors } = await readAll(store);
  expect(good).toBe(18);
  expect(errors).toHaveLength(1);
  expect(errors[0]).toMatchObject({ fault: 'corrupt', where: { file } });
  expect(errors[0]!.message).toContain('is missing');
  await using image = await pbs.open(NAME, store, NO_KEYS);
  expect(await problems(image, 1)).toEqual([]);
  for (const level of [2, 3] as const) {
    expect(await problems(image, level)).toEqual([
      expect.objectContaining({ fault: 'corrupt', file, disk: 'scsi0', block: 0 }),
    ]);
  }
});

test.each([0, 7, 9, 12, 40, 3000])('a chunk whose byte %i was changed is an error or the right bytes', async at => {
  const files = await datastore();
  const file = firstChunk(files);
  files[file] = flip(files[file]!, at);
  const store = memoryStore(files);
  const { errors } = await readAll(store);
  // The CRC itself is not part of the content; verify looks at it.
  expect(errors.map(({ fault, where }) => [fault, where.file])).toEqual(at === 9 ? [] : [['corrupt', file]]);
  await using image = await pbs.open(NAME, store, NO_KEYS);
  expect(await problems(image, 3)).toEqual([expect.objectContaining({ fault: 'corrupt', file, block: 0 })]);
});

test('a chunk with other content under its name, well formed, is found by its digest', async () => {
  const files = await datastore();
  const file = firstChunk(files);
  files[file] = encodeBlob(CONTENT.slice(0, CHUNK).fill(1, 5, 6), null);
  expect((await readAll(memoryStore(files))).errors[0]!.message).toContain('other data than its digest');
  files[file] = encodeBlob(CONTENT.subarray(0, CHUNK - 1), null);
  expect((await readAll(memoryStore(files))).errors[0]!.message).toContain('16383 bytes instead of 16384');
  files[file] = encodeBlob(new Uint8Array(50_000_000), null);
  expect((await readAll(memoryStore(files))).errors[0]!.message).toContain('cannot be decompressed');
});

test('a digest that was changed is found by verify, and is an error when it is read', async () => {
  const files = await datastore();
  const index = `${FOLDER}/drive-scsi0.img.fidx`;
  files[index] = flip(files[index]!, 4096 + 5);
  const store = memoryStore(files);
  expect((await readAll(store)).errors).toHaveLength(1);
  await using image = await pbs.open(NAME, store, NO_KEYS);
  expect(await problems(image, 1)).toEqual([expect.objectContaining({ file: index, offset: 4096 })]);
});

test.each([
  [0, 'magic'],
  [40, 'not the one that the manifest lists'],
  [65, 'the manifest says 300000'],
  [72, 'chunks of 16385 bytes'],
])('an index whose byte %i was changed leaves the other disk readable', async (at, message) => {
  const files = await datastore({ disks: [SCSI0, { filename: 'drive-scsi1.img.fidx', content: CONTENT }] });
  const index = `${FOLDER}/drive-scsi1.img.fidx`;
  files[index] = flip(files[index]!, at);
  const store = memoryStore(files);
  expect(await readAll(store)).toEqual({ good: 19, errors: [] });
  expect((await readAll(store, 1)).good).toBe(0);
  await using repository = await openRepository(store, [pbs], NO_KEYS);
  expect(repository.warnings).toEqual([expect.stringContaining(message)]);
});

test('a snapshot without any index is broken, and says which is missing', async () => {
  const files = await datastore();
  delete files[`${FOLDER}/drive-scsi0.img.fidx`];
  await using image = await pbs.open(NAME, memoryStore(files), NO_KEYS);
  expect(image.points[0]!.problem).toMatchObject({ fault: 'corrupt', message: 'drive-scsi0.img.fidx is missing' });
});

test('namespaces, groups and file archives', async () => {
  const files: Files = {};
  for (const folder of [
    'ds/ns/a/ns/b/vm/1/2026-11-20T10:00:00Z',
    'ds/ct/1/2026-11-20T10:00:00Z',
    'ds/host/pc/2026-11-20T10:00:00Z',
  ]) {
    const filename = folder.includes('/ct/') ? 'root.pxar.didx' : 'drive-scsi0.img.fidx';
    await addSnapshot(files, {
      folder,
      root: 'ds/',
      chunkSize: CHUNK,
      disks: [{ filename, content: CONTENT, cuts: [CHUNK] }],
    });
  }
  await using repository = await openRepository(memoryStore(files), [pbs], NO_KEYS);
  expect(repository.sets.map(({ name, points }) => [name, points[0]!.state, points[0]!.disks.length])).toEqual([
    ['a-b-vm-1', 'ok', 1],
    ['ct-1', 'ok', 0],
    ['host-pc', 'ok', 1],
  ]);
});

test('the disk that the machine boots from is the first, firmware disks are the last', async () => {
  const disks = ['efidisk0', 'scsi0', 'virtio0'].map(name => ({
    filename: `drive-${name}.img.fidx`,
    content: CONTENT,
  }));
  const order = async (config: string): Promise<readonly string[]> => {
    await using image = await pbs.open(NAME, memoryStore(await datastore({ disks, config })), NO_KEYS);
    return image.points[0]!.disks.map(({ name }) => name);
  };
  expect(await order('boot: order=virtio0;net0\nscsi0: a\n')).toEqual(['virtio0', 'scsi0', 'efidisk0']);
  expect(await order('bootdisk: virtio0\n')).toEqual(['virtio0', 'scsi0', 'efidisk0']);
  expect(await order('cores: 1\n[old]\nboot: order=virtio0\n')).toEqual(['scsi0', 'virtio0', 'efidisk0']);
});

test('the identity stays when the server adds notes, and changes with the content', async () => {
  const identity = async (files: Files): Promise<string> => {
    await using image = await pbs.open(NAME, memoryStore(files), NO_KEYS);
    return image.points[0]!.identity;
  };
  const files = await datastore();
  const before = await identity(files);
  const text = JSON.stringify({
    ...JSON.parse(Buffer.from(await manifestOf(files)).toString()),
    unprotected: { notes: 'x' },
  });
  files[NAME] = encodeBlob(Buffer.from(text), null);
  expect(await identity(files)).toBe(before);
  expect(await identity(await datastore({ disks: [{ ...SCSI0, content: diskContent(300_000, 6) }] }))).not.toBe(before);
});

async function manifestOf(files: Files): Promise<Uint8Array> {
  const { blobContent, readBlob } = await import('./blob.ts');
  return blobContent(await readBlob(memoryStore(files), NAME, 2 ** 20), null, 2 ** 20, true);
}

test.each([
  ['{"a":1', 'not JSON'],
  ['[]', 'content'],
  [{ 'backup-type': 'pc' }, 'backup-type'],
  [{ 'backup-id': '../x' }, 'backup-id'],
  [{ 'backup-time': 1e300 }, 'backup-time'],
  [{ files: 7 }, 'files'],
  [{ files: [{ filename: '../../x.fidx' }] }, 'filename'],
  [{ files: [{ filename: 'a.fidx', size: -1 }] }, 'size'],
  [{ files: [{ filename: 'a.fidx', size: 1, csum: 'x' }] }, 'csum'],
  [{ files: [{ filename: 'a.fidx', size: 1, csum: '0'.repeat(64), 'crypt-mode': 'rot13' }] }, 'rot13'],
])('a manifest that makes no sense is refused: %j', async (change, message) => {
  const sound = { 'backup-type': 'vm', 'backup-id': '100', 'backup-time': 1, files: [] };
  const text = typeof change === 'string' ? change : JSON.stringify({ ...sound, ...change });
  const store = memoryStore({ [NAME]: encodeBlob(Buffer.from(text), null) });
  await expect(pbs.open(NAME, store, NO_KEYS)).rejects.toThrow(message);
});

test('an index that claims more chunks than its file holds is refused at once', async () => {
  const files = await datastore();
  const huge = 2 ** 50;
  const index = Buffer.from(files[`${FOLDER}/drive-scsi0.img.fidx`]!);
  index.writeBigUInt64LE(BigInt(huge), 64);
  files[`${FOLDER}/drive-scsi0.img.fidx`] = index;
  const text = Buffer.from(await manifestOf(files))
    .toString()
    .replace('300000', String(huge));
  files[NAME] = encodeBlob(Buffer.from(text), null);
  await using image = await pbs.open(NAME, memoryStore(files), NO_KEYS);
  expect(image.points[0]!.problem!.message).toContain('does not fit');
});

test('the ends of a dynamic index have to grow', async () => {
  const disks = [{ filename: 'a.img.didx', content: CONTENT, cuts: [10_000] }];
  const files = await datastore({ disks });
  const index = Buffer.from(files[`${FOLDER}/a.img.didx`]!);
  index.writeBigUInt64LE(5n, 4096 + 2 * 40);
  files[`${FOLDER}/a.img.didx`] = index;
  await using image = await pbs.open(NAME, memoryStore(files), NO_KEYS);
  await expect(image.points[0]!.disks[0]!.layer!.load(0, 1)).rejects.toMatchObject({ fault: 'corrupt' });
});
