/** No name inside an image leads out of the repository: the kernel itself is asked what was opened. */
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hostileNames } from '../kit/hostile-names.ts';
import { missing } from '../kit/oracles.ts';
import { scratch } from '../kit/samples.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
const PROGRAM = path.join(ROOT, 'src/cli/bootmount.js');
const CALLS = 'open,openat,openat2,creat,connect,execve';
/** What Node and the program read of themselves. */
const OWN = [
  ROOT,
  path.dirname(path.dirname(process.execPath)),
  '/usr/',
  '/lib',
  '/etc/ld.so',
  '/etc/ssl/',
  '/etc/localtime',
];
const SYSTEM =
  /^\/(dev\/(null|urandom|tty)|proc\/(self|meminfo|version_signature|cpuinfo|stat|\d+)(\/(maps|cgroup|stat|status|mountinfo))?|sys\/(fs\/cgroup|devices\/system\/cpu)\/.*)$/;

let folder = '';
let repo = '';
let outside = '';
let images: readonly string[] = [];

beforeAll(() => {
  if (missing(['strace', 'qemu-img']) !== null) return;
  folder = fs.realpathSync(scratch());
  [repo, outside] = [path.join(folder, 'repo'), path.join(folder, 'outside')];
  fs.mkdirSync(repo);
  images = hostileNames(repo, outside);
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

/** Every path that was opened, or tried, and every address, while the program ran. */
async function traced(
  program: string,
  args: readonly string[],
): Promise<{ code: number; told: string; opened: string[] }> {
  const log = path.join(folder, 'strace.log');
  // What is kept of the translated program lies in the user's home.
  const env = { ...process.env, NODE_DISABLE_COMPILE_CACHE: '1' };
  const strace = ['-f', '--seccomp-bpf', '-qq', '-s', '4096', '-e', `trace=${CALLS}`, '-o', log, program, ...args];
  const ran = await new Promise<{ code: number; told: string }>(resolve =>
    execFile('strace', strace, { cwd: repo, maxBuffer: 2 ** 26, env }, (error, out, err) =>
      resolve({ code: error === null ? 0 : Number(error.code), told: out + err }),
    ),
  );
  const lines = fs.readFileSync(log, 'utf8').split('\n');
  const opened = lines.flatMap(line => {
    const call = /^\d+ +(\w+)\((.*)$/.exec(line);
    if (call === null) return [];
    if (call[1] === 'connect') return /sa_family=AF_(INET|INET6|UNIX)/.test(call[2]!) ? [`connect ${call[2]}`] : [];
    const name = /"((?:[^"\\]|\\.)*)"/.exec(call[2]!)?.[1];
    return name === undefined ? [] : [path.resolve(repo, name)];
  });
  return { ...ran, opened };
}

const isOurs = (name: string): boolean =>
  name === repo || name.startsWith(`${repo}/`) || OWN.some(own => name.startsWith(own)) || SYSTEM.test(name);

describe.skipIf(missing(['strace', 'qemu-img']) !== null)('names inside images', () => {
  test('there are enough of them', () => expect(images.length).toBeGreaterThan(200));

  test.each([
    ['info', () => ['info', ...images.map(name => path.join(repo, name))]],
    ['ls', () => ['ls', repo]],
    ['verify', () => ['verify', repo]],
  ] as const)(
    '%s opens nothing outside',
    async (_, args) => {
      const { code, told, opened } = await traced(process.execPath, [PROGRAM, ...args()]);
      expect([0, 1, 3, 5]).toContain(code);
      expect(told).not.toMatch(/at .*\.ts:\d+/);
      expect(opened.filter(name => name.startsWith(repo)).length).toBeGreaterThan(100);
      expect(opened.filter(name => !isOurs(name))).toEqual([]);
    },
    240_000,
  );

  test('an opening outside would be seen', async () => {
    const { opened } = await traced('cat', ['link-to-folder/../outside/secret.raw', path.join(outside, 'secret.vhd')]);
    expect(opened.filter(name => !isOurs(name))).toContain(path.join(outside, 'secret.vhd'));
  });
});
