/** What docs/write-an-adapter.md shows, done as it says: an adapter outside the project is used and tested. */
import { execFile, execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Ran, runCli } from '../e2e/run-cli.ts';
import { fuseMissing } from './oracles.ts';
import { scratch } from './samples.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
const PAGE = fs.readFileSync(path.join(ROOT, 'docs/write-an-adapter.md'), 'utf8');
const MOST_LINES = 40;

/** The files that the page shows, by name, and its commands. */
const files = new Map(Array.from(PAGE.matchAll(/^```\w+ (\S+)\n(.*?)^```$/gms), ([, name, text]) => [name!, text!]));
const commands = /^```sh\n(.*?)^```$/ms.exec(PAGE)![1]!.trim().split('\n');

let folder = '';
const at = (name: string): string => path.join(folder, name);

beforeAll(() => {
  folder = scratch();
  for (const [name, text] of files) fs.writeFileSync(at(name), text);
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

async function shell(command: string): Promise<Ran> {
  const [program, ...args] = command.split(' ');
  if (program === 'bootmount') return runCli(args, { cwd: folder });
  execFileSync(program === 'node' ? process.execPath : program!, args, { cwd: folder });
  return { code: 0, stdout: '', stderr: '' };
}

test(`the adapter has at most ${MOST_LINES} lines`, () => {
  expect(files.get('acme.mjs')!.trim().split('\n').length).toBeLessThanOrEqual(MOST_LINES);
});

describe('used by --adapter', () => {
  test('every command of the page', async () => {
    expect(commands.length).toBeGreaterThan(5);
    for (const command of commands) {
      const { code, stdout, stderr } = await shell(command);
      expect(`${command}: ${code} ${stderr}`).toBe(`${command}: 0 `);
      if (command.startsWith('bootmount info')) expect(stdout).toMatch(/acme.*full.*256\.0 KiB/);
    }
  });

  test.skipIf(fuseMissing() !== null)('mounted', async () => {
    const [mount, state] = [at('mnt'), at('state')];
    fs.mkdirSync(mount);
    const args = ['mount', at('backups'), mount, '--state', state, '--adapter', at('acme.mjs')];
    expect(await runCli(args)).toMatchObject({ code: 0 });
    try {
      const shown = fs.readFileSync(path.join(mount, 'backups/web01/latest/disk0.raw'));
      expect(Buffer.compare(shown, fs.readFileSync(at('web01.raw')))).toBe(0);
    } finally {
      expect(await runCli(['umount', mount, '--release'])).toMatchObject({ code: 0 });
    }
  });

  test('without it nobody knows the format', async () => {
    expect(await runCli(['info', at('backups/web01.acme')])).toMatchObject({ code: 3 });
  });

  test.each([
    ['is missing', 'nowhere.mjs', 3, /nowhere\.mjs/],
    ['is no adapter', 'make.mjs', 1, /exports no adapter/],
    ['is no module', 'web01.raw', 1, /cannot be loaded/],
  ])('a module that %s', async (_, name, code, message) => {
    const ran = await runCli(['ls', at('backups'), '--adapter', name], { cwd: folder });
    expect(ran.code).toBe(code);
    expect(ran.stderr).toMatch(message);
    expect(ran.stderr.trim().split('\n').length).toBeLessThanOrEqual(2);
  });
});

test('tested with the kit of the package as it is published', async () => {
  const modules = at('node_modules');
  fs.mkdirSync(path.join(modules, 'bootmount'), { recursive: true });
  const packed = execFileSync('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', folder], {
    cwd: ROOT,
  });
  execFileSync('tar', [
    '-xzf',
    at(packed.toString().trim()),
    '-C',
    path.join(modules, 'bootmount'),
    '--strip-components=1',
  ]);
  fs.symlinkSync(path.join(ROOT, 'node_modules/vitest'), path.join(modules, 'vitest'));
  fs.writeFileSync(at('package.json'), '{ "type": "module" }');
  const vitest = path.join(ROOT, 'node_modules/vitest/vitest.mjs');
  const tests = async (): Promise<{ readonly numPassedTests: number; readonly numFailedTests: number }> => {
    const report = at('report.json');
    const args = [vitest, 'run', '--root', folder, '--reporter=json', `--outputFile=${report}`];
    const options = { cwd: folder, env: { PATH: process.env.PATH } };
    await new Promise(resolve => execFile(process.execPath, args, options, resolve));
    return JSON.parse(fs.readFileSync(report, 'utf8'));
  };
  const sound = await tests();
  expect(sound.numFailedTests).toBe(0);
  expect(sound.numPassedTests).toBeGreaterThanOrEqual(12);
  // The same adapter, but its blocks start a sector too early.
  const text = files.get('acme.mjs')!;
  fs.writeFileSync(at('acme.mjs'), text.replace('at: data + ', 'at: data - 512 + '));
  expect((await tests()).numFailedTests).toBeGreaterThan(2);
});
