import { describe, expect, test } from 'vitest';
import { lazyDisk, memoryDisk, pattern, sparseDisk } from '../../test/kit/disks.ts';
import { random } from '../../test/kit/random.ts';
import type { ByteSource, Bytes, Disk, Piece } from '../base/contracts.ts';
import { constant, diskPiece, virtualFile, zeroPiece } from '../base/pieces.ts';
import { allocatedOf, readView, seekView, viewFile } from './view.ts';

const KIB = 1024;

function filled(size: number, seed: number): Uint8Array {
  const content = new Uint8Array(size);
  pattern(content, 0, seed);
  return content;
}

/** Header, hole, disk in two parts the wrong way round, a piece past the disk's end, footer. */
function sampleFile(diskSize: number) {
  const header = filled(700, 1);
  const pieces: Piece[] = [
    constant(header, 1024),
    zeroPiece(3072),
    diskPiece(20 * KIB, 32 * KIB),
    diskPiece(32 * KIB, 0),
    diskPiece(diskSize, 52 * KIB),
    constant(header),
  ];
  return virtualFile('.test', pieces);
}

/** What the file must contain, put together without any of the code under test. */
function expectedBytes(content: Uint8Array): Uint8Array {
  const header = filled(700, 1);
  const end = new Uint8Array(content.length);
  end.set(content.subarray(52 * KIB));
  return Buffer.concat([
    header,
    new Uint8Array(324 + 3072),
    content.subarray(32 * KIB, 52 * KIB),
    content.subarray(0, 32 * KIB),
    end,
    header,
  ]);
}

const content = filled(60 * KIB, 2);
content.fill(0, 36 * KIB, 40 * KIB);
const file = sampleFile(content.length);

describe('reading', () => {
  for (const [title, disk] of [
    ['at once', memoryDisk(content)],
    ['later', lazyDisk(memoryDisk(content), 4096)],
  ] as const) {
    test(`any range, disk answers ${title}`, async () => {
      const want = expectedBytes(content);
      expect(file.size).toBe(want.length);
      const { below } = random(11);
      for (let i = 0; i < 2000; i++) {
        const at = below(file.size);
        const got = new Uint8Array(1 + below(file.size - at)).fill(0xcc);
        await readView(file, disk, got, at);
        expect(Buffer.compare(got, want.subarray(at, at + got.length))).toBe(0);
      }
    });
  }

  test('is finished at the return while every piece is', () => {
    const into = new Uint8Array(file.size);
    expect(readView(file, memoryDisk(content), into, 0)).toBeUndefined();
    expect(readView(file, lazyDisk(memoryDisk(content)), into, 0)).toBeInstanceOf(Promise);
  });

  test('fills the caller’s buffer: the disk gets parts of it, not others', () => {
    const into = new Uint8Array(file.size);
    const seen: ArrayBufferLike[] = [];
    const inner = memoryDisk(content);
    const disk: Disk = {
      ...inner,
      read(part, at) {
        seen.push(part.buffer);
        return inner.read(part, at);
      },
    };
    readView(file, disk, into, 0);
    expect(seen.length).toBe(3);
    expect(seen.every(buffer => buffer === into.buffer)).toBe(true);
  });

  test('an error of the disk is the error of the read, whether it comes at once or later', async () => {
    const broken = memoryDisk(content);
    const now: Disk = {
      ...broken,
      read() {
        throw new Error('gone');
      },
    };
    expect(() => readView(file, now, new Uint8Array(10_000), 0)).toThrow('gone');
    const later: Disk = { ...broken, read: () => Promise.reject(new Error('gone')) };
    await expect(readView(file, later, new Uint8Array(10_000), 0)).rejects.toThrow('gone');
  });
});

describe('data and holes', () => {
  /** Data and holes by looking at `seekView` alone. */
  const walk = async (disk: Disk): Promise<readonly [number, number][]> => {
    const found: [number, number][] = [];
    for (let at = 0; ; ) {
      const data = await seekView(file, disk, at, 'data');
      if (data === null) return found;
      const hole = await seekView(file, disk, data, 'hole');
      found.push([data, hole!]);
      at = hole!;
    }
  };
  const want = [
    [0, 1024],
    [4096, 8192],
    [12_288, 65_536],
    // 8 KiB of the last disk piece lie inside the disk; behind them it shows zeros.
    [118_784, 119_484],
  ];

  test('pieces outside the disk are data or holes, and what lies past its end is a hole', async () => {
    expect(await walk(memoryDisk(content))).toEqual(want);
    expect(await walk(lazyDisk(memoryDisk(content), 4096))).toEqual(want);
  });

  test('the end is a hole, and behind it there is nothing', async () => {
    const disk = memoryDisk(content);
    expect(seekView(file, disk, file.size - 1, 'hole')).toBe(file.size);
    expect(seekView(file, disk, file.size, 'hole')).toBeNull();
    expect(seekView(file, disk, file.size, 'data')).toBeNull();
    expect(seekView(file, disk, 2000, 'hole')).toBe(2000);
    expect(seekView(virtualFile('', [zeroPiece(100)]), disk, 5, 'data')).toBeNull();
  });

  test('a long search lets other work through', async () => {
    const holes: Disk = {
      ...sparseDisk(2 ** 40, 1, []),
      extent: (at, limit) => ({ kind: 'zero', length: Math.min(limit, 65_536 - (at % 65_536)) }),
    };
    const raw = virtualFile('.raw', [diskPiece(2 ** 31)]);
    let turns = 0;
    const ticking = setInterval(() => turns++, 0);
    expect(await seekView(raw, holes, 0, 'data')).toBeNull();
    clearInterval(ticking);
    expect(turns).toBeGreaterThan(1);
  });
});

test('no question reaches over a whole large disk: its answer would hold up other work', async () => {
  const size = 2 ** 41;
  let longest = 0;
  const full: Disk = {
    ...sparseDisk(size, 1, []),
    extent(_at, limit) {
      longest = Math.max(longest, limit);
      return { kind: 'data', length: limit };
    },
  };
  const raw = virtualFile('.raw', [diskPiece(size)]);
  expect(await seekView(raw, full, 0, 'hole')).toBe(size);
  expect(await allocatedOf(raw, full)).toBe(size);
  expect(longest).toBeLessThanOrEqual(2 ** 28);
});

describe('allocated bytes', () => {
  test('everything that is not a hole', async () => {
    const disk = memoryDisk(content);
    expect(await allocatedOf(file, disk)).toBe(1024 + 4096 + 53_248 + 700);
    expect(await allocatedOf(file, lazyDisk(disk, 4096))).toBe(1024 + 4096 + 53_248 + 700);
  });

  test('with a small budget an estimate, and little work', async () => {
    const size = 2 ** 40;
    let asked = 0;
    const half: Disk = {
      ...sparseDisk(size, 1, []),
      extent(at, limit) {
        asked++;
        const kind = Math.floor(at / 65_536) % 2 === 0 ? 'data' : 'zero';
        return { kind, length: Math.min(limit, 65_536 - (at % 65_536)) };
      },
    };
    const estimate = await allocatedOf(virtualFile('.raw', [diskPiece(size)]), half, 1000);
    expect(asked).toBeLessThanOrEqual(1000);
    expect(Math.abs(estimate / size - 0.5)).toBeLessThan(0.01);
  });
});

test('an open file shows the view and cannot be written', async () => {
  const open = viewFile(file, memoryDisk(content));
  const into = new Uint8Array(5000);
  await open.read(into, 0);
  expect(Buffer.compare(into, expectedBytes(content).subarray(0, 5000))).toBe(0);
  expect(open.size()).toBe(file.size);
  expect(open.write).toBeUndefined();
  expect(open.seek(1024, 'data')).toBe(4096);
});

test('bytes of a view lie where the disk has them, and nowhere else', () => {
  const source: ByteSource = { name: 'image', size: 2 ** 30, read() {}, async [Symbol.asyncDispose]() {} };
  const disk: Disk = {
    ...memoryDisk(content),
    plain: (at, length) => (length > 8192 ? null : { source, at: at + 1000 }),
  };
  const plain = (at: Bytes, length: Bytes): Bytes | undefined => viewFile(file, disk).plain!(at, length)?.at;
  expect(plain(4096 + 512, 8192)).toBe(32 * KIB + 512 + 1000);
  expect(plain(4096 + 512, 8193)).toBeUndefined();
  // Header, hole, two pieces, what is partly and wholly behind the disk's end, footer.
  for (const [at, length] of [
    [0, 512],
    [2048, 512],
    [4096 + 20 * KIB - 256, 512],
    [4096 + 60 * KIB - 256, 512],
    [4096 + 64 * KIB, 512],
    [file.size - 512, 512],
  ] as const)
    expect(plain(at, length)).toBeUndefined();
  expect(viewFile(file, memoryDisk(content)).plain!(4096, 512)).toBeNull();
});
