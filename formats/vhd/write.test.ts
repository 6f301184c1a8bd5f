import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openFile } from '../../src/base/io.ts';
import { hasCookie } from '../../src/base/vhd.ts';
import { localStore } from '../../src/stores/local.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { lazyDisk, materialize, memoryDisk, sparseDisk } from '../../test/kit/disks.ts';
import { fileDigest, fuseMissing, libvhdiDigest, missing, qemuImg, sevenZipDigest } from '../../test/kit/oracles.ts';
import { openStack } from '../../test/kit/reference.ts';
import { scratch } from '../../test/kit/samples.ts';
import { vhd, vhdFormat, writeVhd } from './index.ts';
import { MAX_SIZE } from './layout.ts';

const MIB = 1_048_576;
const runs = [
  { at: 0, length: 512 },
  { at: 2 * MIB - 512, length: 1024 },
  { at: 9 * MIB + 4096, length: 3 * MIB },
  { at: 21 * MIB, length: 1024 },
];
const DISK = sparseDisk(21 * MIB + 1024, 4, runs);

let folder = '';
beforeAll(() => {
  folder = scratch();
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

async function writtenFile(name: string, disk = DISK): Promise<string> {
  const target = path.join(folder, name);
  await using file = await openFile(target, 'create');
  await writeVhd(disk, file);
  return target;
}

async function rawFile(name: string): Promise<string> {
  const target = path.join(folder, name);
  const [raw] = vhdFormat.layout(DISK, { writable: true, name: 'x' });
  await materialize(raw!, DISK, target);
  fs.truncateSync(target, DISK.size);
  return target;
}

describe('a written VHD is the same disk', () => {
  test.skipIf(missing(['qemu-img']) !== null)('to QEMU', async () => {
    const file = await writtenFile('q.vhd');
    expect(await qemuImg.size(file, 'vpc')).toBe(DISK.size);
    await qemuImg.compare(file, 'vpc', await rawFile('q.raw'), 'raw');
  });

  test.skipIf(missing(['7zz']) !== null)('to 7-Zip', async () => {
    expect(await sevenZipDigest(await writtenFile('z.vhd'), 'vhd')).toBe(await fileDigest(await rawFile('z.raw')));
  });

  test.skipIf((missing(['vhdimount']) ?? fuseMissing()) !== null)('to libvhdi, as are both views', async () => {
    const want = await fileDigest(await rawFile('l.raw'));
    expect(await libvhdiDigest(await writtenFile('l.vhd'))).toBe(want);
    for (const writable of [false, true]) {
      const view = path.join(folder, `view-${writable}.vhd`);
      await materialize(vhdFormat.layout(DISK, { writable, name: 'x' })[0]!, DISK, view);
      expect(await libvhdiDigest(view)).toBe(want);
    }
  });

  test('to our own reader, without warnings', async () => {
    await writtenFile('own.vhd');
    const keys = { secrets: async () => [] };
    await using stack = await openStack({ adapter: vhd, store: localStore(folder), name: 'own.vhd', keys });
    expect(stack.image.warnings).toEqual([]);
    const [got, want] = [new Uint8Array(DISK.size), new Uint8Array(DISK.size)];
    await stack.read(got, 0);
    await DISK.read(want, 0);
    expect(Buffer.compare(got, want)).toBe(0);
  });
});

test('blocks of zeros take no space, known or not', async () => {
  const used = 6 * (2 * MIB + 4096) + 8192;
  expect(fs.statSync(await writtenFile('sparse.vhd')).size).toBeLessThanOrEqual(used);
  // Nothing is known about this one's zeros before they are read.
  const content = new Uint8Array(20 * MIB);
  content[5 * MIB] = 1;
  const blind = {
    ...memoryDisk(content),
    extent: (_: number, limit: number) => ({ kind: 'data', length: limit }) as const,
  };
  expect(fs.statSync(await writtenFile('blind.vhd', blind)).size).toBeLessThan(3 * MIB);
});

test('the same disk gives the same file, also when it answers late', async () => {
  const [a, b] = [await writtenFile('a.vhd'), await writtenFile('b.vhd', lazyDisk(DISK))];
  expect(await fileDigest(a)).toBe(await fileDigest(b));
});

test('what was not finished is no VHD', async () => {
  const store = memoryStore();
  const stop = new AbortController();
  const seen: number[] = [];
  await using file = await store.create('cut.vhd');
  const writing = writeVhd(
    DISK,
    file,
    done => {
      seen.push(done);
      if (done > 10 * MIB) stop.abort(new Error('enough'));
    },
    stop.signal,
  );
  await expect(writing).rejects.toThrow('enough');
  const left = store.bytes('cut.vhd');
  expect(left.length).toBeGreaterThan(2 * MIB);
  expect(hasCookie(left, 0) || hasCookie(left, left.length - 512)).toBe(false);
  await expect(vhd.open('cut.vhd', store, { secrets: async () => [] })).rejects.toMatchObject({
    fault: 'not-this-format',
  });
  expect(seen).toEqual(seen.toSorted((a, b) => a - b));
});

test('a disk that fails to read fails the writing, and leaves no VHD', async () => {
  const store = memoryStore();
  const bad = { ...DISK, read: () => Promise.reject(new Error('gone')) };
  await using file = await store.create('bad.vhd');
  await expect(writeVhd(bad, file)).rejects.toThrow('gone');
  await expect(vhd.open('bad.vhd', store, { secrets: async () => [] })).rejects.toThrow();
});

test('a disk beyond 2040 GiB is refused before anything is written', async () => {
  const store = memoryStore();
  await using file = await store.create('big.vhd');
  const writing = writeVhd(sparseDisk(MAX_SIZE + 512, 1, []), file);
  await expect(writing).rejects.toMatchObject({
    fault: 'too-big',
    message: expect.stringContaining('vhdx, qcow2 or raw'),
  });
  expect(store.bytes('big.vhd').length).toBe(0);
});
