/** A disk of 2 TiB in an encrypted chain: opened at once, in little memory, whatever the length of its indexes. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { localWritableStore } from '../../src/stores/local.ts';
import { scratch } from '../../test/kit/samples.ts';
import { type Built, buildFile, content, type DiskSpec, type FileSpec, put, type Stored } from './fixtures.ts';
import { gptOf, historyTo, MIB, nameOf, track } from './shapes.ts';

const LONG = process.env.BOOTMOUNT_LONG === '1';
/** With blocks of 64 KiB a full index has a gigabyte, with these 126 MB. */
const BLOCK = LONG ? 65_536 : 524_288;
const SIZE = 2 ** 41;
const LENGTH = SIZE - 2 * MIB;
const COUNT = Math.ceil(LENGTH / BLOCK);
const EDGES = [0, 1, Math.floor(COUNT / 2), COUNT - 2];

const encryption = { bits: 256, password: 'geheim', iterations: 600_000 } as const;
const block = (seed: number): Uint8Array => content(BLOCK, seed);

function diskOf(blocks: ReadonlyMap<number, Uint8Array | 'zero' | Stored>): DiskSpec {
  const { head } = gptOf(SIZE, [{ at: MIB, length: LENGTH }]);
  const partition = { start: MIB, length: LENGTH, blockSize: BLOCK, blockCount: COUNT, blocks };
  return { format: 'gpt', size: SIZE, bootTrack: track(head.bytes), partitions: [partition] };
}

const at = (seed: number): Map<number, Uint8Array> => new Map(EDGES.map((number, i) => [number, block(seed + i)]));

/** Opens the folder in a program of its own and reads the first bytes of the given blocks. */
function probe(folder: string): { ms: number; readMs: number; rss: number; heads: number[][]; bad: string } {
  const root = path.resolve(import.meta.dirname, '../..');
  const script = `
    import { openRepository } from ${JSON.stringify(`${root}/src/chain/repository.ts`)};
    import { localStore } from ${JSON.stringify(`${root}/src/stores/local.ts`)};
    import { macrium } from ${JSON.stringify(`${root}/formats/macrium/index.ts`)};
    const start = performance.now();
    const repository = await openRepository(localStore(${JSON.stringify(folder)}), [macrium], {
      secrets: async () => [Buffer.from('geheim')],
    });
    const points = repository.sets[0].points;
    const ms = performance.now() - start;
    const heads = [];
    const begin = performance.now();
    for (const point of points) {
      const disk = await point.openDisk(0);
      const head = new Uint8Array(4);
      const row = [];
      for (const number of ${JSON.stringify(EDGES)}) {
        await disk.read(head, ${MIB} + number * ${BLOCK});
        row.push(Buffer.from(head).readUInt32LE());
      }
      heads.push(row);
    }
    const readMs = performance.now() - begin;
    const bad = points.map(point => point.problem?.message ?? '').join('');
    console.log(JSON.stringify({ ms, readMs, rss: process.memoryUsage().rss, heads, bad }));
    await repository[Symbol.asyncDispose]();
  `;
  return JSON.parse(execFileSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' }));
}

describe('2 TiB, encrypted: a full, an increment with a full index, a delta', () => {
  let folder: string;
  beforeAll(async () => {
    folder = scratch();
    const write = async (file: FileSpec): Promise<Built> => {
      const built = buildFile(file);
      await put(built, localWritableStore(folder), nameOf(file.number));
      return built;
    };
    const full = await write({ number: 0, encryption, history: historyTo(0), disks: [diskOf(at(1))] });
    const second = new Map<number, Uint8Array | Stored>([...full.stored[0]![0]!, [EDGES[1]!, block(20)]]);
    await write({ number: 1, encryption, history: historyTo(1), disks: [diskOf(second)] });
    const third = new Map<number, Uint8Array | 'zero'>([
      [EDGES[2]!, 'zero'],
      [EDGES[3]!, block(30)],
    ]);
    await write({ number: 2, delta: true, encryption, history: historyTo(2), disks: [diskOf(third)] });
  }, 120_000);
  afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

  test('opens in less than a second and less than 256 MiB', () => {
    const { ms, readMs, rss, heads, bad } = probe(folder);
    if (LONG) console.log({ ms, readMs, rss });
    expect(bad).toBe('');
    const head = (seed: number): number => Buffer.from(block(seed)).readUInt32LE();
    const full = [1, 2, 3, 4].map(head);
    expect(heads).toEqual([full, [full[0], head(20), full[2], full[3]], [full[0], head(20), 0, head(30)]]);
    expect({ ms: ms < 1000, rss: rss < 256 * MIB }, `${ms} ms, first reads ${readMs} ms, ${rss} bytes`).toEqual({
      ms: true,
      rss: true,
    });
  });
});
