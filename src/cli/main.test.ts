import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runCli } from '../../test/e2e/run-cli.ts';
import { verbs } from './verbs.ts';

let folder: string;
beforeAll(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-main-'));
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const lines = (text: string): readonly string[] => text.split('\n').filter(line => line !== '');

describe('command line', () => {
  test.each([
    ['an unknown verb', ['frobnicate'], /bootmount: unknown (argument|command): frobnicate/],
    ['no verb', [], /bootmount: no verb given/],
    ['an unknown flag', ['ls', '/', '--frob'], /unknown argument: frob/],
    ['a missing argument', ['restore', 'web01'], /an argument is missing: bootmount restore <point> <file>/],
    ['one argument too many', ['ls', 'a', 'b', 'c'], /unknown argument: c/],
    ['a required flag', ['backup', 'a', 'b'], /Missing required argument: set/],
    ['a flag given twice', ['restore', 'a', 'b', '--repo', 'x', '--repo', 'y'], /--repo is given more than once/],
    ['a choice that is none', ['backup', 'a', 'b', '--set', 's', '--type', 'half'], /type/],
    ['a bad set name', ['backup', 'a', 'b', '--set', '../x'], /"..\/x" is no name for a set/],
    ['a bad block size', ['backup', 'a', 'b', '--set', 'x', '--block-size', '5000'], /power of two/],
    ['a bad time', ['backup', 'a', 'b', '--set', 'x', '--time', 'yesterday'], /no time/],
  ])('%s is a usage error: one line, a hint, exit 2', async (_name, args, message) => {
    const { code, stdout, stderr } = await runCli(args);
    expect(code).toBe(2);
    expect(stdout).toBe('');
    expect(stderr).toMatch(message);
    expect(lines(stderr).length).toBeLessThanOrEqual(2);
    expect(lines(stderr)[0]).toMatch(/^bootmount: /);
  });

  test('every verb has help with an example, and the list names them all', async () => {
    const all = await runCli(['--help']);
    expect(all.code).toBe(0);
    for (const name of Object.keys(verbs)) {
      expect(all.stdout).toContain(`bootmount ${name}`);
      const { code, stdout, stderr } = await runCli([name, '--help']);
      expect([code, stderr]).toEqual([0, '']);
      expect(stdout).toMatch(/Examples:\n {2}\S/);
    }
  });

  test('--version', async () => {
    const { stdout } = await runCli(['--version']);
    expect(stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  test('what is not there: exit 3, and with --json a document on stderr', async () => {
    const missing = path.join(folder, 'missing');
    for (const args of [
      ['ls', missing],
      ['info', missing],
      ['verify', missing],
      ['restore', 'a', 'b', '--repo', missing],
    ]) {
      const { code, stderr } = await runCli(args);
      expect([args[0], code]).toEqual([args[0], 3]);
      expect(stderr).toBe(`bootmount: ${args[0]}: no such file or directory (${missing})\n`);
    }
    const { code, stdout, stderr } = await runCli(['ls', missing, '--json']);
    expect([code, stdout]).toEqual([3, '']);
    expect(JSON.parse(stderr)).toEqual({
      error: { fault: 'not-found', message: 'no such file or directory', file: missing },
    });
  });

  test('no stack trace, unless it is asked for', async () => {
    const args = ['ls', path.join(folder, 'missing')];
    expect((await runCli(args)).stderr).not.toMatch(/\bat .*\.ts/);
    expect((await runCli([...args, '--verbose'])).stderr).toMatch(/\bat .*\.ts/);
  });

  test('names that drive a terminal are shown, not sent', async () => {
    const repo = path.join(folder, 'hostile');
    fs.mkdirSync(path.join(repo, 'set\x1b[2J\u202e'), { recursive: true });
    const disk = new Uint8Array(1024);
    disk.set([0x55, 0xaa], 510);
    fs.writeFileSync(path.join(repo, 'set\x1b[2J\u202e', 'a\nb\x07.raw'), disk);
    fs.writeFileSync(path.join(repo, 'junk\x1b]0;x\x07'), 'junk');
    for (const args of [['ls'], ['ls', '--json'], ['ls', '--verbose'], ['verify'], ['info']]) {
      const paths = args[0] === 'info' ? [path.join(repo, 'junk\x1b]0;x\x07')] : [repo];
      const { stdout, stderr } = await runCli([...args, ...paths]);
      for (const line of lines(stdout + stderr)) expect(line).toMatch(/^[\x20-\x7e]*$/);
      expect(stdout).toMatch(args[0] === 'verify' ? /no problems/ : /x1b|u001b/);
    }
    const { stderr } = await runCli(['ls', repo, 'no\x1b[31m']);
    expect(stderr).not.toContain('\x1b');
  });

  test('words after -- are no flags', async () => {
    fs.writeFileSync(path.join(folder, '--json'), 'x');
    const { code, stdout } = await runCli(['info', '--', '--json'], { cwd: folder });
    expect(code).toBe(3);
    expect(stdout).toMatch(/^FILE/);
  });

  test('a reader that goes away is no error', () => {
    const script = `"$0" "$1" completion bash | head -c 1 >"$2"; echo "\${PIPESTATUS[0]}"`;
    const program = path.resolve(import.meta.dirname, 'bootmount.js');
    const { stdout, stderr } = spawnSync('bash', ['-c', script, process.execPath, program, path.join(folder, 'one')], {
      encoding: 'utf8',
    });
    expect([stdout, stderr]).toEqual(['0\n', '']);
  });

  test('output that cannot be written is an error', () => {
    const program = path.resolve(import.meta.dirname, 'bootmount.js');
    const { status, stderr } = spawnSync('bash', ['-c', '"$0" "$1" --version >/dev/full', process.execPath, program], {
      encoding: 'utf8',
    });
    expect(status).toBe(1);
    expect(stderr).toMatch(/bootmount: .*the output cannot be written/);
  });
});

describe('doctor', () => {
  test('names every check, and how to get what is missing', async () => {
    const { code, stdout } = await runCli(['doctor', '--json']);
    const checks = JSON.parse(stdout) as { name: string; ok: boolean; essential: boolean; get?: string }[];
    expect(checks.map(({ name }) => name)).toEqual(expect.arrayContaining(['fuse device', 'kernel', 'QEMU', 'KVM']));
    for (const { ok, get } of checks) expect(get === undefined).toBe(ok);
    expect(code).toBe(checks.some(({ ok, essential }) => essential && !ok) ? 1 : 0);
  });
});

describe('completion', () => {
  const complete = async (...words: string[]): Promise<readonly string[]> => {
    const script = path.join(folder, 'completion.bash');
    fs.writeFileSync(script, (await runCli(['completion', 'bash'])).stdout);
    const command = `source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _bootmount; printf '%s\\n' "\${COMPREPLY[@]}"`;
    const { stdout, stderr } = spawnSync('bash', ['-c', command, script, 'bootmount', ...words], { encoding: 'utf8' });
    expect(stderr).toBe('');
    return lines(stdout);
  };

  test('bash: verbs, flags, values, and paths left to the shell', async () => {
    expect(await complete('re')).toEqual(['restore']);
    expect(await complete('')).toEqual(expect.arrayContaining(Object.keys(verbs)));
    expect(await complete('restore', '--f')).toEqual(['--format', '--force']);
    expect(await complete('restore', '--format', 'q')).toEqual(['qcow2']);
    expect(await complete('completion', 'z')).toEqual(['zsh']);
    expect(await complete('ls', '/sr')).toEqual([]);
  });

  test.each(['zsh', 'fish'])('%s: the shell accepts the script', async (shell: string) => {
    const { code, stdout } = await runCli(['completion', shell]);
    expect(code).toBe(0);
    for (const name of Object.keys(verbs)) expect(stdout).toContain(name);
    const { status, error, stderr } = spawnSync(shell, ['-n'], { input: stdout, encoding: 'utf8' });
    // Not installed: the words are all that can be looked at.
    if (error === undefined) expect([status, stderr]).toEqual([0, '']);
  });
});
