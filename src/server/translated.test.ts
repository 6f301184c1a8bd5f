/** The first mount after the program changed: what serves it starts again from what was translated, without the translator. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runCli } from '../../test/e2e/run-cli.ts';
import { emptyImage, lacking, scratch, tool } from '../../test/kit/volume-images.ts';
import { dropsPermissions } from '../files/limits.ts';

const MIB = 1024;
const folder = scratch();
const place = (name: string): string => path.join(folder, name);
const mnt = place('mnt');
const { NODE_COMPILE_CACHE: _, ...others } = process.env;
const env = { ...(others as Record<string, string>), XDG_CACHE_HOME: place('cache') };

beforeAll(() => {
  for (const name of ['cache', 'repo', 'mnt', 'state']) fs.mkdirSync(place(name), { mode: 0o700 });
  emptyImage(place('repo/disk.raw'), 8 * 2 ** 20);
  tool('mke2fs', ['-q', '-F', place('repo/disk.raw')]);
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const cannot = process.getuid?.() === 0 && fs.existsSync('/dev/fuse') ? lacking('mke2fs') : 'needs root and /dev/fuse';

/** What a program has in memory that is its own, KiB. */
const own = (pid: string): number =>
  Number(/RssAnon:\s+(\d+)/.exec(fs.readFileSync(`/proc/${pid}/status`, 'latin1'))![1]);

/** Of the worker and of the parser, once the files of a point were looked at; and the clones. */
async function served(
  ...more: readonly string[]
): Promise<{ readonly memory: readonly number[]; readonly clones: number }> {
  const args = ['mount', place('repo'), mnt, '--state', place('state'), ...more];
  expect(await runCli(args, { env })).toMatchObject({ code: 0 });
  try {
    const files = path.join(mnt, 'backups/disk/latest/files');
    expect(fs.readdirSync(path.join(files, 'p0-ext2'))).toEqual(['lost+found']);
    const { stdout } = await runCli(['mount', '--status', mnt, '--json'], { env });
    const status = JSON.parse(stdout) as { worker: { pid: number; restarts: number }; clones: readonly unknown[] };
    expect(status.worker.restarts).toBe(0);
    const worker = String(status.worker.pid);
    const children = fs.readFileSync(`/proc/${worker}/task/${worker}/children`, 'latin1').trim().split(' ');
    const parser = children.find(pid => fs.readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes('src/files/child'))!;
    return { memory: [own(worker), own(parser)], clones: status.clones.length };
  } finally {
    await runCli(['umount', mnt, '--release'], { env });
  }
}

test.skipIf(cannot !== '')(`neither worker nor parser keeps a translator ${cannot}`, { timeout: 60_000 }, async () => {
  const first = await served('--clone', 'disk@latest:one:raw');
  const second = await served();
  expect([first.clones, second.clones]).toEqual([1, 1]);
  expect(first.memory[0]! - second.memory[0]!).toBeLessThan(4 * MIB);
  // Where Node cannot take a permission back, the parser never has anything that was kept.
  if (dropsPermissions(process.versions.node)) expect(first.memory[1]! - second.memory[1]!).toBeLessThan(4 * MIB);
});
