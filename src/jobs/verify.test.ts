import { describe, expect, test } from 'vitest';
import { memoryDisk, pattern } from '../../test/kit/disks.ts';
import type { Disk, Image, VerifyRun } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import type { Repository, RestorePoint } from '../chain/point.ts';
import { type VerifySpec, verify } from './verify.ts';

const SIZE = 2 ** 20 * 3;

function content(): Uint8Array {
  const bytes = new Uint8Array(SIZE);
  pattern(bytes, 0, 1);
  return bytes;
}

/** Reads fail in the 64 KiB at each of these offsets. */
function damagedDisk(places: readonly number[]): Disk {
  const disk = memoryDisk(content());
  return {
    ...disk,
    async read(into, at) {
      const place = places.find(p => at < p + 65_536 && p < at + into.length);
      if (place !== undefined) throw new ImageError('corrupt', 'the checksum does not hold', { file: 'a', at: place });
      return disk.read(into, at);
    },
  };
}

function point(name: string, more: Partial<RestorePoint> = {}): RestorePoint {
  return {
    set: 'web',
    name,
    time: null,
    type: 'full',
    adapter: 'fake',
    disks: [{ name: 'disk0', size: SIZE, sectorSize: 512, stored: 1 }],
    state: 'ok',
    problem: null,
    identity: name,
    file: name,
    files: [name],
    parent: null,
    layers: () => [],
    openDisk: async () => memoryDisk(content()),
    ...more,
  };
}

const image = (name: string, check?: Image['verify']): Image => ({
  adapter: 'fake',
  name,
  encrypted: false,
  points: [],
  warnings: [],
  ...(check === undefined ? {} : { verify: check }),
  async [Symbol.asyncDispose]() {},
});

function specFor(points: readonly RestorePoint[], more: Partial<VerifySpec> = {}): VerifySpec {
  const repository: Repository = {
    label: 'test',
    sets: [{ name: 'web', adapter: 'fake', encrypted: false, points }],
    unknown: [],
    warnings: [],
    async [Symbol.asyncDispose]() {},
  };
  return {
    repository,
    wanted: () => true,
    level: 3,
    openImage: async file => image(file),
    fileSize: () => 100,
    found() {},
    progress() {},
    signal: new AbortController().signal,
    ...more,
  };
}

describe('verify', () => {
  test('reads every data extent, and counts it', async () => {
    expect(await verify(specFor([point('a')]))).toEqual({
      checked: SIZE / 65_536,
      bytes: SIZE,
      problems: [],
      omitted: 0,
      locked: [],
    });
    expect(await verify(specFor([point('a')], { level: 2 }))).toMatchObject({ checked: 0, bytes: 0 });
  });

  test('goes on after a damaged block, and names each once', async () => {
    const places = [65_536 * 3, 2 ** 20 + 65_536, 2 ** 20 + 3 * 65_536];
    const told: number[] = [];
    const result = await verify(
      specFor([point('a', { openDisk: async () => damagedDisk(places) })], {
        openImage: async file =>
          image(file, async run => {
            run.found({ fault: 'corrupt', message: 'the checksum does not hold', file: 'a', offset: places[0]! });
            return { checked: 5, bytes: 50 };
          }),
        found: problem => told.push(problem.offset),
      }),
    );
    expect(result.problems.map(({ offset }) => offset)).toEqual(places);
    expect(told).toEqual(places);
    expect(result.problems[1]).toMatchObject({ set: 'web', point: 'a', disk: 'disk0', file: 'a', fault: 'corrupt' });
    expect(result.bytes).toBe(SIZE - 3 * 65_536 + 50);
  });

  test('a broken point is a problem, a locked one is not; the others are still checked', async () => {
    const broken = new ImageError('broken-chain', 'the parent x is missing', { file: 'b' });
    const locked = new ImageError('locked', 'no key');
    const levels: number[] = [];
    const check = async (run: VerifyRun): Promise<{ checked: number; bytes: number }> => {
      levels.push(run.level);
      return { checked: 1, bytes: 1 };
    };
    const points = [
      point('a'),
      point('b', { state: 'broken', problem: broken }),
      point('c', { state: 'locked', problem: locked }),
      point('d', { state: 'locked', problem: new ImageError('wrong-key', 'the key does not fit') }),
    ];
    const result = await verify(specFor(points, { openImage: async file => image(file, check) }));
    expect(result.problems.map(({ point: name, fault }) => [name, fault])).toEqual([
      ['b', 'broken-chain'],
      ['d', 'wrong-key'],
    ]);
    expect(result.locked.map(({ name }) => name)).toEqual(['c']);
    // What the file of a broken point holds can be checked all the same.
    expect(levels).toEqual([3, 3, 2, 2]);
  });

  test('an image that cannot be opened, or a disk whose tables are damaged, does not end it', async () => {
    const bad: Disk = {
      ...memoryDisk(content()),
      extent: () => null,
      async load() {
        throw new ImageError('corrupt', 'the table is damaged', { file: 'a', at: 64 });
      },
    };
    const opened: string[] = [];
    const result = await verify(
      specFor([point('a', { openDisk: async () => bad }), point('b')], {
        async openImage(file) {
          opened.push(file);
          if (file === 'a') throw new ImageError('io', 'I/O failed (EIO)', { file });
          return image(file);
        },
      }),
    );
    expect(opened).toEqual(['a', 'b']);
    expect(result.problems.map(({ fault }) => fault)).toEqual(['io', 'corrupt']);
    expect(result.bytes).toBe(SIZE);
  });

  test('older points are read by themselves only where their files check nothing, and none whose files read all of themselves', async () => {
    const read: string[] = [];
    const chain = ['a', 'b', 'c'].map((name, i, all) =>
      point(name, {
        type: i === 0 ? 'full' : 'incremental',
        parent: all[i - 1] ?? null,
        files: all.slice(0, i + 1),
        openDisk: async () => {
          read.push(name);
          return memoryDisk(content());
        },
      }),
    );
    await verify(specFor(chain));
    expect(read).toEqual(['a', 'b', 'c']);
    read.length = 0;
    const check = async (): Promise<{ checked: number; bytes: number }> => ({ checked: 1, bytes: 1 });
    await verify(specFor(chain, { openImage: async file => image(file, check) }));
    expect(read).toEqual(['c']);
    read.length = 0;
    const all = async (run: VerifyRun) => ({ ...(await check()), whole: run.level === 3 });
    await verify(specFor(chain, { openImage: async file => image(file, file === 'b' ? check : all) }));
    expect(read).toEqual(['c']);
    read.length = 0;
    await verify(specFor(chain, { openImage: async file => image(file, all) }));
    expect(read).toEqual([]);
  });

  test('an abort ends it', async () => {
    const stop = new AbortController();
    const spec = specFor([point('a')], {
      signal: stop.signal,
      openImage: async () => {
        stop.abort(new ImageError('io', 'stopped'));
        throw stop.signal.reason;
      },
    });
    await expect(verify(spec)).rejects.toThrow('stopped');
  });
});
