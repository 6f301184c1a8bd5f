import { expect, test } from 'vitest';
import type { ByteFile, Disk } from '../base/contracts.ts';
import { memoryStore } from '../stores/memory.ts';
import { restoreInPlace } from './restore-in-place.ts';

const MIB = 2 ** 20;
const SIZE = 9 * MIB + 1536;

const diskOf = (bytes: Uint8Array): Disk => ({
  id: 'd',
  size: bytes.length,
  sectorSize: 512,
  extent: (_at, limit) => ({ kind: 'data', length: limit }),
  load: async () => {},
  read: (into, at) => into.set(bytes.subarray(at, at + into.length)),
  async [Symbol.asyncDispose]() {},
});

async function fileOf(
  bytes: Uint8Array,
  seen: { writes: number[][]; fail?: number; lose?: boolean },
): Promise<ByteFile> {
  const store = memoryStore({ f: bytes });
  const inner = (await store.open('f')) as ByteFile;
  return {
    ...inner,
    get size() {
      return inner.size;
    },
    async write(from, at) {
      if (seen.writes.length === seen.fail) throw new Error('planted');
      seen.writes.push([at, from.length]);
      if (seen.lose !== true) await inner.write(from, at);
    },
  };
}

const run = (disk: Disk, file: ByteFile, signal = new AbortController().signal) =>
  restoreInPlace({ disk, file, signal, progress() {}, checking() {} });

function bytesOf(seed: number, size = SIZE): Uint8Array {
  const out = new Uint8Array(size);
  for (let at = 0; at < size; at += 65536) crypto.getRandomValues(out.subarray(at, Math.min(size, at + 65536)));
  out[0] = seed;
  return out;
}

test('only what differs is written, in runs; the rest of a longer target stays', async () => {
  const wanted = bytesOf(1);
  const there = new Uint8Array(SIZE + 5000).fill(9);
  there.set(wanted);
  for (const [at, length] of [
    [5, 1],
    [4096, 8192],
    [4 * MIB - 1, 2],
    [SIZE - 1, 1],
  ] as const) {
    there.fill(there[at]! ^ 255, at, at + length);
  }
  const seen = { writes: [] as number[][] };
  const file = await fileOf(there, seen);
  expect(await run(diskOf(wanted), file)).toEqual({ written: 3 * 4096 + 2 * 4096 + 1536 });
  expect(seen.writes).toEqual([
    [0, 12288],
    [4 * MIB - 4096, 4096],
    [4 * MIB, 4096],
    [9 * MIB, 1536],
  ]);
  const now = new Uint8Array(SIZE + 5000);
  await file.read(now, 0);
  expect(Buffer.compare(now.subarray(0, SIZE), wanted)).toBe(0);
  expect(now.subarray(SIZE).every(byte => byte === 9)).toBe(true);
  expect(await run(diskOf(wanted), file)).toEqual({ written: 0 });
});

test('stopped at each write, the next run completes it', async () => {
  const wanted = bytesOf(2);
  const there = wanted.slice();
  for (const at of [0, 100_000, 5 * MIB, 8 * MIB]) there[at]! ^= 1;
  for (let fail = 0; fail < 4; fail++) {
    const seen = { writes: [] as number[][], fail };
    const file = await fileOf(there, seen);
    await expect(run(diskOf(wanted), file)).rejects.toThrow('planted');
    seen.fail = -1;
    expect(await run(diskOf(wanted), file)).toEqual({ written: (4 - fail) * 4096 });
  }
});

test('a target that loses writes is noticed; one that is too small is refused', async () => {
  const wanted = bytesOf(3);
  const file = await fileOf(new Uint8Array(SIZE), { writes: [], lose: true });
  await expect(run(diskOf(wanted), file)).rejects.toMatchObject({ fault: 'corrupt' });
  const small = await fileOf(new Uint8Array(SIZE - 1), { writes: [] });
  await expect(run(diskOf(wanted), small)).rejects.toMatchObject({ fault: 'too-big' });
});
