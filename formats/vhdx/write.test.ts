import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Disk } from '../../src/base/contracts.ts';
import { openFile } from '../../src/base/io.ts';
import { diskPiece, virtualFile } from '../../src/base/pieces.ts';
import { localStore } from '../../src/stores/local.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { lazyDisk, materialize, memoryDisk, sparseDisk } from '../../test/kit/disks.ts';
import { fileDigest, fuseMissing, libvhdiDigest, missing, qemuImg, sevenZipDigest } from '../../test/kit/oracles.ts';
import { openStack } from '../../test/kit/reference.ts';
import { scratch } from '../../test/kit/samples.ts';
import { vhdx, vhdxFormat, writeVhdx } from './index.ts';
import { hasText, MAX_SIZE, MIB, SIGNATURE } from './structs.ts';

const runs = [
  { at: 0, length: 512 },
  { at: 2 * MIB - 512, length: 1024 },
  { at: 9 * MIB + 4096, length: 3 * MIB },
  { at: 21 * MIB, length: 4096 },
];
const DISK = sparseDisk(21 * MIB + 4096, 4, runs);
const keys = { secrets: async () => [] };

let folder = '';
beforeAll(() => {
  folder = scratch();
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

async function writtenFile(name: string, disk = DISK): Promise<string> {
  const target = path.join(folder, name);
  await using file = await openFile(target, 'create');
  await writeVhdx(disk, file);
  return target;
}

async function rawFile(name: string, disk = DISK): Promise<string> {
  const target = path.join(folder, name);
  await materialize(virtualFile('.raw', [diskPiece(disk.size)]), disk, target);
  return target;
}

/** Our own reader finds the disk again, without warnings. */
async function readsBack(name: string, disk: Disk): Promise<void> {
  await using stack = await openStack({ adapter: vhdx, store: localStore(folder), name, keys });
  expect(stack.image.warnings).toEqual([]);
  expect(stack.point.disks[0]).toMatchObject({ size: disk.size, sectorSize: disk.sectorSize });
  const [got, want] = [new Uint8Array(disk.size), new Uint8Array(disk.size)];
  await stack.read(got, 0);
  await disk.read(want, 0);
  expect(Buffer.compare(got, want)).toBe(0);
}

describe('a written VHDX is the same disk', () => {
  test.skipIf(missing(['qemu-img']) !== null)('to QEMU', async () => {
    const file = await writtenFile('q.vhdx');
    expect(await qemuImg.size(file, 'vhdx')).toBe(DISK.size);
    await qemuImg.check(file, 'vhdx');
    await qemuImg.compare(file, 'vhdx', await rawFile('q.raw'), 'raw');
  });

  test.skipIf(missing(['7zz']) !== null)('to 7-Zip', async () => {
    expect(await sevenZipDigest(await writtenFile('z.vhdx'), 'vhdx')).toBe(await fileDigest(await rawFile('z.raw')));
  });

  test.skipIf((missing(['vhdimount']) ?? fuseMissing()) !== null)('to libvhdi, as are both views', async () => {
    const want = await fileDigest(await rawFile('l.raw'));
    expect(await libvhdiDigest(await writtenFile('l.vhdx'))).toBe(want);
    for (const writable of [false, true]) {
      const view = path.join(folder, `view-${writable}.vhdx`);
      await materialize(vhdxFormat.layout(DISK, { writable, name: 'x' })[0]!, DISK, view);
      expect(await libvhdiDigest(view)).toBe(want);
    }
  });

  test('to our own reader', async () => {
    await writtenFile('own.vhdx');
    await readsBack('own.vhdx', DISK);
  });

  test.skipIf(missing(['7zz']) !== null)('in sectors of 4096 bytes too', async () => {
    // 7-Zip takes whole groups of 8 sectors only.
    const disk: Disk = { ...sparseDisk(21 * MIB + 32_768, 4, runs), sectorSize: 4096 };
    const file = await writtenFile('4k.vhdx', disk);
    await readsBack('4k.vhdx', disk);
    expect(await sevenZipDigest(file, 'vhdx')).toBe(await fileDigest(await rawFile('4k.raw', disk)));
  });
});

test('blocks of zeros take no space, known or not', async () => {
  expect(fs.statSync(await writtenFile('sparse.vhdx')).size).toBe(4 * MIB + 6 * 2 * MIB);
  // Nothing is known about this one's zeros before they are read.
  const content = new Uint8Array(20 * MIB);
  content[5 * MIB] = 1;
  const blind = {
    ...memoryDisk(content),
    extent: (_: number, limit: number) => ({ kind: 'data', length: limit }) as const,
  };
  const { size, blocks } = fs.statSync(await writtenFile('blind.vhdx', blind));
  expect(size).toBe(6 * MIB);
  expect(blocks * 512).toBeLessThan(3 * MIB);
});

test('a block of 32 MiB with a little data in it is mostly a hole', async () => {
  const size = 5 * 2 ** 40;
  const disk = sparseDisk(size, 1, [
    { at: 7 * 2 ** 30 + 5 * MIB, length: 4096 },
    { at: size - 512, length: 512 },
  ]);
  const file = await writtenFile('large.vhdx', disk);
  const { size: length, blocks } = fs.statSync(file);
  expect(length).toBe(3 * MIB + 2 * MIB + 2 * 32 * MIB);
  expect(blocks * 512).toBeLessThan(8 * MIB);
  await using stack = await openStack({ adapter: vhdx, store: localStore(folder), name: 'large.vhdx', keys });
  for (const { at, length } of [
    { at: 7 * 2 ** 30 + 5 * MIB - 512, length: 8192 },
    { at: size - 4096, length: 4096 },
  ]) {
    const [got, want] = [new Uint8Array(length), new Uint8Array(length)];
    await stack.read(got, at);
    await disk.read(want, at);
    expect(Buffer.compare(got, want)).toBe(0);
  }
});

test('the same disk gives the same file, also when it answers late', async () => {
  const [a, b] = [await writtenFile('a.vhdx'), await writtenFile('b.vhdx', lazyDisk(DISK))];
  expect(await fileDigest(a)).toBe(await fileDigest(b));
});

test('what was not finished is no VHDX', async () => {
  const store = memoryStore();
  const stop = new AbortController();
  const seen: number[] = [];
  await using file = await store.create('cut.vhdx');
  const writing = writeVhdx(
    DISK,
    file,
    done => {
      seen.push(done);
      if (done > 10 * MIB) stop.abort(new Error('enough'));
    },
    stop.signal,
  );
  await expect(writing).rejects.toThrow('enough');
  expect(store.bytes('cut.vhdx').length).toBeGreaterThan(2 * MIB);
  expect(seen).toEqual(seen.toSorted((a, b) => a - b));
  await expect(vhdx.open('cut.vhdx', store, keys)).rejects.toMatchObject({ fault: 'not-this-format' });
});

test('a write that is cut off anywhere leaves a whole VHDX or none', async () => {
  const store = memoryStore();
  const small = sparseDisk(5 * MIB, 1, [{ at: MIB, length: 600_000 }]);
  const want = new Uint8Array(small.size);
  await small.read(want, 0);
  for (let last = 0, finished = false; !finished; last++) {
    const name = `cut-${last}.vhdx`;
    await using file = await store.create(name);
    let writes = 0;
    const failing = {
      ...file,
      get size() {
        return file.size;
      },
      write(from: Uint8Array, at: number) {
        if (writes++ === last) throw new Error('power');
        return file.write(from, at);
      },
    };
    finished = await writeVhdx(small, failing).then(
      () => true,
      () => false,
    );
    const opened = vhdx.open(name, store, keys);
    if (finished) await (await opened)[Symbol.asyncDispose]();
    else await expect(opened).rejects.toMatchObject({ fault: 'not-this-format' });
    expect(hasText(store.bytes(name), SIGNATURE)).toBe(finished);
    await store.remove(name);
  }
});

test('the signature is written when all else is durable', async () => {
  const store = memoryStore();
  await using file = await store.create('a.vhdx');
  const steps: string[] = [];
  const watched = {
    ...file,
    get size() {
      return file.size;
    },
    write(from: Uint8Array, at: number) {
      steps.push(at === 0 ? 'signature' : 'write');
      return file.write(from, at);
    },
    async sync() {
      steps.push('sync');
    },
  };
  await writeVhdx(DISK, watched);
  expect(steps.slice(-3)).toEqual(['sync', 'signature', 'sync']);
  expect(steps.filter(step => step === 'signature').length).toBe(1);
});

test('a disk that fails to read fails the writing, and leaves no VHDX', async () => {
  const store = memoryStore();
  const bad = { ...DISK, read: () => Promise.reject(new Error('gone')) };
  await using file = await store.create('bad.vhdx');
  await expect(writeVhdx(bad, file)).rejects.toThrow('gone');
  await expect(vhdx.open('bad.vhdx', store, keys)).rejects.toThrow();
});

test('a disk beyond 64 TiB is refused before anything is written', async () => {
  const store = memoryStore();
  await using file = await store.create('big.vhdx');
  const writing = writeVhdx(sparseDisk(MAX_SIZE + 512, 1, []), file);
  await expect(writing).rejects.toMatchObject({ fault: 'too-big', message: expect.stringContaining('raw or qcow2') });
  expect(store.bytes('big.vhdx').length).toBe(0);
});
