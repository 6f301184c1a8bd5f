import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { ByteFile, Disk } from '../../src/base/contracts.ts';
import { openFile } from '../../src/base/io.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { lazyDisk, materialize, sparseDisk } from '../../test/kit/disks.ts';
import { fileDigest, missing, qemuImg, sevenZipDigest } from '../../test/kit/oracles.ts';
import { random } from '../../test/kit/random.ts';
import { scratch } from '../../test/kit/samples.ts';
import { rawFormat } from '../raw/index.ts';
import { createQcow2, qcow2, writeQcow2 } from './index.ts';

const MiB = 2 ** 20;
const TiB = 2 ** 40;
const absent = missing(['qemu-img', '7zz']);

const runsFor = (size: number, seed: number, count: number): { at: number; length: number }[] => {
  const { below } = random(seed);
  const starts = Array.from({ length: count }, () => below(size / 512) * 512).sort((a, b) => a - b);
  return starts
    .map((at, i) => ({ at, length: Math.min((starts[i + 1] ?? size) - at, 512 * (1 + below(900))) }))
    .filter(run => run.length > 0);
};

describe.skipIf(absent !== null)(absent ?? 'writing QCOW2, judged by qemu-img and 7-Zip', () => {
  let folder: string;
  beforeAll(() => {
    folder = scratch();
  });
  afterAll(() => fs.rmSync(folder, { recursive: true }));

  async function write(
    disk: Disk,
    compression: 'zlib' | 'zstd' | null,
    onProgress?: (done: number, total: number) => void,
  ): Promise<string> {
    const name = path.join(folder, `${compression}.qcow2`);
    fs.rmSync(name, { force: true });
    await using file = await openFile(name, 'create');
    await writeQcow2(disk, file, onProgress, undefined, { compression });
    return name;
  }

  for (const compression of [null, 'zlib', 'zstd'] as const) {
    for (const size of [512, 1536, 70_000 * 512, 200 * MiB]) {
      test(`${size} bytes, ${compression ?? 'plain'}`, async () => {
        const disk = lazyDisk(sparseDisk(size, 7, runsFor(size, size, 60)));
        const seen: number[] = [];
        const file = await write(disk, compression, done => seen.push(done));
        const twin = path.join(folder, 'twin.raw');
        await materialize(rawFormat.layout(disk, { writable: false, name: '' })[0]!, disk, twin);
        await qemuImg.check(file, 'qcow2');
        await qemuImg.compare(file, 'qcow2', twin, 'raw');
        if (compression !== 'zstd') expect(await sevenZipDigest(file, 'qcow')).toBe(await fileDigest(twin));
        expect(seen.at(-1)).toBe(size);
        expect(seen).toEqual(seen.toSorted((a, b) => a - b));
      });
    }
  }

  test('clusters that pack well share host clusters', async () => {
    const name = path.join(folder, 'packed.qcow2');
    await using file = await openFile(name, 'create');
    const clusters = 10_000;
    const writer = createQcow2(file, clusters * 65536, { compression: 'zlib' });
    const data = new Uint8Array(65536);
    for (let i = 0; i < clusters; i++) {
      data.fill(1 + (i % 255));
      await writer.put((i * 7919) % clusters, data);
    }
    await writer.finish();
    await qemuImg.check(name, 'qcow2');
    expect(writer.stored).toBeLessThan(4 * MiB);
  });

  test('more plain clusters than one refcount block counts, in any order', async () => {
    const name = path.join(folder, 'many.qcow2');
    await using inner = await openFile(name, 'create');
    // The data itself stays a hole; tables and refcounts are what is judged here.
    const file: ByteFile = {
      ...inner,
      name,
      get size() {
        return inner.size;
      },
      read: (into, at) => inner.read(into, at),
      write: (from, at) => (from[0] === 0xda ? undefined : inner.write(from, at)),
      truncate: size => inner.truncate(size),
      sync: () => inner.sync(),
      [Symbol.asyncDispose]: async () => {},
    };
    const writer = createQcow2(file, 2 * TiB);
    const clusters = 2 ** 25;
    const data = new Uint8Array(65536 * 16).fill(0xda);
    // 4,096 tables in turns: more than stay in memory, so they are written and read again.
    for (let i = 0; i < 8000; i++) await writer.put(((i * 8192 * 83) % clusters) + Math.floor(i / 400) * 16, data);
    await writer.finish();
    await qemuImg.check(name, 'qcow2');
  });

  test('clusters of 1 MiB above 4 TiB', async () => {
    const disk = sparseDisk(5 * TiB + 512, 8, [
      { at: 3 * MiB + 512, length: 4 * MiB },
      { at: 5 * TiB, length: 512 },
    ]);
    const file = await write(disk, 'zstd');
    await qemuImg.check(file, 'qcow2');
    expect(await qemuImg.size(file, 'qcow2')).toBe(5 * TiB + 512);
  });
});

describe('writing QCOW2', () => {
  const disk = sparseDisk(4 * MiB, 9, [{ at: 100, length: 3 * MiB }]);

  test('the file is no image until everything is in it', async () => {
    const store = memoryStore();
    const file = await store.create('x.qcow2');
    const writer = createQcow2(file, disk.size);
    await writer.put(0, new Uint8Array(65536).fill(1));
    await expect(qcow2.open('x.qcow2', store, { secrets: async () => [] })).rejects.toMatchObject({
      fault: 'not-this-format',
    });
    await writer.finish();
    await using image = await qcow2.open('x.qcow2', store, { secrets: async () => [] });
    expect(image.points[0]!.problem).toBeNull();
  });

  test('aborting, a full disk and a cluster put twice are errors', async () => {
    const store = memoryStore();
    const abort = new AbortController();
    const stop = (): void => abort.abort();
    await expect(writeQcow2(disk, await store.create('a'), stop, abort.signal)).rejects.toThrow('aborted');
    const full = await store.create('b');
    const limited: ByteFile = {
      ...full,
      get size() {
        return full.size;
      },
      write(from, at) {
        if (at + from.length > MiB) throw Object.assign(new Error('full'), { code: 'ENOSPC' });
        return full.write(from, at);
      },
    };
    await expect(writeQcow2(disk, limited)).rejects.toThrow('full');
    const writer = createQcow2(await store.create('c'), disk.size);
    const data = new Uint8Array(65536);
    await writer.put(3, data);
    await expect(writer.put(3, data)).rejects.toMatchObject({ fault: 'usage' });
    await expect(writer.put(64, data)).rejects.toMatchObject({ fault: 'out-of-range' });
    await expect(writer.put(0, data.subarray(512))).rejects.toMatchObject({ fault: 'out-of-range' });
  });

  test('the same disk gives the same file', async () => {
    const store = memoryStore();
    await writeQcow2(disk, await store.create('a'));
    await writeQcow2(lazyDisk(disk), await store.create('b'));
    expect(Buffer.compare(store.bytes('a'), store.bytes('b'))).toBe(0);
  });
});
