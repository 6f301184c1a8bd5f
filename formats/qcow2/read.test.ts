import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Image, Problem } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { METADATA } from '../../src/base/shared-budget.ts';
import { localStore } from '../../src/stores/local.ts';
import { type MemoryStore, memoryStore } from '../../src/stores/memory.ts';
import { readView } from '../../src/views/view.ts';
import { sparseDisk } from '../../test/kit/disks.ts';
import { fileDigest, missing, qemuImg, qemuIo, run } from '../../test/kit/oracles.ts';
import { random } from '../../test/kit/random.ts';
import { openStack } from '../../test/kit/reference.ts';
import { scratch } from '../../test/kit/samples.ts';
import { raw } from '../raw/index.ts';
import { qcow2, qcow2Format, writeQcow2 } from './index.ts';

const MiB = 2 ** 20;
const keys = { secrets: async () => [] };
const DISK = sparseDisk(4 * MiB, 1, [
  { at: 0, length: MiB },
  { at: 3 * MiB, length: MiB },
]);

async function written(compression: 'zlib' | null = null): Promise<MemoryStore> {
  const store = memoryStore();
  await writeQcow2(DISK, await store.create('x.qcow2'), undefined, undefined, { compression });
  return store;
}

type Patch = (view: DataView, bytes: Uint8Array) => void;

const both =
  (first: Patch, second: Patch): Patch =>
  (view, bytes) => {
    first(view, bytes);
    second(view, bytes);
  };

async function patched(patch: Patch, compression: 'zlib' | null = null): Promise<MemoryStore> {
  const store = await written(compression);
  const bytes = store.bytes('x.qcow2');
  patch(new DataView(bytes.buffer), bytes);
  store.put('x.qcow2', bytes);
  return store;
}

async function findings(image: Image, level: 1 | 2 | 3): Promise<Problem[]> {
  const found: Problem[] = [];
  const { signal } = new AbortController();
  await image.verify!({ level, signal, found: problem => found.push(problem), progress: () => {} });
  return found;
}

const l2Of = (view: DataView): number => Number(view.getBigUint64(Number(view.getBigUint64(40))) & 0xfffffffffffe00n);

describe('what is refused, by name', () => {
  const L1_SIZE = 36;
  test.each<[string, string, RegExp, Patch]>([
    ['version 4', 'unsupported', /version 4/, v => v.setUint32(4, 4)],
    ['clusters of 4 MiB', 'unsupported', /2\^22/, v => v.setUint32(20, 22)],
    ['clusters of 2^300 bytes', 'unsupported', /2\^300/, v => v.setUint32(20, 300)],
    ['a huge L1 table', 'unsupported', /beyond 32 MiB/, v => v.setUint32(L1_SIZE, 0xffffffff)],
    ['an L1 table behind the end', 'corrupt', /leaves the file/, v => v.setBigUint64(40, 2n ** 40n)],
    ['an L1 table off its place', 'corrupt', /start of a cluster/, v => v.setBigUint64(40, 65536n + 8n)],
    ['a disk larger than its L1 table', 'corrupt', /needs 131072 L1/, v => v.setBigUint64(24, 2n ** 46n)],
    ['a disk of 2^60 bytes', 'corrupt', /beyond 2\^53/, v => v.setBigUint64(24, 2n ** 60n)],
    ['a huge refcount table', 'unsupported', /beyond 8 MiB/, v => v.setUint32(56, 0x7fffffff)],
    ['millions of snapshots', 'unsupported', /4294967295 snapshots/, v => v.setUint32(60, 0xffffffff)],
    [
      'snapshots behind the end',
      'corrupt',
      /snapshot table/,
      both(
        v => v.setUint32(60, 9),
        v => v.setBigUint64(64, 2n ** 50n),
      ),
    ],
    ['a header that leaves its cluster', 'corrupt', /header of 70000/, v => v.setUint32(100, 70000)],
    [
      'a long backing name',
      'corrupt',
      /backing file name/,
      both(
        v => v.setBigUint64(8, 512n),
        v => v.setUint32(16, 1024),
      ),
    ],
    [
      'an extension that leaves the header',
      'corrupt',
      /extension/,
      both(
        v => v.setUint32(112, 5),
        v => v.setUint32(116, 99999),
      ),
    ],
  ])('%s', async (_title, fault, message, patch) => {
    const store = await patched(patch);
    const started = performance.now();
    const error = await qcow2.open('x.qcow2', store, keys).then(
      () => null,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(ImageError);
    expect(error).toMatchObject({ fault, message: expect.stringMatching(message), where: { file: 'x.qcow2' } });
    expect(performance.now() - started).toBeLessThan(200);
  });

  const named: Patch = (view, bytes) => {
    view.setBigUint64(72, 1n << 40n);
    view.setUint32(112, 0x6803f857);
    view.setUint32(116, 48);
    bytes.set([0, 40, ...Buffer.from('quantum clusters')], 120);
  };
  test.each<[string, string, RegExp, Patch]>([
    ['a named feature', 'unsupported', /"quantum clusters" \(bit 40\)/, named],
    ['a feature without a name', 'unsupported', /feature bit 63/, v => v.setBigUint64(72, 1n << 63n)],
    ['AES', 'unsupported', /AES/, v => v.setUint32(32, 1)],
    ['LUKS without its header', 'corrupt', /LUKS/, v => v.setUint32(32, 2)],
    [
      'compression 7',
      'unsupported',
      /type 7/,
      both(
        v => v.setBigUint64(72, 8n),
        v => v.setUint8(104, 7),
      ),
    ],
    ['an unnamed data file', 'broken-chain', /does not name/, v => v.setBigUint64(72, 4n)],
  ])('%s leaves the point with its problem', async (_title, fault, message, patch) => {
    const store = await patched(patch);
    await using image = await qcow2.open('x.qcow2', store, keys);
    expect(image.points[0]!.problem).toMatchObject({ fault, message: expect.stringMatching(message) });
    expect(image.points[0]!.disks[0]).toMatchObject({ size: 4 * MiB, layer: null });
    expect(await findings(image, 2)).toMatchObject([{ fault }]);
  });

  test.each([
    ['nbd:unix:/socket', 'unsupported', /nbd:/],
    ['x.qcow2', 'broken-chain', /this image itself/],
  ])('backing file %s', async (name, fault, message) => {
    const store = await patched((view, bytes) => {
      view.setBigUint64(8, 512n);
      view.setUint32(16, name.length);
      bytes.set(Buffer.from(name), 512);
    });
    await using image = await qcow2.open('x.qcow2', store, keys);
    expect(image.points[0]!.problem).toMatchObject({ fault, message: expect.stringMatching(message) });
  });

  test('dirty and corrupt marks are warnings', async () => {
    await using image = await qcow2.open('x.qcow2', await patched(v => v.setBigUint64(72, 3n)), keys);
    expect(image.warnings).toEqual([
      expect.stringContaining('not closed cleanly'),
      expect.stringContaining('marked as corrupt'),
    ]);
    expect(image.points[0]!.problem).toBeNull();
  });
});

describe('damage', () => {
  async function readAll(store: MemoryStore, name = 'x.qcow2'): Promise<Uint8Array> {
    await using stack = await openStack({ adapter: qcow2, store, name, keys });
    const content = new Uint8Array(stack.size);
    await stack.read(content, 0);
    return content;
  }

  test.each<[string, RegExp, Patch, 'zlib' | null]>([
    ['an L2 table behind the end', /L2 table 0/, v => v.setBigUint64(Number(v.getBigUint64(40)), 2n ** 40n), null],
    ['a cluster behind the end', /past the end/, v => v.setBigUint64(l2Of(v), 2n ** 41n), null],
    ['a cluster off its place', /makes no sense/, v => v.setBigUint64(l2Of(v), 65536n * 5n + 512n), null],
    ['packed data behind the end', /past the end/, v => v.setBigUint64(l2Of(v), 2n ** 40n + 2n ** 62n), null],
    ['packed data that is none', /does not decompress/, v => v.setBigUint64(l2Of(v), 2n ** 62n + 777n), 'zlib'],
    ['packed data from metadata', /lies in metadata/, v => v.setBigUint64(l2Of(v), 2n ** 62n + 777n), 'zlib'],
    ['a cluster used twice', /another guest cluster/, v => v.setBigUint64(l2Of(v) + 8, v.getBigUint64(l2Of(v))), null],
    ['a cluster over metadata', /is metadata/, v => v.setBigUint64(l2Of(v), 2n ** 63n + 65536n), null],
    [
      'zero flag in version 2',
      /makes no sense/,
      both(
        v => v.setUint32(4, 2),
        v => v.setBigUint64(l2Of(v), 1n),
      ),
      null,
    ],
  ])('verify finds %s', async (_title, message, patch, compression) => {
    await using clean = await qcow2.open('x.qcow2', await written(compression), keys);
    expect(await findings(clean, 3)).toEqual([]);
    await using image = await qcow2.open('x.qcow2', await patched(patch, compression), keys);
    expect((await findings(image, 3)).map(problem => problem.message)).toContainEqual(expect.stringMatching(message));
  });

  test('a damaged entry breaks its own cluster only', async () => {
    const store = await patched(v => v.setBigUint64(l2Of(v) + 8, 2n ** 41n));
    await using stack = await openStack({ adapter: qcow2, store, name: 'x.qcow2', keys });
    const want = new Uint8Array(65536);
    const got = new Uint8Array(65536);
    await expect(stack.read(got, 65536)).rejects.toMatchObject({ fault: 'corrupt' });
    await stack.read(got, 2 * 65536);
    await DISK.read(want, 2 * 65536);
    expect(got).toEqual(want);
  });

  test('an L2 table outside the file breaks what it maps only', async () => {
    const store = memoryStore();
    const size = 1600 * MiB;
    const disk = sparseDisk(size, 2, [
      { at: 0, length: 512 },
      { at: 512 * MiB, length: 512 },
    ]);
    await writeQcow2(disk, await store.create('x.qcow2'));
    const bytes = store.bytes('x.qcow2');
    const view = new DataView(bytes.buffer);
    view.setBigUint64(Number(view.getBigUint64(40)) + 8, 2n ** 40n);
    store.put('x.qcow2', bytes);
    await using image = await qcow2.open('x.qcow2', store, keys);
    const layer = image.points[0]!.disks[0]!.layer!;
    await layer.load(0, size);
    expect(layer.locate(0, size)).toMatchObject({ kind: 'plain', length: 65536 });
    await expect(layer.load(512 * MiB, 512)).rejects.toMatchObject({ fault: 'corrupt' });
    expect(layer.locate(1024 * MiB, 512)).toEqual({ kind: 'absent', length: 512 });
  });

  test('a cut file says so, and what is missing is an error', async () => {
    const store = await written();
    const bytes = store.bytes('x.qcow2');
    store.put('x.qcow2', bytes.subarray(0, bytes.length / 2));
    await expect(readAll(store)).rejects.toMatchObject({ fault: 'corrupt' });
    // Only the end is missing, and the header, written first by most programs, is whole.
    const view = qcow2Format.layout(DISK, { writable: true, name: 'x' })[0]!;
    const whole = new Uint8Array(view.size);
    await readView(view, DISK, whole, 0);
    store.put('y.qcow2', whole.subarray(0, view.size - 65536 * 2 - 512));
    await using image = await qcow2.open('y.qcow2', store, keys);
    expect(image.warnings).toContainEqual(expect.stringContaining('seems to be cut'));
    await expect(readAll(store, 'y.qcow2')).rejects.toMatchObject({ fault: 'corrupt' });
    // The cluster in which the file ends: what is there is read, what is not there is no zeros.
    await using stack = await openStack({ adapter: qcow2, store, name: 'y.qcow2', keys });
    const at = 4 * MiB - 3 * 65536;
    await stack.read(new Uint8Array(65536 - 512), at);
    await expect(stack.read(new Uint8Array(512), at + 65536 - 512)).rejects.toMatchObject({ fault: 'corrupt' });
    expect((await findings(image, 2)).length).toBe(2);
  });

  test('two thousand changes of metadata end in a read or an ImageError, in bounded memory', async () => {
    const store = await written('zlib');
    const clean = store.bytes('x.qcow2');
    const { below, pick } = random(11);
    const view = new DataView(clean.buffer);
    const places = [0, Number(view.getBigUint64(40)), l2Of(view), Number(view.getBigUint64(48))];
    const before = process.memoryUsage().arrayBuffers;
    let refused = 0;
    for (let i = 0; i < 2000; i++) {
      const bytes = clean.slice();
      const at = pick(places) + below(128);
      bytes[at] = pick([0, 255, bytes[at]! ^ (2 ** below(8))]);
      store.put('x.qcow2', bytes);
      try {
        await using stack = await openStack({ adapter: qcow2, others: [raw], store, name: 'x.qcow2', keys });
        await stack.read(new Uint8Array(4096), below(Math.max(1, stack.size - 4096)));
        await findings(stack.image, 2);
      } catch (error) {
        if (!(error instanceof ImageError)) throw error;
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(100);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(512 * MiB);
  });
});

describe('tables in memory', () => {
  test('32 readers cause one read per page of each level', async () => {
    const store = await written();
    let reads = 0;
    const counting = {
      ...store,
      open: async (name: string) => {
        const source = await store.open(name);
        return {
          name,
          size: source.size,
          async read(into: Uint8Array, at: number) {
            reads++;
            await source.read(into, at);
          },
          [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
        };
      },
    };
    await using image = await qcow2.open('x.qcow2', counting, keys);
    const layer = image.points[0]!.disks[0]!.layer!;
    expect(layer.locate(0, 1)).toBeNull();
    reads = 0;
    await Promise.all(Array.from({ length: 32 }, () => layer.load(0, 4 * MiB)));
    expect(reads).toBe(2);
    expect(layer.locate(0, 4 * MiB)).toMatchObject({ kind: 'plain', length: MiB });
    expect(layer.locate(MiB, 4 * MiB - MiB)).toMatchObject({ kind: 'absent', length: 2 * MiB });
  });

  test.skipIf(missing(['qemu-img']) !== null)('the first level, too, is under the bound of all images', async () => {
    const folder = scratch();
    try {
      const file = path.join(folder, 'l1.qcow2');
      await qemuImg.create(file, 'qcow2', 16 * 2 ** 30, ['-o', 'cluster_size=512']);
      const store = memoryStore({ 'l1.qcow2': fs.readFileSync(file) });
      const before = METADATA.held;
      await using image = await qcow2.open('l1.qcow2', store, keys);
      expect(METADATA.held).toBe(before);
      const layer = image.points[0]!.disks[0]!.layer!;
      for (let at = 0; at < layer.size; at += 8 * MiB) {
        await layer.load(at, 512);
        expect(layer.locate(at, 512)).toMatchObject({ kind: 'absent' });
      }
      expect(METADATA.held - before).toBeGreaterThan(MiB);
      expect(METADATA.held - before).toBeLessThanOrEqual(2 * MiB);
    } finally {
      fs.rmSync(folder, { recursive: true });
    }
  });

  test('identity follows the content, not the name', async () => {
    const store = await written();
    store.put('elsewhere/y.qcow2', store.bytes('x.qcow2'));
    const identity = async (s: MemoryStore, name: string): Promise<string> => {
      await using image = await qcow2.open(name, s, keys);
      return image.points[0]!.identity;
    };
    expect(await identity(store, 'elsewhere/y.qcow2')).toBe(await identity(store, 'x.qcow2'));
    const changed = await patched(v => v.setBigUint64(l2Of(v), 0n));
    expect(await identity(changed, 'x.qcow2')).not.toBe(await identity(store, 'x.qcow2'));
  });
});

const absent = missing(['qemu-img', 'qemu-io']);
describe.skipIf(absent !== null)(absent ?? 'internal snapshots', () => {
  let folder: string;
  beforeAll(() => {
    folder = scratch();
  });
  afterAll(() => fs.rmSync(folder, { recursive: true }));

  test('are points of their own, oldest first, over the same backing file', async () => {
    const file = path.join(folder, 's.qcow2');
    await qemuImg.create(path.join(folder, 'base.qcow2'), 'qcow2', 2 * MiB);
    await qemuIo(path.join(folder, 'base.qcow2'), 'qcow2', ['write -P 9 0 2M']);
    await qemuImg.create(file, 'qcow2', 2 * MiB, ['-b', 'base.qcow2', '-F', 'qcow2']);
    const digests: string[] = [];
    for (const [i, name] of ['first', 'second'].entries()) {
      await qemuIo(file, 'qcow2', [`write -P ${i + 1} ${i * 65536} 70144`]);
      await run('qemu-img', ['snapshot', '-c', name, file]);
    }
    await qemuIo(file, 'qcow2', ['write -P 77 0 1M']);
    for (const name of ['first', 'second', null]) {
      const twin = path.join(folder, 'twin');
      await qemuImg.convert(file, 'qcow2', twin, 'raw', name === null ? [] : ['-l', name]);
      digests.push(await fileDigest(twin));
    }
    const store = localStore(folder);
    const identities: string[] = [];
    for (const [i, digest] of digests.entries()) {
      await using stack = await openStack({ adapter: qcow2, store, name: 's.qcow2', keys, point: i });
      expect(stack.image.points.map(point => point.type)).toEqual(['snapshot', 'snapshot', 'incremental']);
      expect(new Set(stack.image.points.map(point => point.id)).size).toBe(3);
      expect(stack.image.points[0]!.time).toBeInstanceOf(Date);
      expect(stack.point.parent).toEqual({ by: 'name', name: 'base.qcow2', format: 'qcow2' });
      const content = new Uint8Array(stack.size);
      await stack.read(content, 0);
      fs.writeFileSync(path.join(folder, 'got'), content);
      expect(await fileDigest(path.join(folder, 'got'))).toBe(digest);
      expect(await findings(stack.image, 3)).toEqual([]);
      identities.push(stack.point.identity);
    }
    await qemuIo(file, 'qcow2', ['write -P 78 0 2M']);
    await using image = await qcow2.open('s.qcow2', store, keys);
    expect(image.points.slice(0, 2).map(point => point.identity)).toEqual(identities.slice(0, 2));
    expect(image.points[2]!.identity).not.toBe(identities[2]);
  });
});
