/** Keys of a set as a user changes them. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runCli } from '../../test/e2e/run-cli.ts';

let folder: string;
let repo: string;
const at = (name: string): string => path.join(folder, name);
const key = (...args: readonly string[]): ReturnType<typeof runCli> =>
  runCli([args[0]!, args[1]!, repo, '--set', 'web01', ...args.slice(2)]);
const opensWith = async (file: string): Promise<boolean> => {
  const ran = await runCli(['ls', repo, '--json', '--key-file', at(file)]);
  const [set] = JSON.parse(ran.stdout) as { points: { state: string }[] }[];
  return set!.points.every(point => point.state === 'ok');
};

beforeAll(async () => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-key-'));
  repo = at('repo');
  for (const name of ['a', 'b', 'c']) fs.writeFileSync(at(name), `secret ${name}\n`, { mode: 0o600 });
  fs.writeFileSync(at('disk.raw'), new Uint8Array(300_000).fill(7));
  const backup = ['backup', at('disk.raw'), repo, '--set', 'web01', '--key-file', at('a')];
  expect((await runCli([...backup, '--encrypt', '--time', '2026-01-01T00:00:00Z'])).code).toBe(0);
  expect((await runCli([...backup, '--time', '2026-01-02T00:00:00Z'])).code).toBe(0);
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

test('list, add, change, remove', async () => {
  const list = async (): Promise<{ id: string; label: string }[]> =>
    JSON.parse((await key('key', 'list', '--json')).stdout).groups[0].slots;
  const first = (await list())[0]!.id;
  const added = await key('key', 'add', '--key-file', at('a'), '--new-key-file', at('b'), '--label', 'office');
  expect([added.code, added.stdout]).toEqual([0, expect.stringContaining('2 of 2 files rewritten')]);
  expect(await opensWith('b')).toBe(true);
  expect((await key('key', 'change', '--key-file', at('b'), '--new-key-file', at('c'))).code).toBe(0);
  expect((await key('key', 'remove', '--key-file', at('c'))).code).toBe(2);
  expect((await key('key', 'remove', '--key-file', at('b'), '--slot', first.slice(0, 8))).code).toBe(5);
  const removed = await key('key', 'remove', '--key-file', at('c'), '--slot', first.slice(0, 8));
  expect([removed.code, removed.stderr]).toEqual([0, expect.stringContaining('made before can still be opened')]);
  expect([await opensWith('a'), await opensWith('c')]).toEqual([false, true]);
  const [last] = await list();
  const refused = await key('key', 'remove', '--key-file', at('c'), '--slot', last!.id);
  expect([refused.code, refused.stderr]).toEqual([2, expect.stringContaining('the last key is never removed')]);
});
