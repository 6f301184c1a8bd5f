/** Consolidation and retention as a user runs them, on a machine that has no key. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { recordsOf } from '../../formats/bml/raw-records.ts';
import { runCli } from '../../test/e2e/run-cli.ts';
import { pattern } from '../../test/kit/disks.ts';
import type { Keyring } from '../base/contracts.ts';
import { timeName } from '../chain/names.ts';
import { openRepository } from '../chain/repository.ts';
import { adapters } from '../registry.ts';
import { localStore, localWritableStore } from '../stores/local.ts';

const SECRET = new TextEncoder().encode('correct horse');
const BLOCK = 65_536;
const BLOCKS = 200;
const POINTS = 10;
let folder: string;
let base: string;
let key: string;
const digests = new Map<string, string>();

const nameOf = (day: number): string => timeName(new Date(Date.UTC(2026, 0, day + 1)));
const ring: Keyring = { secrets: async () => [SECRET] };

/** Ten points, each with changes at some of the places where the one before has them. */
async function makeChain(): Promise<void> {
  const adapter = adapters.find(one => one.create !== undefined)!;
  const store = localWritableStore(base);
  for (let day = 0; day < POINTS; day++) {
    const file = `web01/${nameOf(day)}.bml`;
    await using parent = day === 0 ? null : await adapter.open(`web01/${nameOf(day - 1)}.bml`, localStore(base), ring);
    await using writer = await adapter.create!(file, store, {
      set: 'web01',
      time: new Date(Date.UTC(2026, 0, day + 1)),
      type: day === 0 ? 'full' : 'incremental',
      disks: [{ name: 'disk0', size: BLOCK * BLOCKS, sectorSize: 512 }],
      blockSize: BLOCK,
      parent: parent === null ? null : { image: parent, point: parent.points[0]! },
      secret: SECRET,
      compression: 1,
    });
    const data = new Uint8Array(BLOCK);
    for (let n = 0; n < (day === 0 ? 60 : 8); n++) {
      pattern(data, n * BLOCK, day * 100 + n + 1);
      await writer.write(0, (n * 11 + (day % 3) * 5) % BLOCKS, n % 6 === 5 ? 'zero' : data);
    }
    await writer.commit();
  }
  for (const [name, digest] of await digestsOf(base)) digests.set(name, digest);
}

/** SHA-256 of each point's disk, by its name. */
async function digestsOf(repo: string): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  await using repository = await openRepository(localStore(repo), adapters, ring);
  for (const point of repository.sets[0]!.points) {
    await using disk = await point.openDisk(0);
    const all = new Uint8Array(disk.size);
    await disk.read(all, 0);
    found.set(point.name, createHash('sha256').update(all).digest('hex'));
  }
  return found;
}

async function expectPoints(repo: string, days: readonly number[]): Promise<void> {
  const found = await digestsOf(repo);
  expect([...found.keys()]).toEqual(days.map(nameOf));
  for (const [name, digest] of found) expect([name, digest]).toEqual([name, digests.get(name)]);
}

const fresh = (name: string): string => {
  const repo = path.join(folder, name);
  fs.cpSync(base, repo, { recursive: true });
  return repo;
};

const consolidate = (repo: string, from: string, to: string, ...more: readonly string[]): ReturnType<typeof runCli> =>
  runCli([
    'consolidate',
    repo,
    '--set',
    'web01',
    '--from',
    from,
    '--to',
    to,
    '--state',
    path.join(repo, '..', 'state'),
    ...more,
  ]);

beforeAll(async () => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-consolidate-'));
  base = path.join(folder, 'base');
  key = path.join(folder, 'key');
  fs.writeFileSync(key, SECRET, { mode: 0o600 });
  await makeChain();
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

/** Stored bytes of the newest record of each position, over all files of the set. */
function unionOf(repo: string): number {
  const newest = new Map<number, number>();
  for (const name of fs.readdirSync(path.join(repo, 'web01')).sort()) {
    const bytes = fs.readFileSync(path.join(repo, 'web01', name));
    for (const { kind, at, padded } of recordsOf(bytes))
      if (kind === 1) newest.set(bytes.readUInt32LE(at + 16), padded);
  }
  return [...newest.values()].reduce((sum, length) => sum + length, 0);
}

describe('consolidate', () => {
  test('without the key: one file, the others gone and named, every point that stays as it was', async () => {
    const repo = fresh('inner');
    const ran = await consolidate(repo, nameOf(2), nameOf(7), '--json');
    expect(ran.code).toBe(0);
    const gone = [2, 3, 4, 5, 6].map(nameOf);
    expect(JSON.parse(ran.stdout)).toMatchObject({ set: 'web01', point: nameOf(7), gone, built: true });
    expect(ran.stderr).toContain(`web01@${nameOf(7)} stays; these points go: ${gone.join(', ')}`);
    expect(fs.readdirSync(path.join(repo, 'web01'))).toEqual([0, 1, 7, 8, 9].map(day => `${nameOf(day)}.bml`));
    await expectPoints(repo, [0, 1, 7, 8, 9]);
    const again = await consolidate(repo, nameOf(2), nameOf(7));
    expect([again.code, again.stdout]).toEqual([0, expect.stringContaining('nothing was left to do')]);
    const listed = JSON.parse((await runCli(['ls', repo, '--json'])).stdout) as {
      points: { type: string; disks: { stored: number }[] }[];
    }[];
    expect(listed[0]!.points.map(point => point.type)).toEqual(['full', ...Array(4).fill('incremental')]);
    // What the file holds, and not only what the newest of its layers brought.
    const held = fs.statSync(path.join(repo, 'web01', `${nameOf(7)}.bml`)).size;
    expect(held - listed[0]!.points[2]!.disks[0]!.stored).toBeLessThan(0.1 * held);
    expect((await consolidate(repo, '~4', '~2')).code).toBe(0);
    await expectPoints(repo, [7, 8, 9]);
    const verified = await runCli(['verify', repo, '--key-file', key]);
    expect([verified.code, verified.stdout]).toEqual([0, expect.stringContaining('no problems')]);
  });

  test('refuses a key, an unknown point, the wrong order, and a point with a clone', async () => {
    const repo = fresh('refused');
    expect(await consolidate(repo, '~3', '~1', '--key-file', key)).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('takes no key and needs none'),
    });
    expect((await consolidate(repo, 'nothing', '~1')).code).toBe(3);
    expect(await consolidate(repo, '~1', '~3')).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('does not build on'),
    });
    const clone = path.join(folder, 'state', 'clones', 'test');
    fs.mkdirSync(clone, { recursive: true });
    const record = { version: 1, name: 'test', set: 'web01', point: nameOf(3), identity: 'x' };
    fs.writeFileSync(path.join(clone, 'clone.json'), JSON.stringify(record));
    const pinned = await consolidate(repo, nameOf(2), nameOf(5));
    expect([pinned.code, pinned.stderr]).toEqual([
      2,
      expect.stringContaining(`clone test was made of web01@${nameOf(3)}`),
    ]);
    fs.writeFileSync(path.join(clone, 'clone.json'), '{');
    expect((await consolidate(repo, nameOf(2), nameOf(5))).code).toBe(5);
    fs.rmSync(path.join(folder, 'state'), { recursive: true });
    await expectPoints(repo, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  test('a flipped bit in a stored record is found without the key: exit 5, nothing changed', async () => {
    const repo = fresh('flipped');
    const file = path.join(repo, 'web01', `${nameOf(4)}.bml`);
    const bytes = fs.readFileSync(file);
    bytes[65_536 + 128 + 5000]! ^= 2;
    fs.writeFileSync(file, bytes);
    const before = fs.readdirSync(path.join(repo, 'web01'));
    expect(await consolidate(repo, nameOf(4), nameOf(5))).toMatchObject({
      code: 5,
      stderr: expect.stringMatching(/checksum/),
    });
    expect(fs.readdirSync(path.join(repo, 'web01'))).toEqual(before);
  });

  test('killed at any time: a set that is whole, and the next run completes it', async () => {
    let killed = 0;
    for (const after of [0, 5, 20, 60]) {
      const repo = fresh(`killed-${after}`);
      const { code } = await runCli(['consolidate', repo, '--set', 'web01', '--from', nameOf(1), '--to', nameOf(8)], {
        started(child) {
          const timer = setInterval(() => {
            if (!fs.readdirSync(path.join(repo, 'web01')).some(name => name.endsWith('.partial'))) return;
            clearInterval(timer);
            setTimeout(() => child.kill('SIGKILL'), after);
          }, 1);
          child.on('close', () => clearInterval(timer));
        },
      });
      if (code === null) killed++;
      for (const [name, digest] of await digestsOf(repo)) expect([name, digest]).toEqual([name, digests.get(name)]);
      expect((await consolidate(repo, nameOf(1), nameOf(8))).code).toBe(0);
      await expectPoints(repo, [0, 8, 9]);
      expect(fs.readdirSync(path.join(repo, 'web01'))).toHaveLength(3);
    }
    expect(killed).toBeGreaterThan(1);
  });

  test('stopped after any of the removals: the next run completes it', async () => {
    const done = fresh('removals');
    expect((await consolidate(done, nameOf(1), nameOf(8))).code).toBe(0);
    for (const left of [7, 6, 4, 1]) {
      const repo = fresh(`removed-${left}`);
      for (let i = left + 1; i < 8; i++) fs.rmSync(path.join(repo, 'web01', `${nameOf(i)}.bml`));
      fs.copyFileSync(path.join(done, 'web01', `${nameOf(8)}.bml`), path.join(repo, 'web01', `${nameOf(8)}.bml`));
      const ran = await consolidate(repo, nameOf(1), nameOf(8));
      expect([left, ran.code, ran.stderr]).toEqual([left, 0, expect.anything()]);
      await expectPoints(repo, [0, 8, 9]);
    }
  });

  const able = process.getuid?.() === 0 && fs.existsSync('/dev/fuse');
  test.skipIf(!able)('while the tip is mounted: every read is right, before, meanwhile and afterwards', async () => {
    const repo = fresh('mounted');
    const mnt = path.join(folder, 'mnt');
    fs.mkdirSync(mnt);
    const whole = new Uint8Array(BLOCK * BLOCKS);
    {
      await using repository = await openRepository(localStore(repo), adapters, ring);
      await using disk = await repository.sets[0]!.points.at(-1)!.openDisk(0);
      await disk.read(whole, 0);
    }
    const mount = await runCli(['mount', repo, mnt, '--key-file', key, '--state', path.join(folder, 'mnt-state')]);
    expect([mount.code, mount.stderr]).toEqual([0, expect.anything()]);
    try {
      await using file = await fs.promises.open(path.join(mnt, 'backups', 'web01', nameOf(9), 'disk0.raw'));
      const part = new Uint8Array(BLOCK);
      const wrong: number[] = [];
      const check = async (block: number): Promise<void> => {
        const { bytesRead } = await file.read(part, 0, BLOCK, block * BLOCK);
        const expected = whole.subarray(block * BLOCK, (block + 1) * BLOCK);
        if (bytesRead !== BLOCK || Buffer.compare(part, expected) !== 0) wrong.push(block);
      };
      // Blocks that were not read before are looked for where the files are gone.
      for (let block = 0; block < BLOCKS / 4; block++) await check(block);
      let ran: Awaited<ReturnType<typeof runCli>> | null = null;
      const running = consolidate(repo, nameOf(0), nameOf(9)).then(result => {
        ran = result;
      });
      let reads = 0;
      for (; ran === null; reads++) await check((reads * 7) % (BLOCKS / 2));
      await running;
      expect(ran).toMatchObject({ code: 0 });
      expect(fs.readdirSync(path.join(repo, 'web01'))).toEqual([`${nameOf(9)}.bml`]);
      for (let block = 0; block < BLOCKS; block++) await check(block);
      expect(wrong).toEqual([]);
      expect(reads).toBeGreaterThan(10);
    } finally {
      expect((await runCli(['umount', mnt, '--release'])).code).toBe(0);
    }
  });

  test('system calls: no key is opened, little more than the union is written', async context => {
    if (spawnSync('strace', ['-V']).error !== undefined) return context.skip('strace is not installed');
    const repo = fresh('traced');
    const trace = path.join(folder, 'trace');
    const program = path.resolve(import.meta.dirname, 'bootmount.js');
    const args = ['consolidate', repo, '--set', 'web01', '--from', nameOf(0), '--to', nameOf(9), '--json'];
    const union = unionOf(repo);
    fs.renameSync(key, `${key}.away`);
    const calls = 'trace=openat,open,write,pwrite64,pwritev';
    const ran = spawnSync('strace', ['-f', '-e', calls, '-o', trace, process.execPath, program, ...args]);
    fs.renameSync(`${key}.away`, key);
    expect(ran.status).toBe(0);
    const lines = fs.readFileSync(trace, 'utf8').split('\n');
    expect(lines.some(line => line.includes(`"${key}"`))).toBe(false);
    const opened = lines.filter(line => line.includes(repo) && line.includes('.bml'));
    expect(opened.filter(line => /O_RDWR|O_WRONLY/.test(line)).every(line => line.includes('.partial'))).toBe(true);
    const written = lines
      .map(line => /pwrite64\((\d+), .* = (\d+)$/.exec(line))
      .reduce((sum, match) => sum + (match === null ? 0 : Number(match[2])), 0);
    const { size } = fs.statSync(path.join(repo, 'web01', `${nameOf(9)}.bml`));
    expect(written).toBeGreaterThanOrEqual(size);
    // One record for each position: what is not a record of data is a page of the index, a few nodes, and fixed pages.
    const index = Math.ceil(JSON.parse(ran.stdout.toString()).records / 85) * 4096;
    expect(size).toBeLessThan((union + index) * 1.01 + 65_536 + 4 * 4096);
    // The fixed pages are written twice: as zeros, then as what they are.
    expect(written).toBeLessThan(size * 1.01 + 2 * 65_536);
  });
});

describe('prune', () => {
  const prune = (repo: string, ...more: readonly string[]): ReturnType<typeof runCli> =>
    runCli(['prune', repo, '--set', 'web01', '--state', path.join(folder, 'no-state'), ...more]);

  test('says what it would do, does it only when told, and finds nothing more to do', async () => {
    const repo = fresh('pruned');
    expect((await prune(repo)).code).toBe(2);
    expect((await prune(repo, '--keep-last', '1', '--yes', '--dry-run')).code).toBe(2);
    const dry = await prune(repo, '--keep-last', '2', '--keep-weekly', '2', '--json');
    const decided = JSON.parse(dry.stdout) as {
      done: boolean;
      points: { point: string; keep: boolean; reason: string }[];
    };
    expect(decided.done).toBe(false);
    // 2026-01-04 was a Sunday: the last day of the week before that of the newest point.
    const kept = [3, 8, 9];
    expect(decided.points.filter(one => one.keep).map(one => one.point)).toEqual(kept.map(nameOf));
    expect(decided.points[0]!.reason).toBe(`no rule keeps it; consolidated into ${nameOf(3)}`);
    await expectPoints(repo, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    const done = await prune(repo, '--keep-last', '2', '--keep-weekly', '2', '--yes');
    expect(done.code).toBe(0);
    await expectPoints(repo, kept);
    const again = await prune(repo, '--keep-last', '2', '--keep-weekly', '2', '--yes');
    expect([again.code, again.stderr]).toEqual([0, expect.stringContaining('nothing to remove')]);
    const verified = await runCli(['verify', repo, '--key-file', key]);
    expect(verified.code).toBe(0);
  });
});
