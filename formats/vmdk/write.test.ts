import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Disk } from '../../src/base/contracts.ts';
import { openFile } from '../../src/base/io.ts';
import { localStore } from '../../src/stores/local.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { lazyDisk, materialize, memoryDisk, sparseDisk } from '../../test/kit/disks.ts';
import { virtualStore } from '../../test/kit/format-checks.ts';
import { fileDigest, fuseMissing, missing, qemuImg, qemuIo, run, sevenZipDigest } from '../../test/kit/oracles.ts';
import { openStack } from '../../test/kit/reference.ts';
import { scratch } from '../../test/kit/samples.ts';
import { vmdk, vmdkFormat, writeVmdk } from './index.ts';
import { planFor } from './layout.ts';

const MIB = 1_048_576;
const TIB = 2 ** 40;
const keys = { secrets: async () => [] };
const runs = [
  { at: 0, length: 512 },
  { at: 2 * MIB - 512, length: 1024 },
  { at: 9 * MIB + 4096, length: 3 * MIB },
  { at: 40 * MIB, length: 70_000 },
  { at: 71 * MIB, length: 1024 },
];
const DISK = sparseDisk(71 * MIB + 1024, 4, runs);

let folder = '';
beforeAll(() => {
  folder = scratch();
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

async function writtenFile(name: string, disk = DISK): Promise<string> {
  const target = path.join(folder, name);
  await using file = await openFile(target, 'create');
  await writeVmdk(disk, file);
  return target;
}

async function rawFile(name: string): Promise<string> {
  const target = path.join(folder, name);
  const files = vmdkFormat.layout(DISK, { writable: true, name: 'x' });
  await materialize(files[1]!, DISK, target);
  return target;
}

/** SHA-256 of the disk that libvmdk sees. */
async function libvmdkDigest(file: string): Promise<string> {
  const at = fs.mkdtempSync(`${file}.mount-`);
  const { code, err } = await run('vmdkmount', [file, at]);
  if (code !== 0) throw new Error(err);
  try {
    return await fileDigest(path.join(at, 'vmdk1'));
  } finally {
    await run('umount', [at]);
    fs.rmdirSync(at);
  }
}

describe('a written VMDK is the same disk', () => {
  test.skipIf(missing(['qemu-img']) !== null)('to QEMU', async () => {
    const file = await writtenFile('q.vmdk');
    expect(await qemuImg.size(file, 'vmdk')).toBe(DISK.size);
    await qemuImg.check(file, 'vmdk');
    await qemuImg.compare(file, 'vmdk', await rawFile('q.raw'), 'raw');
  });

  test.skipIf(missing(['7zz']) !== null)('to 7-Zip', async () => {
    expect(await sevenZipDigest(await writtenFile('z.vmdk'), 'vmdk')).toBe(await fileDigest(await rawFile('z.raw')));
  });

  test.skipIf((missing(['vmdkmount']) ?? fuseMissing()) !== null)('to libvmdk, as is the view', async () => {
    const want = await fileDigest(await rawFile('l.raw'));
    expect(await libvmdkDigest(await writtenFile('l.vmdk'))).toBe(want);
    // It does not mount flat disks, QEMU's neither.
    const [view] = vmdkFormat.layout(DISK, { writable: false, name: 'view' });
    await materialize(view!, DISK, path.join(folder, 'view.vmdk'));
    expect(await libvmdkDigest(path.join(folder, 'view.vmdk'))).toBe(want);
  });

  test('to our own reader, without warnings', async () => {
    await writtenFile('own.vmdk');
    await using stack = await openStack({ adapter: vmdk, store: localStore(folder), name: 'own.vmdk', keys });
    expect(stack.image.warnings).toEqual([]);
    const [got, want] = [new Uint8Array(DISK.size), new Uint8Array(DISK.size)];
    await stack.read(got, 0);
    await DISK.read(want, 0);
    expect(Buffer.compare(got, want)).toBe(0);
  });
});

test('grains of zeros take no space, known or not', async () => {
  expect(fs.statSync(await writtenFile('sparse.vmdk')).size).toBeLessThan(4 * MIB);
  // Nothing is known about this one's zeros before they are read.
  const content = new Uint8Array(20 * MIB);
  content[5 * MIB] = 1;
  const blind = {
    ...memoryDisk(content),
    extent: (_: number, limit: number) => ({ kind: 'data', length: limit }) as const,
  };
  expect(fs.statSync(await writtenFile('blind.vmdk', blind)).size).toBeLessThan(300_000);
});

test('the same disk gives the same file, also when it answers late', async () => {
  fs.mkdirSync(path.join(folder, 'late'));
  const [a, b] = [await writtenFile('a.vmdk'), await writtenFile('late/a.vmdk', lazyDisk(DISK))];
  expect(await fileDigest(a)).toBe(await fileDigest(b));
});

test('what was not finished is no VMDK', async () => {
  const store = memoryStore();
  const stop = new AbortController();
  const seen: number[] = [];
  await using file = await store.create('cut.vmdk');
  const writing = writeVmdk(
    DISK,
    file,
    done => {
      seen.push(done);
      if (done > 10 * MIB) stop.abort(new Error('enough'));
    },
    stop.signal,
  );
  await expect(writing).rejects.toThrow('enough');
  expect(store.bytes('cut.vmdk').length).toBeGreaterThan(MIB);
  expect(vmdk.probe(store.bytes('cut.vmdk').slice(0, 65_536), new Uint8Array(0), 'cut.vmdk')).toBe('no');
  await expect(vmdk.open('cut.vmdk', store, keys)).rejects.toMatchObject({ fault: 'not-this-format' });
  expect(seen).toEqual(seen.toSorted((a, b) => a - b));
});

test('a disk that fails to read fails the writing, and leaves no VMDK', async () => {
  const store = memoryStore();
  await using file = await store.create('bad.vmdk');
  await expect(writeVmdk({ ...DISK, read: () => Promise.reject(new Error('gone')) }, file)).rejects.toThrow('gone');
  await expect(vmdk.open('bad.vmdk', store, keys)).rejects.toThrow();
});

test('a disk beyond 2 TiB is refused before anything is written', async () => {
  const store = memoryStore();
  await using file = await store.create('big.vmdk');
  const writing = writeVmdk(sparseDisk(2 * TIB, 1, []), file);
  await expect(writing).rejects.toMatchObject({ fault: 'too-big', message: expect.stringContaining('raw or qcow2') });
  expect(store.bytes('big.vmdk').length).toBe(0);
});

describe('the largest sparse disk', () => {
  let size = 2 * TIB;
  while (planFor(size) === null) size -= 65_536;
  const disk = sparseDisk(size, 1, [{ at: size - 100_000, length: 100_000 }]);

  test('is a little smaller than 2 TiB; larger ones are shown flat', () => {
    expect(2 * TIB - size).toBeLessThan(2 ** 30);
    const suffixes = (of: Disk): readonly string[] =>
      vmdkFormat.layout(of, { writable: false, name: 'x' }).map(file => file.suffix);
    expect(suffixes(disk)).toEqual(['.vmdk']);
    expect(suffixes(sparseDisk(size + 512, 1, []))).toEqual(['.vmdk', '-flat.vmdk']);
    expect(suffixes(sparseDisk(16 * TIB, 1, []))).toEqual(['.vmdk', '-flat.vmdk']);
  });

  test.skipIf(missing(['qemu-io']) !== null)('is written and shown to its last sector', async () => {
    const [view] = vmdkFormat.layout(disk, { writable: false, name: 'shown' });
    const store = virtualStore([view!], disk, 'shown');
    await using shown = await openStack({ adapter: vmdk, store, name: 'shown.vmdk', keys });
    await writtenFile('largest.vmdk', disk);
    await using written = await openStack({ adapter: vmdk, store: localStore(folder), name: 'largest.vmdk', keys });
    const want = new Uint8Array(200_000);
    await disk.read(want, size - want.length);
    for (const stack of [shown, written]) {
      const got = new Uint8Array(want.length);
      await stack.read(got, size - got.length);
      expect(Buffer.compare(got, want)).toBe(0);
    }
    expect(await qemuImg.size(path.join(folder, 'largest.vmdk'), 'vmdk')).toBe(size);
    const read = await qemuIo(path.join(folder, 'largest.vmdk'), 'vmdk', [`read -v ${size - 16} 16`]);
    expect(read.replaceAll(/\s/g, '')).toContain(Buffer.from(want.subarray(-16)).toString('hex'));
  });

  const long = process.env.BOOTMOUNT_LONG === '1' ? missing(['qemu-img']) : 'takes long: BOOTMOUNT_LONG=1';
  test.skipIf(long !== null)('is the same to QEMU, written and shown', async () => {
    const [view] = vmdkFormat.layout(disk, { writable: false, name: 'shown' });
    await materialize(view!, disk, path.join(folder, 'shown.vmdk'));
    await qemuImg.compare(await writtenFile('long.vmdk', disk), 'vmdk', path.join(folder, 'shown.vmdk'), 'vmdk');
  });
});
