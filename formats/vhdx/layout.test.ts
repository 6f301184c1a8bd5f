import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Disk, OpenFile } from '../../src/base/contracts.ts';
import { diskPiece, virtualFile } from '../../src/base/pieces.ts';
import { viewOf } from '../../src/base/struct.ts';
import { readView, seekView } from '../../src/views/view.ts';
import { computedDisk, openWritableView } from '../../src/views/writable.ts';
import { lazyDisk, materialize, memoryDisk, sparseDisk } from '../../test/kit/disks.ts';
import { virtualStore } from '../../test/kit/format-checks.ts';
import {
  fileDigest,
  fuseMissing,
  libvhdiDigest,
  missing,
  qemuImg,
  qemuIo,
  run,
  sevenZipDigest,
} from '../../test/kit/oracles.ts';
import { random } from '../../test/kit/random.ts';
import { openStack } from '../../test/kit/reference.ts';
import { scratch } from '../../test/kit/samples.ts';
import { vhdx, vhdxFormat } from './index.ts';
import { HEADERS_AT, Header, MAX_SIZE, MIB, sumHolds } from './structs.ts';

const TIB = 2 ** 40;
const keys = { secrets: async () => [] };
const layoutOf = (disk: Disk, writable = false, name = 'disk0') => vhdxFormat.layout(disk, { writable, name })[0]!;

let folder = '';
beforeAll(() => {
  folder = scratch();
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

async function bytesOf(disk: Disk, at: number, length: number, writable = false, name = 'disk0') {
  const raw = new Uint8Array(length);
  await readView(layoutOf(disk, writable, name), disk, raw, at);
  return raw;
}

const headerOf = async (disk: Disk, name = 'disk0', writable = false) =>
  Header.parse(await bytesOf(disk, HEADERS_AT[1]!, 4096, writable, name));

test.skipIf(missing(['qemu-img']) !== null)('QEMU checks and reads the read-only view, holes and all', async () => {
  // QEMU does not tell the holes of a VHDX, so that they are looked for in the table.
  const runs = [
    { at: 0, length: 512 },
    { at: 4 * MIB - 512, length: 1024 },
    { at: 21 * MIB, length: MIB + 512 },
  ];
  const disk = sparseDisk(40 * MIB + 512, 1, runs);
  const [view, raw] = [path.join(folder, 'view.vhdx'), path.join(folder, 'view.raw')];
  await materialize(layoutOf(disk), disk, view);
  await materialize(virtualFile('.raw', [diskPiece(disk.size)]), disk, raw);
  await qemuImg.check(view, 'vhdx');
  await qemuImg.compare(view, 'vhdx', raw, 'raw');
  const table = viewOf(await bytesOf(disk, 3 * MIB, 21 * 8));
  const present = Array.from({ length: 21 }, (_, i) => i).filter(i => table.getUint32(i * 8, true) % 8 === 6);
  expect(present).toEqual([0, 1, 2, 10, 11]);
});

const READERS = ['7zz', 'vhdimount', 'qemu-img'];

describe.skipIf(missing(READERS) !== null || fuseMissing() !== null)('sectors of 4,096 bytes', () => {
  const runs = [
    { at: 0, length: 8192 },
    { at: 37 * MIB - 4096, length: 8192 },
  ];
  for (const writable of [false, true]) {
    test(`${writable ? 'writable' : 'read-only'}: 7-Zip and libvhdi read the disk, QEMU says what it cannot`, async () => {
      const disk: Disk = { ...sparseDisk(37 * MIB + 8192, 1, runs), sectorSize: 4096 };
      const [view, raw] = [path.join(folder, `4k-${writable}.vhdx`), path.join(folder, '4k.raw')];
      const file = layoutOf(disk, writable);
      await materialize(file, disk, view);
      await materialize(virtualFile('.raw', [diskPiece(disk.size)]), disk, raw);
      const digest = await fileDigest(raw);
      expect(await sevenZipDigest(view, 'vhdx')).toBe(digest);
      expect(await libvhdiDigest(view)).toBe(digest);
      await using image = await vhdx.open('a.vhdx', virtualStore([file], disk, 'a'), keys);
      expect(image.points[0]!.disks[0]).toMatchObject({ size: disk.size, sectorSize: 4096 });
      const { code, err } = await run('qemu-img', ['info', '-f', 'vhdx', view]);
      expect([code, err]).toEqual([1, expect.stringContaining('Operation not supported')]);
    });
  }

  test('a disk of 512 says that it is written to in pages of 4,096', async () => {
    const disk = sparseDisk(37 * MIB, 1, runs);
    const metadata = Buffer.from(await bytesOf(disk, 2 * MIB, 128 * 1024));
    const physical = metadata.indexOf(Buffer.from('c748a3cd5d4471449cc9e9885251c556', 'hex'));
    const at = metadata.readUInt32LE(physical + 16);
    expect(metadata.readUInt32LE(at)).toBe(4096);
  });
});

test('GUIDs: one’s own for every disk and name, the same on every mount', async () => {
  const disk = sparseDisk(40 * MIB, 1, []);
  const found = [
    await headerOf(disk),
    await headerOf(disk, 'disk1'),
    await headerOf(sparseDisk(40 * MIB, 1, [], 'other')),
  ];
  expect(new Set(found.flatMap(h => [h.dataWriteGuid, h.fileWriteGuid])).size).toBe(6);
  expect(await headerOf(disk)).toEqual(found[0]);
});

test('both headers hold, and the second is the newer one', async () => {
  const disk = sparseDisk(40 * MIB, 1, []);
  const headers = [await bytesOf(disk, HEADERS_AT[0]!, 4096), await bytesOf(disk, HEADERS_AT[1]!, 4096)];
  expect(headers.map(sumHolds)).toEqual([true, true]);
  expect(headers.map(raw => Header.parse(raw).sequenceNumber)).toEqual([1n, 2n]);
});

describe('large disks', () => {
  for (const [size, sectorSize] of [
    [MAX_SIZE, 512],
    [4 * TIB, 512],
    [5 * TIB, 4096],
  ] as const) {
    for (const writable of [false, true]) {
      test(`${size / TIB} TiB in sectors of ${sectorSize}, ${writable ? 'writable' : 'read-only'}`, async () => {
        const runs = [0, size / 2, size - MIB].map(at => ({ at, length: MIB }));
        const disk: Disk = { ...sparseDisk(size, 3, runs), sectorSize };
        let reads = 0;
        const counted: Disk = {
          ...disk,
          read(into, at) {
            reads++;
            return disk.read(into, at);
          },
        };
        await using stack = await openStack({
          adapter: vhdx,
          store: virtualStore([layoutOf(counted, writable)], counted, 'x'),
          name: 'x.vhdx',
          keys,
        });
        expect(stack.image.warnings).toEqual([]);
        expect(stack.point.disks[0]).toMatchObject({ size, sectorSize });
        expect(reads).toBe(0);
        for (const at of [0, 70 * 2 ** 30 + 5, size / 2 - 4096, size - 8192]) {
          const [got, want] = [new Uint8Array(8192), new Uint8Array(8192)];
          await stack.read(got, at);
          await disk.read(want, at);
          expect(Buffer.compare(got, want)).toBe(0);
        }
      });
    }
  }

  test('a search through 64 TiB of nothing takes few questions', async () => {
    const disk = sparseDisk(MAX_SIZE, 1, [{ at: MAX_SIZE - 512, length: 512 }]);
    let questions = 0;
    const counted: Disk = {
      ...disk,
      extent(at, limit) {
        questions++;
        return disk.extent(at, limit);
      },
    };
    const file = layoutOf(counted);
    const start = file.size - MAX_SIZE;
    expect(await seekView(file, counted, start, 'data')).toBe(file.size - 512);
    expect(questions).toBeLessThan(300_000);
  });
});

test('a table read asks only about its own blocks', async () => {
  const disk = sparseDisk(TIB, 1, [{ at: 0, length: TIB }]);
  let asked = 0;
  const counted: Disk = {
    ...disk,
    extent(at, limit) {
      expect(at).toBeGreaterThanOrEqual(512 * 2 * MIB);
      expect(at + limit).toBeLessThanOrEqual(1024 * 2 * MIB);
      asked++;
      return disk.extent(at, limit);
    },
  };
  await readView(layoutOf(counted), counted, new Uint8Array(4096), 3 * MIB + 4096);
  expect(asked).toBeLessThan(10);
});

test('metadata that is loaded late gives the same table', async () => {
  const disk = sparseDisk(50 * MIB, 1, [{ at: 7 * MIB, length: 9 * MIB }]);
  const slow = lazyDisk(disk);
  const table = new Uint8Array(4096);
  await readView(layoutOf(slow), slow, table, 3 * MIB);
  expect(Buffer.compare(table, await bytesOf(disk, 3 * MIB, 4096))).toBe(0);
});

/** A script of guest writes, zeros and discards at any sector; some end with a new start of QEMU. */
function script(seed: number, size: number): readonly string[] {
  const { below, pick } = random(seed);
  return Array.from({ length: 40 }, (_, i) => {
    const at = below(size / 512 - 1) * 512;
    const length = Math.min(size - at, 512 * (1 + below(pick([4, 300, 2000]))));
    return `${pick([`write -P ${1 + i}`, `write -P ${1 + i}`, 'write -z', 'write -z -u', 'discard'])} ${at} ${length}`;
  });
}

/** Does to the view what turned one file into the other. */
async function replay(view: OpenFile, before: Uint8Array, after: Uint8Array): Promise<number> {
  let below = 0;
  for (let at = 0; at < after.length; at += 512) {
    const now = after.subarray(at, at + 512);
    if (Buffer.compare(before.subarray(at, at + 512), now) === 0) continue;
    await view.write!(now, at);
    if (at < 4 * MIB) below++;
  }
  return below;
}

describe.skipIf(missing(['qemu-img', 'qemu-io']) !== null)('what QEMU writes into the writable view', () => {
  for (const seed of [1, 2]) {
    test(`reaches the disk, script ${seed}`, async () => {
      const size = 12 * MIB + 512;
      const content = new Uint8Array(size);
      await sparseDisk(size, seed, [{ at: 3 * MIB, length: 5 * MIB }]).read(content, 0);
      const disk = memoryDisk(content);
      const file = layoutOf(disk, true);
      const real = path.join(folder, `writable-${seed}.vhdx`);
      await materialize(file, disk, real);
      const before = fs.readFileSync(real);
      const commands = script(seed, size);
      // Twice, so that the headers are written over again.
      await qemuIo(real, 'vhdx', commands.slice(0, 20));
      await qemuIo(real, 'vhdx', commands.slice(20));
      const after = fs.readFileSync(real);
      expect(after.length).toBe(before.length);

      const computed = computedDisk(file, disk, 'patch');
      const patch = new Uint8Array(computed.size);
      await computed.read(patch, 0);
      const view = openWritableView(file, disk, memoryDisk(patch));
      // Two headers of 80 bytes are all that QEMU changes besides guest data.
      expect(await replay(view, before, after)).toBe(2);

      const guest = path.join(folder, `writable-${seed}.raw`);
      await qemuImg.convert(real, 'vhdx', guest, 'raw');
      const want = fs.readFileSync(guest);
      expect(Buffer.compare(content, want.subarray(0, size))).toBe(0);
      const patched: Disk = { ...sparseDisk(view.size(), 0, []), read: (into, at) => view.read(into, at) };
      const store = virtualStore([virtualFile('.vhdx', [diskPiece(view.size())])], patched, 'disk0');
      await using stack = await openStack({ adapter: vhdx, store, name: 'disk0.vhdx', keys });
      const got = new Uint8Array(stack.size);
      await stack.read(got, 0);
      expect(Buffer.compare(got, want)).toBe(0);
      expect(stack.point.id).not.toBe(`vhdx:${(await headerOf(disk, 'disk0', true)).dataWriteGuid}`);
    });
  }
});
