/** Readers of volumes as fuzz targets: disks are opened, looked through and read in part. */
import { execFileSync, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { ByteSource, Disk, Keyring, Store } from '../../src/base/contracts.ts';
import type { VolumeDir, VolumeNode } from '../../src/volumes/contracts.ts';
import { MetadataCache } from '../../src/volumes/source.ts';
import { openVolumes } from '../../src/volumes/volumes.ts';
import type { Random } from '../kit/random.ts';
import { type FuzzTarget, KEYS, orImageError, type Seed } from './target.ts';

const CACHE = 2 ** 21;
const READ = new Uint8Array(8192);
/** Names that one case looks at. */
const NODES = 24;

const diskOf = (source: ByteSource): Disk => ({
  id: source.name,
  size: source.size,
  sectorSize: 512,
  extent: (_at, limit) => ({ kind: 'data', length: limit }),
  load: async () => {},
  read: (into, at) => source.read(into, at),
  [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
});

async function readNode(node: VolumeNode, { below }: Random): Promise<void> {
  if (node.xattrs !== undefined) await orImageError(node.xattrs);
  if (node.kind === 'link') await node.target();
  if (node.kind !== 'file') return;
  const content = await node.open();
  const length = Math.min(READ.length, content.size);
  const last = content.size - length;
  for (const at of [0, last, below(last + 1)]) {
    await orImageError(() => content.read(READ.subarray(0, length), at));
    if (length > 0) content.range(at, length);
  }
}

/** Looks at names of a folder and of those in it, in an order that the numbers say, until there were enough. */
async function lookThrough(root: VolumeDir, numbers: Random): Promise<void> {
  const folders: VolumeDir[] = [root];
  for (let left = NODES; left > 0 && folders.length > 0; ) {
    const dir = folders.splice(numbers.below(folders.length), 1)[0]!;
    await orImageError(async () => {
      const entries = await dir.list();
      const looked = entries[numbers.below(entries.length)]?.name ?? 'x';
      if (dir.lookup !== undefined) await orImageError(() => dir.lookup!(looked));
      for (let n = 0; n < Math.min(12, entries.length) && left > 0; n++, left--) {
        const entry = entries[entries.length <= 12 ? n : numbers.below(entries.length)]!;
        await orImageError(async () => {
          const node = await entry.node();
          if (node.kind === 'dir') folders.push(node);
          await readNode(node, numbers);
        });
      }
    });
  }
}

/** Every file of the store is a disk of one point. */
export async function exerciseVolumes(store: Store, numbers: Random, keys: Keyring): Promise<void> {
  await using opened = new AsyncDisposableStack();
  const disks: { disk: Disk; name: string }[] = [];
  for await (const { name } of store.list()) disks.push({ disk: opened.use(diskOf(await store.open(name))), name });
  await orImageError(async () => {
    const { volumes } = await openVolumes({ disks, cache: new MetadataCache(CACHE), keys });
    for (const { volume } of volumes.slice(0, 4)) {
      await lookThrough(volume.root, numbers);
      if (numbers.below(3) === 0) await orImageError(() => volume.free?.(() => {}));
    }
  });
}

export const volumeTarget = (
  needs: readonly string[],
  seeds: () => Promise<readonly Seed[]>,
  repair?: FuzzTarget['repair'],
): FuzzTarget => ({
  needs,
  seeds,
  exercise: (store, _name, numbers) => exerciseVolumes(store, numbers, KEYS),
  ...(repair === undefined ? {} : { repair }),
});

/** A folder with a few files and folders, some of many pieces or names. */
function smallTree(folder: string): void {
  fs.mkdirSync(path.join(folder, 'a/b/c'), { recursive: true });
  fs.mkdirSync(path.join(folder, 'many'));
  for (let i = 0; i < 120; i++) fs.writeFileSync(path.join(folder, 'many', `a name of some length ${i}`), `${i}`);
  fs.writeFileSync(path.join(folder, 'a/b/c/text'), 'the same words again and again '.repeat(2000));
  const fd = fs.openSync(path.join(folder, 'holes'), 'w');
  for (let i = 0; i < 12; i++) fs.writeSync(fd, Buffer.alloc(3000, i + 1), 0, 3000, i * 40_000);
  fs.closeSync(fd);
  // Where the folder is on a file system that keeps them; the tools that fill images take them along.
  spawnSync('setfattr', ['-n', 'user.short', '-v', 'a value', path.join(folder, 'holes')]);
  spawnSync('setfattr', ['-n', 'user.long', '-v', 'x'.repeat(700), path.join(folder, 'holes')]);
  fs.symlinkSync('a/b', path.join(folder, 'link'));
  fs.symlinkSync('x'.repeat(200), path.join(folder, 'long'));
}

const PATH = `${process.env.PATH ?? ''}:/usr/sbin:/sbin`;

/** Runs shell commands in a folder with `tree/` in it; the files that are named become the seed's disks. */
export function madeSeed(title: string, script: string, ...files: readonly string[]): Seed {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-fuzz-'));
  try {
    fs.mkdirSync(path.join(folder, 'tree'));
    smallTree(path.join(folder, 'tree'));
    execFileSync('sh', ['-ec', script], { cwd: folder, stdio: 'pipe', env: { ...process.env, PATH } });
    const read = (name: string): readonly [string, Uint8Array] => [
      name,
      new Uint8Array(fs.readFileSync(path.join(folder, name))),
    ];
    return { title, name: files[0]!, files: Object.fromEntries(files.map(read)) };
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}
