/** Disks for tests: in memory, slow to answer, or far too big to exist. */
import fs from 'node:fs';
import type { Bytes, Disk, Extent, VirtualFile, WritableDisk } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { isZero } from '../../src/base/range.ts';
import { readView, viewExtent } from '../../src/views/view.ts';

/** Zeros are told apart from data in stretches of this length. */
const GRANULE = 4096;

/** A disk over `content`, which it changes when it is written to. Everything answers at once. */
export function memoryDisk(content: Uint8Array, id = 'memory'): WritableDisk {
  const check = (at: Bytes, length: Bytes): void => {
    if (at < 0 || at + length > content.length) throw new ImageError('out-of-range', `${at} + ${length}`, { file: id });
  };
  const granuleIsZero = (at: Bytes): boolean => isZero(content.subarray(at, Math.min(content.length, at + GRANULE)));
  return {
    id,
    size: content.length,
    sectorSize: 512,
    read(into, at) {
      check(at, into.length);
      into.set(content.subarray(at, at + into.length));
    },
    write(from, at) {
      check(at, from.length);
      content.set(from, at);
    },
    zero(at, length) {
      check(at, length);
      content.fill(0, at, at + length);
    },
    async flush() {},
    extent(at, limit): Extent {
      check(at, limit);
      if (limit < 1) throw new RangeError(`extent(${at}, ${limit})`);
      const first = Math.floor(at / GRANULE) * GRANULE;
      const zero = granuleIsZero(first);
      let end = first + GRANULE;
      while (end < at + limit && granuleIsZero(end) === zero) end += GRANULE;
      return { kind: zero ? 'zero' : 'data', length: Math.min(limit, end - at) };
    },
    async load() {},
    async [Symbol.asyncDispose]() {},
  };
}

const turn = (): Promise<void> => new Promise(resolve => setImmediate(resolve));

/** The same disk, but nothing answers at once: reads take a turn, and extents are forgotten until they are loaded. */
export function lazyDisk<D extends Disk>(disk: D, region = 1_048_576): D {
  const loaded = new Set<number>();
  const slow = {
    ...disk,
    async read(into: Uint8Array, at: Bytes): Promise<void> {
      await turn();
      await disk.read(into, at);
    },
    extent(at: Bytes, limit: Bytes): Extent | null {
      const here = Math.floor(at / region);
      if (!loaded.has(here)) return null;
      return disk.extent(at, Math.min(limit, (here + 1) * region - at));
    },
    async load(at: Bytes, limit: Bytes): Promise<void> {
      await turn();
      await disk.load(at, limit);
      loaded.add(Math.floor(at / region));
    },
  };
  const writable = disk as Partial<WritableDisk>;
  if (writable.write === undefined) return slow;
  const { write, zero } = disk as unknown as WritableDisk;
  return {
    ...slow,
    async write(from: Uint8Array, at: Bytes): Promise<void> {
      await turn();
      await write(from, at);
    },
    async zero(at: Bytes, length: Bytes): Promise<void> {
      await turn();
      await zero(at, length);
    },
  };
}

/** Fills `into` with a pattern that depends on the offset and the seed alone, and is never zero. */
export function pattern(into: Uint8Array, at: Bytes, seed: number): void {
  for (let i = 0; i < into.length; i++) {
    const offset = at + i;
    const high = Math.floor(offset / 0x1_0000_0000);
    let h = Math.imul(((offset % 0x1_0000_0000) >>> 0) ^ Math.imul(high + seed + 1, 0x9e3779b1), 0x85ebca6b);
    h ^= h >>> 15;
    h = Math.imul(h, 0xc2b2ae35);
    into[i] = 1 + (((h ^ (h >>> 13)) >>> 0) % 255);
  }
}

export interface Run {
  readonly at: Bytes;
  readonly length: Bytes;
}

/** A disk of any size with a seeded pattern in `runs` (in order, apart from each other) and zeros elsewhere. */
export function sparseDisk(size: Bytes, seed: number, runs: readonly Run[], id = `sparse-${size}-${seed}`): Disk {
  const extent = (at: Bytes, limit: Bytes): Extent => {
    if (at < 0 || limit < 1 || at + limit > size) throw new RangeError(`extent(${at}, ${limit}) of ${size} bytes`);
    for (const run of runs) {
      if (at < run.at) return { kind: 'zero', length: Math.min(limit, run.at - at) };
      if (at < run.at + run.length) return { kind: 'data', length: Math.min(limit, run.at + run.length - at) };
    }
    return { kind: 'zero', length: limit };
  };
  return {
    id,
    size,
    sectorSize: 512,
    read(into, at) {
      if (at + into.length > size) throw new ImageError('out-of-range', `${at} + ${into.length}`, { file: id });
      for (let done = 0; done < into.length; ) {
        const { kind, length } = extent(at + done, into.length - done);
        const part = into.subarray(done, done + length);
        if (kind === 'zero') part.fill(0);
        else pattern(part, at + done, seed);
        done += length;
      }
    },
    extent,
    async load() {},
    async [Symbol.asyncDispose]() {},
  };
}

/** Writes the view as a real file with the same holes. */
export async function materialize(file: VirtualFile, disk: Disk, path: string): Promise<void> {
  const fd = fs.openSync(path, 'w');
  try {
    const buffer = new Uint8Array(1_048_576);
    for (let at = 0; at < file.size; ) {
      const extent = viewExtent(file, disk, at);
      if (extent.kind === 'unknown') {
        await extent.load();
        continue;
      }
      const length = Math.min(extent.length, file.size - at);
      for (let done = 0; extent.kind === 'data' && done < length; done += buffer.length) {
        const part = buffer.subarray(0, Math.min(buffer.length, length - done));
        await readView(file, disk, part, at + done);
        fs.writeSync(fd, part, 0, part.length, at + done);
      }
      at += length;
    }
    fs.ftruncateSync(fd, file.size);
  } finally {
    fs.closeSync(fd);
  }
}
