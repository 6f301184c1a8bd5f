/** Copies that are stopped, raced and refused. `BOOTMOUNT_LONG=1` races 1,000 copies instead of 40. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { ImageError } from '../base/errors.ts';
import type { FileContent } from '../files/content.ts';
import type { PointDir, PointFile, PointNode } from '../files/point-files.ts';
import { CopiedLinks } from './copy-links.ts';
import { type Copied, type CopySpec, copyNode, nothingCopied } from './copy-out.ts';

const scratch = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-copy-')));
afterAll(() => fs.rmSync(scratch, { recursive: true, force: true }));
const place = (...names: string[]): string => path.join(scratch, ...names);

const attributes = { mtime: new Date(1_700_000_000_123), mode: 0o640, uid: 0, gid: 0, links: 1 };

function contentOf(bytes: Uint8Array, stopAt = Number.POSITIVE_INFINITY): FileContent {
  return {
    size: bytes.length,
    read(into, at) {
      if (at >= stopAt) throw new ImageError('io', 'planted');
      into.set(bytes.subarray(at, at + into.length));
    },
    seek: (at, want) => (want === 'data' ? at : bytes.length),
    rangeAt: async at => ({ length: bytes.length - at, disk: -2, at: 0 }),
  };
}

const file = (bytes: Uint8Array, stopAt?: number): PointFile => ({
  kind: 'file',
  ...attributes,
  id: '',
  size: bytes.length,
  allocated: bytes.length,
  open: async () => contentOf(bytes, stopAt),
});

const folder = (children: Readonly<Record<string, PointNode>>): PointDir => ({
  kind: 'dir',
  ...attributes,
  mode: 0o755,
  id: '',
  list: async () => Object.entries(children).map(([name, { kind }]) => ({ name, kind })),
  child: async name => children[name] ?? null,
  children: async names => names.map(name => children[name]!),
});

interface Outcome extends Copied {
  readonly failures: readonly string[];
}

async function copy(node: PointNode, target: string, more: Partial<CopySpec> = {}): Promise<Outcome> {
  const failures: string[] = [];
  const done = nothingCopied();
  const fd = fs.openSync(path.dirname(target), fs.constants.O_DIRECTORY);
  try {
    const spec: CopySpec = {
      signal: new AbortController().signal,
      identity: 'point',
      owners: false,
      devices: false,
      streams: false,
      links: new CopiedLinks(fd),
      skipped() {},
      failed: (its, { fault }) => failures.push(`${its}: ${fault}`),
      progress() {},
      ...more,
    };
    await copyNode(node, { folder: fd, name: path.basename(target), path: path.basename(target) }, spec, done);
  } finally {
    fs.closeSync(fd);
  }
  return { ...done, failures };
}

const MIB = 2 ** 20;
const bytes = new Uint8Array(4 * MIB + 17).map((_, i) => i % 251);
const partials = (where: string): string[] => fs.readdirSync(where).filter(name => name.endsWith('.partial'));

describe('a copy that was stopped', () => {
  test('has no file under its name, and is gone on with', async () => {
    fs.mkdirSync(place('stopped'));
    const target = place('stopped/file');
    expect((await copy(file(bytes, 2 * MIB), target)).failures).toEqual(['file: io']);
    expect(fs.readdirSync(place('stopped'))).toEqual(partials(place('stopped')));
    expect(partials(place('stopped'))).toHaveLength(1);
    const again = await copy(file(bytes), target);
    expect(again).toMatchObject({ files: 1, failures: [], bytes: bytes.length - 2 * MIB });
    expect(Buffer.compare(fs.readFileSync(target), bytes)).toBe(0);
    const { mode, mtimeMs } = fs.statSync(target);
    expect([mode % 0o10000, mtimeMs]).toEqual([0o640, 1_700_000_000_123]);
    expect(partials(place('stopped'))).toEqual([]);
    expect(await copy(file(bytes), target)).toMatchObject({ files: 0, kept: 1 });
  });

  test('is not believed where it does not hold what it should', async () => {
    fs.mkdirSync(place('torn'));
    await copy(file(bytes, 3 * MIB), place('torn/file'));
    const fd = fs.openSync(place('torn', partials(place('torn'))[0]!), 'r+');
    fs.writeSync(fd, new Uint8Array(100), 0, 100, MIB + 5);
    fs.closeSync(fd);
    const again = await copy(file(bytes), place('torn/file'));
    expect(again.bytes).toBe(bytes.length - MIB);
    expect(Buffer.compare(fs.readFileSync(place('torn/file')), bytes)).toBe(0);
  });

  test('a partial file with another name elsewhere, or a link in its place, is not written to', async () => {
    fs.mkdirSync(place('planted'));
    await copy(file(bytes, 3 * MIB), place('planted/file'));
    const partial = place('planted', partials(place('planted'))[0]!);
    fs.linkSync(partial, place('victim'));
    const held = fs.readFileSync(place('victim'));
    expect((await copy(file(bytes), place('planted/file'))).files).toBe(1);
    expect(Buffer.compare(fs.readFileSync(place('victim')), held)).toBe(0);
    fs.rmSync(place('planted/file'));
    fs.symlinkSync(place('victim'), partial);
    expect((await copy(file(bytes), place('planted/file'))).files).toBe(1);
    expect(Buffer.compare(fs.readFileSync(place('victim')), held)).toBe(0);
  });

  const root = process.getuid?.() === 0 && spawnSync('mount', ['--version']).status === 0;
  test.skipIf(!root)('a full disk ends it with one error, and nothing has a name that is not whole', async () => {
    fs.mkdirSync(place('full'));
    expect(spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=3m', 'none', place('full')]).status).toBe(0);
    try {
      const tree = folder({ a: file(bytes.subarray(0, 1000)), b: file(bytes), c: file(bytes.subarray(0, 10)) });
      await expect(copy(tree, place('full/tree'))).rejects.toMatchObject({ fault: 'no-space' });
      expect(fs.readdirSync(place('full/tree')).filter(name => !name.endsWith('.partial'))).toEqual(['a']);
    } finally {
      spawnSync('umount', ['-l', place('full')]);
    }
  });
});

describe('what a file has beside its content', () => {
  const several = (id: string): PointFile => ({ ...file(bytes.subarray(0, 100)), id, links: 3 });

  test('its other names are links, and copies where what was copied is no longer there', async () => {
    const tree = folder({
      a: several('v:1'),
      dir: folder({ b: several('v:1') }),
      other: several('v:2'),
      z: several('v:1'),
    });
    const inode = (...names: string[]): number => fs.lstatSync(place('names', ...names)).ino;
    expect(await copy(tree, place('names'))).toMatchObject({ files: 2, links: 2, bytes: 200, failures: [] });
    expect([inode('dir/b'), inode('z')]).toEqual([inode('a'), inode('a')]);
    expect(inode('other')).not.toBe(inode('a'));
    expect(await copy(tree, place('names'))).toMatchObject({ files: 0, links: 0, kept: 4 });
    // Another file took the place of the first one meanwhile: its content is not what the other names are to have.
    fs.rmSync(place('names'), { recursive: true });
    const swapping: PointDir = folder({
      a: several('v:1'),
      b: {
        ...several('v:2'),
        open: async () => {
          fs.rmSync(place('names/a'));
          fs.writeFileSync(place('names/a'), 'other');
          return contentOf(bytes.subarray(0, 100));
        },
      },
      c: several('v:1'),
    });
    expect(await copy(swapping, place('names'))).toMatchObject({ files: 3, links: 0, failures: [] });
    expect(fs.readFileSync(place('names/c')).equals(bytes.subarray(0, 100))).toBe(true);
  });

  test('alternate streams are counted, or stand beside it', async () => {
    const names: Readonly<Record<string, PointFile>> = {
      'a:first': file(bytes.subarray(0, 10)),
      'a:se/cond': file(bytes.subarray(0, 20)),
    };
    const streams = async (): Promise<readonly string[]> => ['first', 'se/cond'];
    const plain = folder({ a: { ...file(bytes.subarray(0, 5)), streams } });
    const tree: PointDir = { ...plain, child: async name => names[name] ?? null };
    expect(await copy(tree, place('streams'))).toMatchObject({ files: 1, streams: 2 });
    expect(await copy(tree, place('streams'), { streams: true })).toMatchObject({ files: 2, kept: 1, streams: 0 });
    expect(fs.readdirSync(place('streams')).sort()).toEqual(['a', 'a:first', 'a:se\\x2fcond']);
    expect(fs.statSync(place('streams/a:first')).size).toBe(10);
  });

  test('attributes that cannot be kept are counted, and no error', async () => {
    const xattrs = async (): Promise<ReadonlyMap<string, Uint8Array>> =>
      new Map([
        ['user.kept', bytes.subarray(0, 3)],
        ['user.too long', new Uint8Array(60_000)],
        ['security.capability', bytes.subarray(0, 20)],
        ['system.ntfs_acl', bytes.subarray(0, 20)],
      ]);
    const done = await copy({ ...file(bytes.subarray(0, 5)), xattrs }, place('described'));
    expect(done).toMatchObject({ files: 1, failures: [] });
    expect(done.attributes).toBeGreaterThanOrEqual(1);
  });
});

/** Swaps the folders of the copy by links to `outside`, as fast as it can. */
const RACER = `
const fs = require('node:fs');
const [target, outside] = process.argv.slice(1);
for (;;) for (const name of ['tree/one', 'tree/one/two', 'tree']) {
  const at = target + '/' + name;
  try { fs.renameSync(at, at + '.aside'); fs.symlinkSync(outside, at); } catch {}
  try { if (fs.lstatSync(at).isSymbolicLink()) fs.unlinkSync(at); } catch {}
  try { fs.renameSync(at + '.aside', at); } catch {}
}`;

async function raced(run: (target: string) => Promise<unknown>, rounds: number, name: string): Promise<string[]> {
  const outside = place(`outside-${name}`);
  fs.mkdirSync(outside);
  const found: string[] = [];
  for (let i = 0; i < rounds && found.length === 0; i++) {
    const target = place(`race-${name}-${i}`);
    fs.mkdirSync(target);
    const racer: ChildProcess = spawn(process.execPath, ['-e', RACER, target, outside], { stdio: 'ignore' });
    await new Promise(resolve => racer.once('spawn', resolve));
    if (i === 0) await new Promise(resolve => setTimeout(resolve, 100));
    for (let n = 0; n < 25; n++) await run(target).catch(() => undefined);
    const ended = new Promise(resolve => racer.once('exit', resolve));
    racer.kill('SIGKILL');
    await ended;
    found.push(...fs.readdirSync(outside));
    fs.rmSync(target, { recursive: true, force: true });
  }
  return found;
}

describe('a copy whose folders are swapped by links meanwhile', () => {
  const many = Object.fromEntries(
    Array.from({ length: 20 }, (_, i) => [`file-${i}`, file(bytes.subarray(0, 100 + i))]),
  );
  const tree = folder({ one: folder({ two: folder(many), ...many }), ...many });
  // Each round is 25 copies.
  const rounds = process.env.BOOTMOUNT_LONG === '1' ? 40 : 2;

  test('writes nothing outside', async () => {
    expect(await raced(target => copy(tree, path.join(target, 'tree')), rounds, 'safe')).toEqual([]);
  }, 600_000);

  test('planted: one that goes by paths is seen to write outside', async () => {
    const byPath = async (node: PointNode, at: string): Promise<void> => {
      if (node.kind === 'file') fs.writeFileSync(at, 'x');
      if (node.kind !== 'dir') return;
      fs.mkdirSync(at, { recursive: true });
      for (const { name } of await node.list()) {
        await byPath((await node.child(name))!, path.join(at, name)).catch(() => undefined);
      }
    };
    expect(await raced(target => byPath(tree, path.join(target, 'tree')), 40, 'planted')).not.toEqual([]);
  });
});
