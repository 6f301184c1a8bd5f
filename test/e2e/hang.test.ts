/**
 * A worker that hangs is replaced, and whoever waits for it gets the right bytes; a slow disk is waited for. What workers
 * crash of is answered with an error.
 */
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as after } from 'node:timers/promises';
import { afterAll, describe, expect, test } from 'vitest';
import { releaseMountpoint } from '../../src/server/guard.ts';
import { runPaths } from '../../src/server/paths.ts';
import type { MountStatus } from '../../src/server/protocol.ts';
import { runCli } from './run-cli.ts';

const cannot = process.getuid?.() === 0 && fs.existsSync('/dev/fuse') ? '' : 'needs root and /dev/fuse';
const folder = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-hang-')));
const place = (...names: string[]): string => path.join(folder, ...names);
afterAll(() => fs.rmSync(folder, { recursive: true }));

const UNIT = 65536;
const UNITS = 64;
/** The units before this one are read together. */
const ASKED = 5;

/** The unit whose unpacking ends the worker, and what that and the others take while it does so, in ms. */
const BAD = 3;
const CRASH_MS = 250;
const OTHERS_MS = 300;

/** Disks that hang or crash as files beside this module say; unit n is full of n. The file is removed first, if it may. */
const ADAPTER = `
import fs from 'node:fs';
const once = name => {
  const file = new URL(name, import.meta.url);
  if (!fs.existsSync(file)) return false;
  if (fs.readFileSync(file, 'utf8') !== 'always') fs.rmSync(file);
  return true;
};
if (fs.existsSync(new URL('sick', import.meta.url))) setTimeout(() => { throw new Error('planted sickness'); }, 700);
const layer = {
  id: 'hang', size: ${UNITS * UNIT}, blockSize: ${UNIT},
  locate(at, limit) {
    if (once('spin')) for (;;);
    const within = at % ${UNIT};
    return { kind: 'packed', unit: Math.floor(at / ${UNIT}), within, length: Math.min(limit, ${UNIT} - within) };
  },
  load: async () => {},
  async unpack(unit, into) {
    if (unit >= ${ASKED}) fs.appendFileSync(new URL('ahead', import.meta.url), process.pid + ' ');
    if (once('slow')) await new Promise(resolve => setTimeout(resolve, 14_000));
    if (unit === ${BAD} && once('crash'))
      await new Promise(() => setTimeout(() => { throw new Error('planted crash'); }, ${CRASH_MS}));
    if (once('tired')) await new Promise(resolve => setTimeout(resolve, ${OTHERS_MS}));
    into.fill(unit);
  },
};
const disk = { name: 'disk0', size: layer.size, sectorSize: 512, stored: 0, layer };
const point = { id: 'hang', parent: null, set: 'hang', time: null, type: 'full', disks: [disk], identity: 'hang', problem: null };
export const adapter = {
  name: 'hang', title: 'hangs', extensions: ['hang'],
  supports: { differencing: false, encryption: false, compression: false, write: false },
  probe: (head, tail, name) => (name.endsWith('.hang') ? 'certain' : 'no'),
  open: async name => ({
    adapter: 'hang', name, encrypted: false, points: [point], warnings: [], [Symbol.asyncDispose]: async () => {},
  }),
};
`;

interface At extends AsyncDisposable {
  readonly mnt: string;
  readonly disk: string;
  plant(name: 'spin' | 'slow' | 'crash' | 'tired' | 'sick', content: 'once' | 'always'): void;
  status(): Promise<MountStatus>;
  log(): string;
  /** How many workers decoded units that nobody had asked for. */
  ahead(): number;
}

let mounts = 0;
async function mounted(): Promise<At> {
  const own = place(`${++mounts}`);
  const [repo, mnt, adapter] = ['repo', 'mnt', 'adapter.mjs'].map(name => path.join(own, name)) as [
    string,
    string,
    string,
  ];
  for (const made of [repo, mnt]) fs.mkdirSync(made, { recursive: true });
  fs.writeFileSync(adapter, ADAPTER);
  fs.writeFileSync(path.join(repo, 'a.hang'), 'x');
  fs.writeFileSync(path.join(own, 'ahead'), '');
  const ran = await runCli([
    'mount',
    repo,
    mnt,
    '--adapter',
    adapter,
    '--state',
    path.join(own, 'state'),
    '--cache',
    '1M',
  ]);
  expect(ran, ran.stderr).toMatchObject({ code: 0 });
  const points = fs.readdirSync(path.join(mnt, 'backups/hang')).filter(name => name !== 'latest');
  const { log } = runPaths(mnt);
  return {
    mnt,
    disk: path.join(mnt, 'backups/hang', points[0]!, 'disk0.raw'),
    plant: (name, content) => fs.writeFileSync(path.join(own, name), content),
    status: async () => JSON.parse((await runCli(['mount', '--status', mnt, '--json'])).stdout) as MountStatus,
    log: () => fs.readFileSync(log, 'utf8'),
    ahead: () => new Set(fs.readFileSync(path.join(own, 'ahead'), 'utf8').trim().split(' ').filter(Boolean)).size,
    async [Symbol.asyncDispose]() {
      const ended = await runCli(['umount', mnt, '--release']);
      expect(ended, ended.stderr).toMatchObject({ code: 0 });
    },
  };
}

/** Reads every unit past the caches, in a process of its own: how long it took in ms, or the error. */
function readAll(file: string): Promise<{ readonly ms: number; readonly error: string }> {
  const program = `
import os, mmap, sys
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT); page = mmap.mmap(-1, ${UNIT})
for n in range(${UNITS}):
    assert os.preadv(fd, [page], n * ${UNIT}) == ${UNIT} and page[:] == bytes([n]) * ${UNIT}, n`;
  const began = performance.now();
  const child = spawn('python3', ['-c', program, file], { stdio: ['ignore', 'ignore', 'pipe'] });
  let error = '';
  child.stderr.setEncoding('utf8').on('data', part => {
    error += part;
  });
  return new Promise(resolve => child.once('close', () => resolve({ ms: performance.now() - began, error })));
}

/** Reads the first units all at once; answers what each read gave, 'ok' or the error's number. */
function readTogether(file: string, units: number): Promise<readonly string[]> {
  const program = `
import os, mmap, sys
from concurrent.futures import ThreadPoolExecutor
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
def one(n):
    page = mmap.mmap(-1, ${UNIT})
    try:
        return 'ok' if os.preadv(fd, [page], n * ${UNIT}) == ${UNIT} and page[:] == bytes([n]) * ${UNIT} else 'wrong'
    except OSError as error:
        return str(error.errno)
with ThreadPoolExecutor(${units}) as pool:
    print(*pool.map(one, range(${units})))`;
  const child = spawn('python3', ['-c', program, file], { stdio: ['ignore', 'pipe', 'inherit'] });
  let told = '';
  child.stdout.setEncoding('utf8').on('data', part => {
    told += part;
  });
  return new Promise(resolve => child.once('close', () => resolve(told.trim().split(' '))));
}

describe.skipIf(cannot !== '').concurrent(`a crash${cannot === '' ? '' : ` (skipped: ${cannot})`}`, () => {
  const EIO = String(os.constants.errno.EIO);
  const all = (bad: string): readonly string[] => Array.from({ length: ASKED }, (_, n) => (n === BAD ? bad : 'ok'));

  test('that a request brings about each time ends with an error for it alone', async () => {
    await using at = await mounted();
    at.plant('crash', 'always');
    at.plant('tired', 'always');
    expect(await readTogether(at.disk, ASKED)).toEqual(all(EIO));
    const { restarts } = (await at.status()).worker;
    expect(restarts).toBe(3);
    // Those that knew what the ones before had died of did nothing that nobody had asked for.
    expect(at.ahead()).toBeLessThanOrEqual(2);
    expect(at.log()).toMatch(
      new RegExp(`answered with an I/O error: read /backups/hang/.*/disk0.raw, ${UNIT} bytes at ${BAD * UNIT}`),
    );
  }, 60_000);

  test('that happens once costs nobody anything', async () => {
    await using at = await mounted();
    at.plant('crash', 'once');
    at.plant('tired', 'always');
    expect(await readTogether(at.disk, ASKED)).toEqual(all('ok'));
    expect((await at.status()).worker).toMatchObject({ restarts: 1 });
  }, 60_000);

  test.skipIf(process.env.BOOTMOUNT_LONG === undefined)(
    'that no request is to blame for, again and again, ends the mount with errors (with BOOTMOUNT_LONG=1)',
    async ({ expect }) => {
      const at = await mounted();
      at.plant('sick', 'always');
      process.kill((await at.status()).worker.pid, 'SIGKILL');
      const reading = async (): Promise<string> => {
        for (;;) {
          const { error } = await readAll(at.disk);
          if (error !== '') return error;
        }
      };
      expect(await reading()).toMatch(/OSError|ConnectionAbortedError|NotConnected|No such file/);
      await expect.poll(() => fs.existsSync(runPaths(at.mnt).folder), { timeout: 10_000 }).toBe(false);
      releaseMountpoint(at.mnt);
    },
    400_000,
  );
});

describe.skipIf(cannot !== '').concurrent(`a hung worker${cannot === '' ? '' : ` (skipped: ${cannot})`}`, () => {
  test('that was stopped is killed and replaced', async () => {
    await using at = await mounted();
    const { worker } = await at.status();
    process.kill(worker.pid, 'SIGSTOP');
    expect((await readAll(at.disk)).error).toBe('');
    expect((await at.status()).worker).toMatchObject({ restarts: 1 });
    expect(() => process.kill(worker.pid, 0)).toThrow('ESRCH');
  }, 60_000);

  test('control: with nobody who watches, readers wait', async () => {
    await using at = await mounted();
    const { supervisor, worker } = await at.status();
    process.kill(supervisor.pid, 'SIGSTOP');
    process.kill(worker.pid, 'SIGSTOP');
    const reading = readAll(at.disk);
    expect(await Promise.race([reading, after(13_000, 'still waits')])).toBe('still waits');
    process.kill(worker.pid, 'SIGCONT');
    process.kill(supervisor.pid, 'SIGCONT');
    expect((await reading).error).toBe('');
    expect((await at.status()).worker).toMatchObject({ restarts: 0 });
  }, 60_000);

  test('that spins is killed and replaced', async () => {
    await using at = await mounted();
    expect((await readAll(at.disk)).error).toBe('');
    at.plant('spin', 'once');
    const { ms, error } = await readAll(at.disk);
    expect(error).toBe('');
    expect(ms).toBeGreaterThan(8000);
    expect((await at.status()).worker).toMatchObject({ restarts: 1 });
    expect(at.log()).toMatch(/hangs while requests wait/);
  }, 60_000);

  test('is not one that waits long for its backups', async () => {
    await using at = await mounted();
    at.plant('slow', 'once');
    const { ms, error } = await readAll(at.disk);
    expect(error).toBe('');
    expect(ms).toBeGreaterThan(13_000);
    expect((await at.status()).worker).toMatchObject({ restarts: 0 });
  }, 60_000);

  test.skipIf(process.env.BOOTMOUNT_LONG === undefined)(
    'that hangs again and again is given up: callers get an error (with BOOTMOUNT_LONG=1)',
    async ({ expect }) => {
      const at = await mounted();
      at.plant('spin', 'always');
      expect((await readAll(at.disk)).error).toMatch(/OSError|ConnectionAbortedError/);
      await expect.poll(() => fs.existsSync(runPaths(at.mnt).folder), { timeout: 10_000 }).toBe(false);
      releaseMountpoint(at.mnt);
    },
    120_000,
  );
});
