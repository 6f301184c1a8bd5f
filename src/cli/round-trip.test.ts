/** Backup, list, verify, restore: as a user runs them, compared with what went in. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runCli } from '../../test/e2e/run-cli.ts';
import { pattern } from '../../test/kit/disks.ts';

const MIB = 2 ** 20;
let folder: string;
let repo: string;
let source: string;
let key: string;
const digests: string[] = [];

const sha = (file: string): string => createHash('sha256').update(fs.readFileSync(file)).digest('hex');
const at = (name: string): string => path.join(folder, name);

function change(offset: number, length: number, seed: number): void {
  const bytes = new Uint8Array(length);
  if (seed > 0) pattern(bytes, offset, seed);
  const fd = fs.openSync(source, 'r+');
  fs.writeSync(fd, bytes, 0, length, offset);
  fs.closeSync(fd);
}

const backup = (time: string, ...more: readonly string[]): ReturnType<typeof runCli> =>
  runCli(['backup', source, repo, '--set', 'web01', '--time', time, ...more]);

beforeAll(async () => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-trip-'));
  repo = at('repo');
  source = at('disk.raw');
  key = at('key');
  fs.writeFileSync(key, 'correct horse\n', { mode: 0o600 });
  fs.writeFileSync(source, new Uint8Array(0));
  // Not a multiple of the block size.
  fs.truncateSync(source, 24 * MIB + 1536);
  change(0, MIB, 1);
  change(7 * MIB + 100, 3 * MIB, 2);
  change(24 * MIB + 1000, 500, 3);
  digests.push(sha(source));
  const full = await backup('2026-11-01T00:00:00Z', '--encrypt', '--key-file', key, '--verify');
  expect(full).toMatchObject({ code: 0, stderr: '' });
  change(8 * MIB, 2 * MIB, 0);
  change(12 * MIB, 70_000, 4);
  digests.push(sha(source));
  expect(await backup('2026-11-02T00:00:00Z', '--key-file', key)).toMatchObject({ code: 0, stderr: '' });
  change(24 * MIB + 1535, 1, 5);
  digests.push(sha(source));
  expect(await backup('2026-11-03T00:00:00Z', '--key-file', key)).toMatchObject({ code: 0, stderr: '' });
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

describe('a set of a full and two incrementals', () => {
  test('is listed, locked without its key', async () => {
    const listed = async (...keys: readonly string[]): Promise<unknown> =>
      JSON.parse((await runCli(['ls', repo, '--json', ...keys])).stdout);
    const disks = [{ name: 'disk0', size: 24 * MIB + 1536, stored: expect.any(Number) }];
    const points = (state: string, reason?: object): object[] =>
      ['full', 'incremental', 'incremental'].map((type, i) => ({
        name: `2026-11-0${i + 1}T00-00-00Z`,
        time: `2026-11-0${i + 1}T00:00:00.000Z`,
        type,
        disks,
        state,
        ...reason,
      }));
    const set = { set: 'web01', adapter: 'bml', encrypted: true };
    expect(await listed('--key-file', key)).toEqual([{ ...set, points: points('ok') }]);
    expect(await listed()).toEqual([{ ...set, points: points('locked', { reason: expect.any(String) }) }]);
    expect(fs.readdirSync(path.join(repo, 'web01')).sort()).toEqual(
      [1, 2, 3].map(day => `2026-11-0${day}T00-00-00Z.bml`),
    );
  });

  test.each([
    ['web01@~2', 0],
    ['web01@2026-11-02T00-00-00Z', 1],
    ['web01', 2],
  ])('%s is restored as it was', async (point, number) => {
    const out = at(`restored-${number}.raw`);
    const ran = await runCli(['restore', point, out, '--repo', repo, '--key-file', key]);
    expect(ran).toMatchObject({ code: 0, stderr: '' });
    expect(sha(out)).toBe(digests[number]);
    expect(fs.statSync(out).blocks * 512).toBeLessThan(6 * MIB);
    expect(fs.statSync(out).mode & 0o777).toBe(0o600);
    expect(fs.readdirSync(folder).filter(name => name.includes('partial'))).toEqual([]);
  });

  test('info says what the files are', async () => {
    const files = fs.readdirSync(path.join(repo, 'web01')).map(name => path.join(repo, 'web01', name));
    const rows = JSON.parse((await runCli(['info', '--json', ...files])).stdout) as { adapter: string; role: string }[];
    expect(rows.map(({ adapter, role }) => [adapter, role])).toEqual([
      ['bml', 'full'],
      ['bml', 'incremental'],
      ['bml', 'incremental'],
    ]);
  });

  test('the key: none, a wrong one, by descriptor, by command, and one of several', async () => {
    const restore = (...keys: readonly string[]): ReturnType<typeof runCli> =>
      runCli(
        ['restore', 'web01', at('by-key.raw'), '--repo', repo, '--force', ...keys],
        keys[0] === '--key-fd' ? { fd3: 'correct horse' } : {},
      );
    const wrong = at('wrong');
    fs.writeFileSync(wrong, 'battery staple', { mode: 0o600 });
    expect((await restore()).code).toBe(5);
    expect((await restore('--key-file', wrong)).code).toBe(5);
    expect(fs.existsSync(at('by-key.raw'))).toBe(false);
    expect((await restore('--key-fd', '3')).code).toBe(0);
    expect((await restore('--key-command', `cat '${key}'`)).code).toBe(0);
    expect((await restore('--key-file', wrong, '--key-file', key)).code).toBe(0);
    expect(sha(at('by-key.raw'))).toBe(digests[2]);
  });

  test('a backup of it needs its key, and never becomes a plain one', async () => {
    const before = fs.readdirSync(path.join(repo, 'web01'));
    const wrong = at('wrong');
    fs.writeFileSync(wrong, 'battery staple', { mode: 0o600 });
    for (const type of ['auto', 'full', 'incremental']) {
      for (const keys of [[], ['--key-file', wrong]]) {
        const { code, stderr } = await backup('2026-12-01T00:00:00Z', '--type', type, ...keys);
        expect([type, keys.length, code]).toEqual([type, keys.length, 5]);
        expect(stderr).toMatch(/set web01 is encrypted/);
      }
    }
    expect((await backup('2026-11-03T00:00:00Z', '--key-file', key)).stderr).toMatch(/is not after/);
    expect((await backup('2026-12-01T00:00:00Z', '--key-file', key, '--block-size', '128K')).code).toBe(2);
    expect(fs.readdirSync(path.join(repo, 'web01'))).toEqual(before);
  });

  test('a file that exists is not overwritten, and never one of the backup', async () => {
    const out = at('mine');
    fs.writeFileSync(out, 'mine');
    const ran = await runCli(['restore', 'web01', out, '--repo', repo, '--key-file', key, '--json']);
    expect(ran.code).toBe(1);
    expect(JSON.parse(ran.stderr)).toMatchObject({ error: { fault: 'exists', file: out } });
    expect(fs.readFileSync(out, 'utf8')).toBe('mine');
    const own = path.join(repo, 'web01', '2026-11-01T00-00-00Z.bml');
    const digest = sha(own);
    expect((await runCli(['restore', 'web01', own, '--repo', repo, '--key-file', key, '--force'])).code).toBe(2);
    expect(sha(own)).toBe(digest);
    fs.symlinkSync(own, at('planted.partial'));
    expect((await runCli(['restore', 'web01', at('planted'), '--repo', repo, '--key-file', key])).code).toBe(1);
    expect(sha(own)).toBe(digest);
  });

  test('verify finds nothing, and then what was damaged', async () => {
    const verify = async (
      ...more: readonly string[]
    ): Promise<{ code: number | null; found: { problems: object[] } }> => {
      const { code, stdout } = await runCli(['verify', damaged, '--json', ...more]);
      return { code, found: JSON.parse(stdout) };
    };
    const damaged = at('damaged');
    fs.cpSync(repo, damaged, { recursive: true });
    expect(await verify()).toMatchObject({ code: 0, found: { problems: [] } });
    expect(await verify('--key-file', key)).toMatchObject({ code: 0, found: { problems: [] } });
    const file = path.join(damaged, 'web01', '2026-11-01T00-00-00Z.bml');
    const bytes = fs.readFileSync(file);
    bytes[Math.floor(bytes.length / 2)]! ^= 0x10;
    fs.writeFileSync(file, bytes);
    for (const keys of [[], ['--key-file', key]]) {
      const { code, found } = await verify(...keys);
      expect(code).toBe(5);
      expect(found.problems[0]).toMatchObject({ set: 'web01', file: 'web01/2026-11-01T00-00-00Z.bml' });
    }
    // A point whose file has lost even its first bytes is not among the points; it is missed all the same.
    const newest = fs.readdirSync(path.join(damaged, 'web01')).at(-1)!;
    for (const size of [0, 5]) {
      fs.truncateSync(path.join(damaged, 'web01', newest), size);
      const { code, found } = await verify();
      expect(code).toBe(5);
      expect(found.problems).toContainEqual(
        expect.objectContaining({ fault: 'not-this-format', file: `web01/${newest}` }),
      );
    }
    fs.rmSync(file);
    const gap = await verify('--key-file', key);
    expect(gap.code).toBe(5);
    expect(gap.found.problems).toContainEqual(expect.objectContaining({ fault: 'broken-chain' }));
  });
});

describe('restore in place', () => {
  const restore = (file: string, ...more: readonly string[]): ReturnType<typeof runCli> =>
    runCli(['restore', 'web01', file, '--repo', repo, '--key-file', key, '--in-place', ...more]);

  test('writes what differs, whatever the length was; refuses containers, links to the backup, and --force', async () => {
    const out = at('there.raw');
    expect((await restore(out)).code).toBe(3);
    fs.copyFileSync(source, out);
    const fd = fs.openSync(out, 'r+');
    fs.writeSync(fd, Buffer.alloc(5000, 1), 0, 5000, 2 * MIB);
    fs.closeSync(fd);
    fs.truncateSync(out, 30 * MIB);
    const { inode, ...ran } = { ...(await restore(out, '--json')), inode: fs.statSync(out).ino };
    expect(JSON.parse(ran.stdout)).toMatchObject({ inPlace: true, written: 8192 });
    expect([sha(out), fs.statSync(out).ino]).toEqual([digests[2], inode]);
    expect((await restore(out, '--force')).code).toBe(2);
    const own = path.join(repo, 'web01', '2026-11-01T00-00-00Z.bml');
    const digest = sha(own);
    fs.linkSync(own, at('second-name'));
    fs.symlinkSync(own, at('link'));
    for (const name of ['second-name', 'link']) {
      const refused = await restore(at(name), '--format', 'raw');
      expect([refused.code, refused.stderr]).toEqual([2, expect.stringContaining('file of the backup itself')]);
    }
    expect((await restore(at('link'))).stderr).toContain('looks like a bml file');
    fs.rmSync(at('second-name'));
    expect(sha(own)).toBe(digest);
  });
});

describe('sets and sources', () => {
  test('a plain set stays plain; qcow2 and foreign sets', async () => {
    const plain = (time: string, ...more: readonly string[]): ReturnType<typeof runCli> =>
      runCli(['backup', source, at('plain'), '--set', 'p', '--time', time, '--json', ...more]);
    const first = await plain('2026-11-01T00:00:00Z', '--block-size', '4K', '--compression', '0');
    expect(JSON.parse(first.stdout)).toMatchObject({ type: 'full', file: 'p/2026-11-01T00-00-00Z.bml' });
    expect((await plain('2026-11-02T00:00:00Z', '--encrypt', '--key-file', key)).code).toBe(2);
    const second = await plain('2026-11-01T00:00:00.500Z');
    expect(JSON.parse(second.stdout)).toMatchObject({
      type: 'incremental',
      changed: 0,
      file: 'p/2026-11-01T00-00-00Z-2.bml',
    });
    expect((await runCli(['backup', source, at('new'), '--set', 'n', '--type', 'incremental'])).code).toBe(2);
    const foreign = at('foreign');
    fs.mkdirSync(path.join(foreign, 'vm'), { recursive: true });
    fs.copyFileSync(source, path.join(foreign, 'vm', 'disk.raw'));
    const { code, stderr } = await runCli(['backup', source, foreign, '--set', 'vm']);
    expect([code, stderr]).toEqual([2, expect.stringMatching(/vm is a set of raw images/)]);
  });

  test('a differential is made on the newest full, whatever came between', async () => {
    const target = at('differential');
    const run = (day: number, type: string): ReturnType<typeof runCli> =>
      runCli(['backup', source, target, '--set', 's', '--time', `2026-05-0${day}T00:00:00Z`, '--type', type, '--json']);
    expect(await run(1, 'differential')).toMatchObject({ code: 2, stderr: expect.stringContaining('full') });
    for (const [i, type] of ['full', 'incremental', 'differential'].entries()) {
      expect(JSON.parse((await run(i + 1, type)).stdout)).toMatchObject({ type });
    }
    const set = path.join(target, 's');
    fs.rmSync(path.join(set, fs.readdirSync(set).sort()[1]!));
    const [listed] = JSON.parse((await runCli(['ls', target, '--json'])).stdout) as {
      points: { type: string; state: string }[];
    }[];
    expect(listed!.points.map(({ type, state }) => [type, state])).toEqual([
      ['full', 'ok'],
      ['differential', 'ok'],
    ]);
  });

  test('a clone is read by the formats that it declares', async () => {
    const clone = at('clone');
    fs.mkdirSync(clone);
    fs.copyFileSync(source, path.join(clone, 'disk0.raw'));
    // What the guest writes to its first sector must not make it another format.
    const fd = fs.openSync(path.join(clone, 'disk0.raw'), 'r+');
    fs.writeSync(fd, Uint8Array.of(0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3), 0, 8, 0);
    fs.closeSync(fd);
    fs.copyFileSync(source, path.join(clone, 'disk1.raw'));
    const disks = ['disk0', 'disk1'].map(name => ({ name, file: `${name}.raw`, format: 'raw' }));
    fs.writeFileSync(path.join(clone, 'clone.json'), JSON.stringify({ disks }));
    expect(await runCli(['backup', clone, at('clones'), '--set', 'c'])).toMatchObject({ code: 0, stderr: '' });
    for (const { name, file } of disks) {
      const out = at(`${name}-out.raw`);
      await runCli(['restore', 'c', out, '--repo', at('clones'), '--disk', name]);
      expect(sha(out)).toBe(sha(path.join(clone, file)));
    }
    const which = await runCli(['restore', 'c', at('which.raw'), '--repo', at('clones')]);
    expect([which.code, which.stderr]).toEqual([2, expect.stringContaining('--disk disk0 | disk1')]);
    fs.writeFileSync(
      path.join(clone, 'clone.json'),
      JSON.stringify({ disks: [{ name: 'disk0', file: '../disk.raw', format: 'raw' }] }),
    );
    expect((await runCli(['backup', clone, at('clones'), '--set', 'd'])).code).toBe(5);
  });
});

describe('Ctrl-C', () => {
  const SIZE = 192 * MIB;
  const big = (): string => {
    const file = at('big.raw');
    const bytes = new Uint8Array(MIB);
    const fd = fs.openSync(file, 'w');
    for (let n = 0; n < SIZE / MIB; n++) {
      pattern(bytes, n * MIB, n);
      fs.writeSync(fd, bytes);
    }
    fs.closeSync(fd);
    return file;
  };
  /** Sends the signal as soon as the file is there and has some length. */
  const interrupt = (args: readonly string[], seen: () => string | undefined): ReturnType<typeof runCli> =>
    runCli(args, {
      started(child) {
        const timer = setInterval(() => {
          const file = seen();
          if (file === undefined || fs.statSync(file, { throwIfNoEntry: false })?.size === 0) return;
          clearInterval(timer);
          child.kill('SIGINT');
        }, 5);
        child.on('close', () => clearInterval(timer));
      },
    });

  test('a backup that was killed is no backup, and the next one goes on with it', async () => {
    const target = at('killed');
    const set = path.join(target, 's');
    const names = (): string[] => (fs.existsSync(set) ? fs.readdirSync(set) : []);
    const ran = await runCli(['backup', big(), target, '--set', 's'], {
      started(child) {
        const timer = setInterval(() => {
          const [partial] = names();
          if (partial === undefined || fs.statSync(path.join(set, partial)).size < 2 * MIB) return;
          clearInterval(timer);
          child.kill('SIGKILL');
        }, 5);
        child.on('close', () => clearInterval(timer));
      },
    });
    expect(ran.code).toBeNull();
    expect(names()).toEqual([expect.stringMatching(/^.*\.bml\.w-.*\.partial$/)]);
    expect(JSON.parse((await runCli(['ls', target, '--json'])).stdout)).toEqual([]);
    const next = await runCli(['backup', source, target, '--set', 's', '--verify']);
    expect(next).toMatchObject({ code: 0, stderr: expect.stringContaining('an interrupted backup is continued') });
    expect(names()).toEqual([expect.stringMatching(/^[^.]*\.bml$/)]);
  });

  test('a backup leaves nothing; a restore continues', async () => {
    const file = big();
    const target = at('stopped');
    const inSet = (): string | undefined => {
      const set = path.join(target, 's');
      const name = fs.existsSync(set) ? fs.readdirSync(set)[0] : undefined;
      return name === undefined ? undefined : path.join(set, name);
    };
    const stopped = await interrupt(['backup', file, target, '--set', 's'], inSet);
    expect([stopped.code, stopped.stderr]).toEqual([130, 'bootmount: backup: stopped by SIGINT\n']);
    expect(inSet()).toBeUndefined();

    expect((await runCli(['backup', file, target, '--set', 's', '--compression', '0'])).code).toBe(0);
    const out = at('continued.raw');
    const journal = `${out}.partial.json`;
    const half = await interrupt(['restore', 's', out, '--repo', target], () =>
      fs.existsSync(journal) && fs.statSync(`${out}.partial`).blocks > 32_000 ? journal : undefined,
    );
    expect(half.code).toBe(130);
    expect(fs.existsSync(out)).toBe(false);
    const { done } = JSON.parse(fs.readFileSync(journal, 'utf8')) as { done: number };
    expect(done).toBeGreaterThan(0);
    const again = JSON.parse((await runCli(['restore', 's', out, '--repo', target, '--json'])).stdout);
    expect(again).toMatchObject({ resumedAt: done });
    expect(sha(out)).toBe(sha(file));
    expect(fs.existsSync(journal)).toBe(false);
  });
});
