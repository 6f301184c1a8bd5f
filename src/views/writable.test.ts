import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { vhdFormat } from '../../formats/vhd/index.ts';
import { lazyDisk, materialize, memoryDisk, pattern } from '../../test/kit/disks.ts';
import { missing, qemuIo } from '../../test/kit/oracles.ts';
import { random } from '../../test/kit/random.ts';
import { scratch } from '../../test/kit/samples.ts';
import type { VirtualFile, WritableDisk } from '../base/contracts.ts';
import { constant, diskPiece, virtualFile, zeroPiece } from '../base/pieces.ts';
import { readView } from './view.ts';
import { computedDisk, type Growth, openWritableView } from './writable.ts';

const KIB = 1024;
const DISK_SIZE = 50 * KIB + 512;

/** Header, room, a disk whose last piece reaches past its end, footer: all borders at odd places. */
function sampleFile(): VirtualFile {
  const header = new Uint8Array(3000);
  pattern(header, 0, 5);
  return virtualFile('.test', [
    constant(header, 4096),
    zeroPiece(4096),
    diskPiece(52 * KIB),
    constant(header.subarray(0, 600)),
  ]);
}

interface Watched extends WritableDisk {
  readonly written: () => number;
  readonly flushes: string[];
}

function watched(disk: WritableDisk, name: string, flushes: string[]): Watched {
  let bytes = 0;
  return {
    ...disk,
    write(from, at) {
      bytes += from.length;
      return disk.write(from, at);
    },
    zero(at, length) {
      bytes += length;
      return disk.zero(at, length);
    },
    async flush() {
      flushes.push(name);
    },
    written: () => bytes,
    flushes,
  };
}

/** A view over memory, its disk and its patch; `grow`: bytes that it may grow to. */
async function setUp(slow: boolean, grow = 0) {
  const file = sampleFile();
  const flushes: string[] = [];
  const inner = memoryDisk(new Uint8Array(DISK_SIZE).fill(0x11));
  const disk = watched(slow ? lazyDisk(inner, 4096) : inner, 'disk', flushes);
  const computed = computedDisk(file, disk, 'patch base', Math.max(file.size, grow));
  const content = new Uint8Array(computed.size);
  await computed.read(content, 0);
  const patchInner = memoryDisk(content);
  const patch = watched(slow ? lazyDisk(patchInner, 4096) : patchInner, 'patch', flushes);
  let size = 0;
  const growth: Growth = {
    limit: grow,
    size: () => size,
    extend(to) {
      size = to;
    },
  };
  return { file, disk, patch, flushes, view: openWritableView(file, disk, patch, grow > 0 ? growth : null) };
}

async function whole(view: { size(): number; read(into: Uint8Array, at: number): unknown }): Promise<Uint8Array> {
  const out = new Uint8Array(view.size());
  await view.read(out, 0);
  return out;
}

for (const slow of [false, true]) {
  describe(`parts answer ${slow ? 'later' : 'at once'}`, () => {
    test('reads as the computed file until it is written', async () => {
      const { file, disk, view } = await setUp(slow);
      const want = new Uint8Array(file.size);
      await readView(file, disk, want, 0);
      expect(Buffer.compare(await whole(view), want)).toBe(0);
    });

    test('any sequence of writes and zeros reads back, and the disk holds guest data only', async () => {
      const { file, disk, view } = await setUp(slow);
      const model = await whole(view);
      const { below, pick } = random(21);
      for (let i = 0; i < 600; i++) {
        const at = below(file.size);
        const length = 1 + below(Math.min(file.size - at, pick([10, 600, 9000, 30_000])));
        if (pick([true, true, false])) {
          const data = new Uint8Array(length);
          pattern(data, at, i);
          await view.write!(data, at);
          model.set(data, at);
        } else {
          await view.zero!(at, length);
          model.fill(0, at, at + length);
        }
      }
      expect(Buffer.compare(await whole(view), model)).toBe(0);
      const guest = new Uint8Array(DISK_SIZE);
      await disk.read(guest, 0);
      expect(Buffer.compare(guest, model.subarray(8192, 8192 + DISK_SIZE))).toBe(0);
      for (let i = 0; i < 300; i++) {
        const at = below(file.size);
        const got = new Uint8Array(1 + below(file.size - at));
        await view.read(got, at);
        expect(Buffer.compare(got, model.subarray(at, at + got.length))).toBe(0);
      }
    });

    test('metadata that does not change stores nothing; what changes stores its sectors', async () => {
      const { disk, patch, view } = await setUp(slow);
      const same = (await whole(view)).slice(0, 8192);
      await view.write!(same, 0);
      await view.zero!(4096, 4096);
      expect(patch.written()).toBe(0);
      same[1000] = same[1000]! ^ 1;
      await view.write!(same, 0);
      expect(patch.written()).toBe(512);
      // Written back: the patch differs from it now, so it has to be stored.
      same[1000] = same[1000]! ^ 1;
      await view.write!(same, 0);
      expect(patch.written()).toBe(1024);
      expect(disk.written()).toBe(0);
      expect(Buffer.compare((await whole(view)).subarray(0, 8192), same)).toBe(0);
    });

    test('zeros over metadata are zeros', async () => {
      const { view } = await setUp(slow);
      await view.zero!(100, 2000);
      const after = await whole(view);
      expect(after.subarray(100, 2100).every(byte => byte === 0)).toBe(true);
      expect(after.subarray(2100, 3000).every(byte => byte !== 0)).toBe(true);
      expect(await view.seek(3584, 'hole')).toBe(4096);
    });

    test('flush: the disk first, then the patch', async () => {
      const { view, flushes } = await setUp(slow);
      await view.flush!();
      expect(flushes).toEqual(['disk', 'patch']);
    });

    test('growth up to the limit, with what was written there', async () => {
      const { file, view } = await setUp(slow, 128 * KIB);
      const data = new Uint8Array(1000).fill(9);
      await view.write!(data, file.size + 5000 - 10);
      expect(view.size()).toBe(file.size + 5990);
      const after = await whole(view);
      expect(after.subarray(file.size, file.size + 4990).every(byte => byte === 0)).toBe(true);
      expect(after.subarray(file.size + 4990).every(byte => byte === 9)).toBe(true);
      await view.resize!(100 * KIB);
      expect(view.size()).toBe(100 * KIB);
      expect(() => view.resize!(100)).toThrow(expect.objectContaining({ fault: 'out-of-range' }));
      expect(() => view.write!(data, 128 * KIB - 999)).toThrow(expect.objectContaining({ fault: 'too-big' }));
      expect(view.size()).toBe(100 * KIB);
    });
  });
}

test('without growth nothing is written past the end, nor just before it', async () => {
  const { file, patch, view } = await setUp(false);
  const write = () => view.write!(new Uint8Array(1000).fill(1), file.size - 500);
  expect(write).toThrow(expect.objectContaining({ fault: 'no-space' }));
  expect(patch.written()).toBe(0);
  expect(() => view.resize!(file.size + 1)).toThrow(expect.objectContaining({ fault: 'no-space' }));
  expect(view.resize!(file.size)).toBeUndefined();
});

test('guest data goes through at once when the disk answers at once', async () => {
  const { view } = await setUp(false);
  expect(view.write!(new Uint8Array(4096), 8192)).toBeUndefined();
  expect(view.read(new Uint8Array(4096), 8192)).toBeUndefined();
  expect(view.zero!(8192, 4096)).toBeUndefined();
});

test('without a patch only writes that change nothing are taken', async () => {
  const file = sampleFile();
  const disk = memoryDisk(new Uint8Array(DISK_SIZE));
  const view = openWritableView(file, disk, null);
  const header = new Uint8Array(4096);
  await readView(file, disk, header, 0);
  await view.write!(header, 0);
  header[5] = header[5]! ^ 1;
  expect(() => view.write!(header, 0)).toThrow(expect.objectContaining({ fault: 'read-only' }));
  expect(() => view.zero!(0, 512)).toThrow(expect.objectContaining({ fault: 'read-only' }));
  await view.zero!(4096, 4096);
});

test('a patch that is too short is refused', () => {
  const disk = memoryDisk(new Uint8Array(DISK_SIZE));
  const patch = memoryDisk(new Uint8Array(100));
  expect(() => openWritableView(sampleFile(), disk, patch)).toThrow(expect.objectContaining({ fault: 'usage' }));
});

test.skipIf(missing(['qemu-io']) !== null)('what QEMU writes into a fixed VHD reaches the disk', async () => {
  const folder = scratch();
  try {
    const content = new Uint8Array(3 * 1024 * KIB);
    pattern(content, 0, 3);
    const disk = memoryDisk(content);
    const file = vhdFormat.layout(disk, { writable: true, name: 'disk0' })[0]!;
    const real = path.join(folder, 'disk0.vhd');
    await materialize(file, disk, real);
    const before = fs.readFileSync(real);
    await qemuIo(real, 'vpc', ['write -P 7 1000448 70144', 'write -z 0 65536', 'write -P 9 3145216 512']);
    const after = fs.readFileSync(real);
    // Replayed through the view in pieces that cross the border to the footer.
    const view = openWritableView(file, disk, null);
    for (let at = 0; at < after.length; at += 60_000) {
      const part = after.subarray(at, at + 60_000);
      if (Buffer.compare(part, before.subarray(at, at + 60_000)) !== 0) await view.write!(part, at);
    }
    expect(Buffer.compare(content, after.subarray(0, content.length))).toBe(0);
    expect(content[1_000_448]).toBe(7);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
});
