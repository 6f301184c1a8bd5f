/** Imports only point down. The rooms and their order are those of ARCHITECTURE.md. */
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';

const ROOT = path.resolve(import.meta.dirname, '..');

/** What each room may import, besides itself. */
const MAY: Readonly<Record<string, readonly string[]>> = {
  base: [],
  stores: ['base'],
  chain: ['base'],
  overlay: ['base', 'chain'],
  views: ['base', 'chain', 'overlay'],
  volumes: ['base'],
  files: ['base', 'chain', 'volumes'],
  tree: ['base', 'chain', 'overlay', 'views', 'volumes', 'files'],
  jobs: ['base', 'chain', 'overlay', 'views'],
  host: ['base'],
  registry: ['base', 'formats'],
  server: ['base', 'chain', 'stores', 'tree', 'host', 'registry'],
  cli: ['base', 'chain', 'stores', 'jobs', 'host', 'server', 'registry', 'tree', 'volumes', 'files'],
  formats: ['base'],
};
/** Rooms that may touch the file system by themselves; all others go through `base/io` and the stores. */
const MAY_USE_FS = new Set(['stores', 'overlay', 'files', 'tree', 'host', 'server', 'cli', 'jobs']);
const FS_MODULES = new Set(['src/base/full-io.ts', 'src/base/io.ts', 'src/base/files.ts', 'src/base/native.ts']);

function* sources(folder: string): Generator<string> {
  for (const entry of fs.readdirSync(path.join(ROOT, folder), { withFileTypes: true })) {
    const name = `${folder}/${entry.name}`;
    if (entry.isDirectory() && entry.name !== 'node_modules') yield* sources(name);
    else if (/\.[jt]s$/.test(entry.name) && !entry.name.endsWith('.test.ts')) yield name;
  }
}

function roomOf(file: string): string {
  const [top, second] = file.split('/');
  if (top === 'formats') return 'formats';
  return second!.replace(/\.ts$/, '');
}

function importsOf(file: string): readonly string[] {
  const text = fs.readFileSync(path.join(ROOT, file), 'utf8');
  return [...text.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map(match => match[1]!);
}

/** Everything that an import breaks, one line each. */
function violations(file: string, imports: readonly string[]): readonly string[] {
  const room = roomOf(file);
  const found: string[] = [];
  for (const name of imports) {
    if (name === 'node:fs' || name.startsWith('node:fs/')) {
      if (!MAY_USE_FS.has(room) && !FS_MODULES.has(file)) found.push(`${file} uses ${name}`);
      continue;
    }
    if (!name.startsWith('.')) continue;
    const target = path.relative(ROOT, path.resolve(ROOT, path.dirname(file), name));
    const to = roomOf(target);
    if (room === 'formats' && to === 'formats') {
      if (file.split('/')[1] !== target.split('/')[1]) found.push(`${file} imports another format: ${target}`);
    } else if (to !== room && !(MAY[room] ?? []).includes(to))
      found.push(`${file} (${room}) imports ${target} (${to})`);
  }
  return found;
}

const all = [...sources('src'), ...sources('formats')];

describe('layers', () => {
  test('every room is known', () => {
    expect(all.map(roomOf).filter(room => !(room in MAY))).toEqual([]);
  });

  test('imports only point down', () => {
    expect(all.length).toBeGreaterThan(50);
    expect(all.flatMap(file => violations(file, importsOf(file)))).toEqual([]);
  });

  test('a planted import upwards is found', () => {
    expect(violations('src/base/range.ts', ['../chain/disk.ts'])).toHaveLength(1);
    expect(violations('formats/raw/read.ts', ['../qcow2/index.ts'])).toHaveLength(1);
    expect(violations('src/chain/disk.ts', ['node:fs'])).toHaveLength(1);
  });

  test('no file is longer than 400 lines', () => {
    const long = all.filter(file => fs.readFileSync(path.join(ROOT, file), 'utf8').split('\n').length > 401);
    expect(long).toEqual([]);
  });
});
