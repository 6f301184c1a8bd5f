/** Whatever a reader does, it is the error of that one file, and the rest is served. The faults are planted. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { Disk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { dropsPermissions } from './limits.ts';
import { Parser } from './parser.ts';
import { openPointFiles, type PointDir, type PointFile } from './point-files.ts';

const disk: Disk = {
  id: 'disk0',
  size: 512,
  sectorSize: 512,
  extent: (_at, limit) => ({ kind: 'data', length: limit }),
  load: async () => {},
  read: into => void into.fill(0),
  async [Symbol.asyncDispose]() {},
};
const point = { disks: [{ name: 'disk0', size: 512, sectorSize: 512 as const }], openDisk: async () => disk };
const program = path.resolve(import.meta.dirname, '../../test/kit/planted-child.ts');
const limits = { memory: 2 ** 27, heap: 24, silence: 1500, total: 2500 };

let parser: Parser;
let root: PointDir;
const cache = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-cache-'));
beforeAll(async () => {
  vi.stubEnv('NODE_COMPILE_CACHE', cache);
  parser = new Parser({ program, limits });
  root = await (await openPointFiles(parser, point)).volumes[0]!.root();
});
afterAll(async () => {
  vi.unstubAllEnvs();
  await parser[Symbol.asyncDispose]();
  fs.rmSync(cache, { recursive: true });
});

async function read(name: string): Promise<string> {
  const file = (await root.child(name)) as PointFile;
  const into = new Uint8Array(5);
  await (await file.open()).read(into, 0);
  return new TextDecoder().decode(into);
}

const failure = async (name: string): Promise<string> => {
  try {
    return `read: ${await read(name)}`;
  } catch (error) {
    return error instanceof ImageError ? `${error.fault}: ${error.message}` : String(error);
  }
};

describe('a reader that', () => {
  test.each([
    ['throws', /^corrupt: planted/],
    ['loops', /^corrupt: .*was stopped: it came to no end/],
    ['never answers', /^corrupt: .*was stopped: it came to no end/],
    ['takes buffers', /^corrupt: .*(allocat|too much memory)/],
    ['fills the heap', /^corrupt: .*was stopped: /],
    ['dies', /^corrupt: .*was stopped: it crashed/],
    ['reads a file', /^corrupt: .*ERR_ACCESS_DENIED|^corrupt: Access to this API has been restricted/],
    ['writes to its cache', /^corrupt: Access to this API has been restricted/],
    ['starts a program', /^corrupt: Access to this API has been restricted/],
  ])('%s fails that file, and others are read before and after', async (fault, message) => {
    expect(await read('sound')).toBe('sound');
    expect(await failure(fault)).toMatch(message);
    expect(await read('sound')).toBe('sound');
  });

  test.skipIf(!dropsPermissions(process.versions.node))(
    'starts from the cache, which it cannot write to any more',
    () => {
      expect(fs.readdirSync(cache, { recursive: true }).length).toBeGreaterThan(10);
      expect(fs.existsSync(path.join(cache, 'x'))).toBe(false);
    },
  );

  test('dies while others are read does not take them along', async () => {
    const names = ['sound', 'dies', 'sound', 'loops', 'sound', 'dies', 'sound'];
    const ends = await Promise.all(names.map(failure));
    expect(ends.map(end => end.startsWith('read: sound'))).toEqual(names.map(name => name === 'sound'));
  });

  test('comes to no end with a volume is not asked again about that one, and the others are there', async () => {
    const hostile = { ...point, disks: [{ name: 'hostile', size: 512, sectorSize: 512 as const }] };
    const { volumes, notes } = await openPointFiles(parser, hostile);
    expect(volumes.map(({ name }) => name)).toEqual(['p1-planted']);
    expect(notes).toEqual(['hostile p2 is left out']);
  });
});
