import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Disk } from '../../src/base/contracts.ts';
import { isZero } from '../../src/base/range.ts';
import { localStore } from '../../src/stores/local.ts';
import { readView } from '../../src/views/view.ts';
import { lazyDisk, materialize, memoryDisk, type Run, sparseDisk } from '../../test/kit/disks.ts';
import { fileDigest, missing, qemuImg, qemuIo, sevenZipDigest } from '../../test/kit/oracles.ts';
import { random } from '../../test/kit/random.ts';
import { openStack } from '../../test/kit/reference.ts';
import { scratch } from '../../test/kit/samples.ts';
import { rawFormat } from '../raw/index.ts';
import { qcow2, qcow2Format } from './index.ts';

const TiB = 2 ** 40;
const MiB = 2 ** 20;
const absent = missing(['qemu-img', 'qemu-io', '7zz']);
const title = (name: string): string => (absent === null ? name : `${name} (${absent})`);

const layout = (disk: Disk, writable: boolean) => qcow2Format.layout(disk, { writable, name: 'disk' })[0]!;

/** Data in runs of all lengths, more at the start and the end of the disk than between. */
function someRuns(size: number, seed: number): Run[] {
  const { below } = random(seed);
  const runs: Run[] = [{ at: 0, length: Math.min(size, 512) }];
  for (let at = 4096; at < size - 1024 && runs.length < 12; ) {
    const length = Math.min(size - 512 - at, 512 * (1 + below(700)));
    runs.push({ at, length });
    at += length + 512 * (1 + below(Math.ceil(size / 8 / 512)));
  }
  if (size > 1024) runs.push({ at: size - 512, length: 512 });
  return runs;
}

describe.skipIf(absent !== null)(title('QCOW2 views, judged by qemu-img and 7-Zip'), () => {
  let folder: string;
  /** Most file systems stop at 16 TiB; memory does not. */
  let large: string;
  beforeAll(() => {
    folder = scratch();
    large = fs.existsSync('/dev/shm') ? fs.mkdtempSync('/dev/shm/bootmount-') : folder;
  });
  afterAll(() => {
    fs.rmSync(folder, { recursive: true });
    fs.rmSync(large, { recursive: true, force: true });
  });

  const sizes = [512, 1536, 65536, 10 * MiB + 512, 600 * MiB + 1024];
  for (const size of sizes) {
    for (const writable of [false, true]) {
      test(`${size} bytes, ${writable ? 'writable' : 'read-only'}`, async () => {
        const disk = lazyDisk(sparseDisk(size, 1, someRuns(size, size)));
        const file = path.join(folder, 'disk.qcow2');
        const twin = path.join(folder, 'disk.raw');
        await materialize(layout(disk, writable), disk, file);
        await materialize(rawFormat.layout(disk, { writable, name: 'disk' })[0]!, disk, twin);
        await qemuImg.check(file, 'qcow2');
        await qemuImg.compare(file, 'qcow2', twin, 'raw');
        expect(await sevenZipDigest(file, 'qcow')).toBe(await fileDigest(twin));
        await using stack = await openStack({
          adapter: qcow2,
          store: localStore(folder),
          name: 'disk.qcow2',
          keys: { secrets: async () => [] },
        });
        expect(stack.image.warnings).toEqual([]);
        const content = new Uint8Array(Math.min(size, 10 * MiB));
        await stack.read(content, size - content.length);
        const wanted = new Uint8Array(content.length);
        await disk.read(wanted, size - content.length);
        expect(Buffer.compare(content, wanted)).toBe(0);
      });
    }
  }

  for (const size of [2 * TiB + 512, 16 * TiB]) {
    test(`${size / TiB} TiB, sparse`, async () => {
      const runs = [
        { at: 0, length: MiB },
        { at: Math.floor(size / 3 / 65536) * 65536 + 512, length: 1536 },
        { at: size - 4096, length: 4096 },
      ];
      const disk = sparseDisk(size, 2, runs);
      const view = layout(disk, false);
      const file = path.join(large, 'big.qcow2');
      await materializeSparse(view, disk, file);
      await qemuImg.check(file, 'qcow2');
      expect(await qemuImg.size(file, 'qcow2')).toBe(size);
      const clusterSize = size <= 4 * TiB ? 65536 : MiB;
      const clusters = runs.map(run => ({
        from: Math.floor(run.at / clusterSize) * clusterSize,
        to: Math.ceil((run.at + run.length) / clusterSize) * clusterSize,
      }));
      const found = (await qemuImg.map(file, 'qcow2')).filter(entry => entry.data);
      for (const { start, length } of found)
        expect(
          clusters.some(c => start >= c.from && start + length <= c.to),
          `data at ${start}`,
        ).toBe(true);
      for (const { at, length } of runs)
        expect(
          found.some(e => e.start <= at && e.start + e.length >= at + length),
          `no data at ${at}`,
        ).toBe(true);
      fs.rmSync(file);
    });
  }

  test('a writable view of 16 TiB is allocated throughout and clean', async () => {
    const disk = sparseDisk(16 * TiB, 3, [{ at: 5 * TiB, length: 512 }]);
    const file = path.join(large, 'full.qcow2');
    await materializeSparse(layout(disk, true), disk, file);
    await qemuImg.check(file, 'qcow2');
    await qemuIo(file, 'qcow2', [`write -P 7 ${16 * TiB - 512} 512`, `read -P 7 ${16 * TiB - 512} 512`]);
    await qemuImg.check(file, 'qcow2');
    fs.rmSync(file);
  });

  test('a refcount that is missing is found by qemu-img check (control)', async () => {
    const disk = sparseDisk(MiB, 4, [{ at: 0, length: MiB }]);
    const file = path.join(folder, 'wrong.qcow2');
    const view = layout(disk, false);
    await materialize(view, disk, file);
    const counts = 4 * 65536;
    const fd = fs.openSync(file, 'r+');
    fs.writeSync(fd, new Uint8Array(2), 0, 2, counts + 2 * 6);
    fs.closeSync(fd);
    await expect(qemuImg.check(file, 'qcow2')).rejects.toThrow('ended with');
  });
});

/** As `materialize`, but pages of zeros in computed tables become holes too: tables of 2 GiB fit a test machine. */
async function materializeSparse(view: ReturnType<typeof layout>, disk: Disk, file: string): Promise<void> {
  const fd = fs.openSync(file, 'w');
  const buffer = new Uint8Array(4 * MiB);
  try {
    for (let at = 0; at < view.size; ) {
      const piece = view.pieceAt(at);
      const end = piece.from + piece.length;
      if (piece.kind === 'disk') {
        const guestAt = at - piece.from;
        const extent = guestAt >= disk.size ? null : disk.extent(guestAt, disk.size - guestAt)!;
        if (extent === null || extent.kind === 'zero') {
          at = extent === null ? end : at + extent.length;
          continue;
        }
        const part = buffer.subarray(0, Math.min(buffer.length, extent.length));
        await disk.read(part, guestAt);
        fs.writeSync(fd, part, 0, part.length, at);
        at += part.length;
        continue;
      }
      const part = buffer.subarray(0, Math.min(buffer.length, end - at));
      await readView(view, disk, part, at);
      for (let i = 0; i < part.length; i += 65536) {
        const page = part.subarray(i, i + 65536);
        if (!isZero(page)) fs.writeSync(fd, page, 0, page.length, at + i);
      }
      at += part.length;
    }
    fs.ftruncateSync(fd, view.size);
  } finally {
    fs.closeSync(fd);
  }
}

describe('QCOW2 views', () => {
  test('any part of the file reads the same, in any piece size, on any mount, lazily or not', async () => {
    const content = new Uint8Array(3 * MiB + 512);
    const { below } = random(5);
    for (let i = 0; i < 6; i++) content.fill(1 + below(255), below(content.length), below(content.length));
    const disk = memoryDisk(content);
    for (const writable of [false, true]) {
      const view = layout(disk, writable);
      const whole = new Uint8Array(view.size);
      await readView(view, disk, whole, 0);
      const slow = lazyDisk(disk, 65536);
      const again = layout(slow, writable);
      expect(again.size).toBe(view.size);
      for (let i = 0; i < 300; i++) {
        const at = below(view.size);
        const part = new Uint8Array(1 + below(Math.min(view.size - at, 100_000)));
        await readView(again, slow, part, at);
        expect(Buffer.compare(part, whole.subarray(at, at + part.length))).toBe(0);
      }
    }
  });

  test('a failing load is an error, not an empty table', async () => {
    const disk: Disk = {
      ...memoryDisk(new Uint8Array(MiB).fill(1)),
      extent: () => null,
      load: () => Promise.reject(new Error('unreadable')),
    };
    const view = layout(disk, false);
    await expect(readView(view, disk, new Uint8Array(512), 2 * 65536)).rejects.toThrow('unreadable');
  });

  test('a size beyond safe offsets is refused with an alternative', () => {
    const disk = sparseDisk(Number.MAX_SAFE_INTEGER, 1, []);
    expect(() => layout(disk, false)).toThrow(expect.objectContaining({ fault: 'too-big', hint: 'use raw' }));
  });
});
