import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openFile } from '../../src/base/io.ts';
import { localStore } from '../../src/stores/local.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { readView } from '../../src/views/view.ts';
import { lazyDisk, materialize, memoryDisk, sparseDisk } from '../../test/kit/disks.ts';
import { fileDigest, missing, qemuImg, sevenZipDigest } from '../../test/kit/oracles.ts';
import { openStack } from '../../test/kit/reference.ts';
import { scratch } from '../../test/kit/samples.ts';
import { vdi, vdiFormat, writeVdi } from './index.ts';
import { BLOCK, MAX_SIZE } from './layout.ts';
import { hasSignature } from './structs.ts';

const MIB = 1_048_576;
const keys = { secrets: async () => [] };
const DISK = sparseDisk(21 * MIB + 1024, 4, [
  { at: 0, length: 512 },
  { at: 2 * MIB - 512, length: 1024 },
  { at: 9 * MIB + 4096, length: 3 * MIB },
  { at: 21 * MIB, length: 1024 },
]);

let folder = '';
beforeAll(() => {
  folder = scratch();
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

async function writtenFile(name: string, disk = DISK): Promise<string> {
  const target = path.join(folder, name);
  await using file = await openFile(target, 'create');
  await writeVdi(disk, file);
  return target;
}

async function rawFile(name: string): Promise<string> {
  const target = path.join(folder, name);
  const content = new Uint8Array(DISK.size);
  await DISK.read(content, 0);
  fs.writeFileSync(target, content);
  return target;
}

describe('a written VDI is the same disk', () => {
  test.skipIf(missing(['qemu-img']) !== null)('to QEMU, which finds nothing wrong with it', async () => {
    const file = await writtenFile('q.vdi');
    expect(await qemuImg.size(file, 'vdi')).toBe(DISK.size);
    await qemuImg.check(file, 'vdi');
    await qemuImg.compare(file, 'vdi', await rawFile('q.raw'), 'raw');
  });

  test.skipIf(missing(['7zz']) !== null)('to 7-Zip', async () => {
    expect(await sevenZipDigest(await writtenFile('z.vdi'), 'vdi')).toBe(await fileDigest(await rawFile('z.raw')));
  });

  test('to our own reader, without warnings', async () => {
    await writtenFile('own.vdi');
    await using stack = await openStack({ adapter: vdi, store: localStore(folder), name: 'own.vdi', keys });
    expect(stack.image.warnings).toEqual([]);
    const [got, want] = [new Uint8Array(DISK.size), new Uint8Array(DISK.size)];
    await stack.read(got, 0);
    await DISK.read(want, 0);
    expect(Buffer.compare(got, want)).toBe(0);
  });
});

test.skipIf(missing(['qemu-img']) !== null)('QEMU finds nothing wrong with a writable view', async () => {
  const file = path.join(folder, 'view.vdi');
  await materialize(vdiFormat.layout(DISK, { writable: true, name: 'x' })[0]!, DISK, file);
  await qemuImg.check(file, 'vdi');
});

test.skipIf(missing(['qemu-img', 'qemu-io']) !== null)(
  'what QEMU writes into a writable view changes guest data alone',
  async () => {
    const [view] = vdiFormat.layout(DISK, { writable: true, name: 'x' });
    const file = path.join(folder, 'written.vdi');
    await materialize(view!, DISK, file);
    const before = fs.readFileSync(file);
    execFileSync('qemu-io', [
      '-f',
      'vdi',
      '-c',
      'write -P 9 5M 64k',
      '-c',
      'write -z 10M 1M',
      '-c',
      'discard 0 1M',
      file,
    ]);
    const after = fs.readFileSync(file);
    const dataAt = view!.size - 22 * MIB;
    expect(after.length).toBe(before.length);
    expect(Buffer.compare(after.subarray(0, dataAt), before.subarray(0, dataAt))).toBe(0);
    expect(after.subarray(dataAt + 5 * MIB, dataAt + 5 * MIB + 65_536).every(byte => byte === 9)).toBe(true);
  },
);

test('guest data lies at its own offset behind whole MiB', () => {
  for (const writable of [false, true]) {
    const [view] = vdiFormat.layout(DISK, { writable, name: 'x' });
    const piece = view!.pieceAt(view!.size - 1);
    expect(piece).toMatchObject({ kind: 'disk', at: 0, from: MIB, length: 22 * BLOCK });
  }
});

test('every disk and name has UUIDs of its own, the same on every mount', async () => {
  const uuids = async (disk = DISK, name = 'disk0', writable = false): Promise<string> => {
    const head = new Uint8Array(512);
    await readView(vdiFormat.layout(disk, { writable, name })[0]!, disk, head, 0);
    return Buffer.from(head.subarray(392, 424)).toString('hex');
  };
  const other = sparseDisk(DISK.size, 4, [], 'other');
  const all = [await uuids(), await uuids(other), await uuids(DISK, 'disk1'), await uuids(DISK, 'disk0', true)];
  expect(new Set(all).size).toBe(4);
  expect(await uuids()).toBe(all[0]);
});

test('blocks of zeros take no space, known or not', async () => {
  expect(fs.statSync(await writtenFile('sparse.vdi')).size).toBe(MIB + 8 * BLOCK);
  // Nothing is known about this one's zeros before they are read.
  const content = new Uint8Array(20 * MIB);
  content[5 * MIB] = 1;
  const blind = {
    ...memoryDisk(content),
    extent: (_: number, limit: number) => ({ kind: 'data', length: limit }) as const,
  };
  expect(fs.statSync(await writtenFile('blind.vdi', blind)).size).toBe(2 * MIB);
});

test('the same disk gives the same file, also when it answers late', async () => {
  const [a, b] = [await writtenFile('a.vdi'), await writtenFile('b.vdi', lazyDisk(DISK))];
  expect(await fileDigest(a)).toBe(await fileDigest(b));
});

test('2 TiB of nothing but the last sector is written at once', async () => {
  const size = 2 * 1024 * 1024 * MIB;
  const started = performance.now();
  const file = await writtenFile('far.vdi', sparseDisk(size, 1, [{ at: size - 512, length: 512 }]));
  expect(fs.statSync(file).size).toBe(9 * MIB + BLOCK);
  expect(performance.now() - started).toBeLessThan(5000);
});

test('what was not finished is no VDI', async () => {
  const store = memoryStore();
  const stop = new AbortController();
  const seen: number[] = [];
  await using file = await store.create('cut.vdi');
  const writing = writeVdi(
    DISK,
    file,
    done => {
      seen.push(done);
      if (done > 10 * MIB) stop.abort(new Error('enough'));
    },
    stop.signal,
  );
  await expect(writing).rejects.toThrow('enough');
  expect(hasSignature(store.bytes('cut.vdi'))).toBe(false);
  await expect(vdi.open('cut.vdi', store, keys)).rejects.toMatchObject({ fault: 'not-this-format' });
  expect(seen).toEqual(seen.toSorted((a, b) => a - b));
});

test('a disk that fails to read fails the writing, and leaves no VDI', async () => {
  const store = memoryStore();
  const bad = { ...DISK, read: () => Promise.reject(new Error('gone')) };
  await using file = await store.create('bad.vdi');
  await expect(writeVdi(bad, file)).rejects.toThrow('gone');
  await expect(vdi.open('bad.vdi', store, keys)).rejects.toThrow();
});

test('a disk beyond the limit is refused before anything is written', async () => {
  const store = memoryStore();
  await using file = await store.create('big.vdi');
  const writing = writeVdi(sparseDisk(MAX_SIZE + 512, 1, []), file);
  await expect(writing).rejects.toMatchObject({ fault: 'too-big', message: expect.stringContaining('raw or qcow2') });
  expect(store.bytes('big.vdi').length).toBe(0);
});
