import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runCli } from '../../test/e2e/run-cli.ts';
import { scratch } from '../../test/kit/samples.ts';

let folder = '';
beforeAll(() => {
  folder = scratch();
  delete process.env.NODE_COMPILE_CACHE;
});
afterAll(() => {
  delete process.env.XDG_CACHE_HOME;
  fs.rmSync(folder, { recursive: true, force: true });
});

/** What a verb leaves in the cache at `base`. */
async function keptIn(base: string): Promise<readonly string[]> {
  process.env.XDG_CACHE_HOME = base;
  expect(await runCli(['--version'])).toMatchObject({ code: 0, stderr: '' });
  return fs.readdirSync(path.join(base, 'bootmount'));
}

test('the translated program is kept in a folder of the user', async () => {
  const base = path.join(folder, 'own');
  expect(await keptIn(base)).toHaveLength(1);
  expect(fs.statSync(path.join(base, 'bootmount')).mode & 0o777).toBe(0o700);
});

test('nothing is run from a folder that others can write to, or that a link leads to', async () => {
  const [open, linked] = [path.join(folder, 'open'), path.join(folder, 'linked')];
  fs.mkdirSync(path.join(open, 'bootmount'), { recursive: true });
  fs.chmodSync(path.join(open, 'bootmount'), 0o777);
  expect(await keptIn(open)).toEqual([]);
  fs.mkdirSync(path.join(folder, 'elsewhere'));
  fs.mkdirSync(linked);
  fs.symlinkSync(path.join(folder, 'elsewhere'), path.join(linked, 'bootmount'));
  expect(await keptIn(linked)).toEqual([]);
});
