/** A set of LUKS sectors as a user has it: backed up with the key, merged and exported on a machine without it. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runCli } from '../../test/e2e/run-cli.ts';
import { pattern } from '../../test/kit/disks.ts';
import { missing, run } from '../../test/kit/oracles.ts';

const BLOCK = 65_536;
let folder: string;
const at = (name: string): string => path.join(folder, name);
const unfit = missing(['qemu-img', 'cryptsetup', 'strace']);

beforeAll(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'luks-export-'));
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

/** Changes some blocks of the disk, and makes one of them zeros. */
function change(day: number, size: number): void {
  const data = new Uint8Array(BLOCK);
  const fd = fs.openSync(at('disk.raw'), day === 0 ? 'w' : 'r+');
  fs.ftruncateSync(fd, size);
  for (let n = 0; n < 10; n++) {
    pattern(data, n * BLOCK, day * 100 + n + 1);
    fs.writeSync(fd, n === 7 ? data.fill(0) : data, 0, BLOCK, ((n * 3 + day * 4) % 30) * BLOCK);
  }
  fs.closeSync(fd);
}

test.skipIf(unfit !== null)(
  'a chain is merged and becomes a LUKS image while its key is away',
  { timeout: 60_000 },
  async () => {
    const [repo, key, away] = [at('repo'), at('key'), at('key-that-was-moved-away')];
    fs.writeFileSync(key, 'correct horse', { mode: 0o600 });
    const secret = ['--key-file', key];
    const backup = (...more: readonly string[]) =>
      runCli(['backup', at('disk.raw'), repo, '--set', 'web', ...secret, ...more]);
    for (let day = 0; day < 3; day++) {
      change(day, (32 + (day > 0 ? 3 : 0)) * BLOCK + (day > 0 ? 512 : 0));
      const first = day === 0 ? ['--encrypt', '--cipher', 'aes-256-xts'] : [];
      const time = ['--time', `2026-11-0${day + 1}T00:00:00Z`];
      const made = await backup(...first, ...time, '--json');
      expect(made, `day ${day}`).toMatchObject({ code: 0 });
      // Zeros that are stored already are not stored again.
      if (day === 1) expect(JSON.parse(made.stdout)).toMatchObject({ type: 'incremental', changed: 9, zeroed: 0 });
    }
    expect(await backup('--cipher', 'aes-256-gcm')).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('encrypted with aes-256-xts'),
    });
    fs.renameSync(key, away);
    const merged = await runCli(['consolidate', repo, '--set', 'web', '--from', '~2', '--to', 'latest']);
    expect(merged).toMatchObject({ code: 0 });
    const [image, trace] = [at('out.luks'), at('trace')];
    const program = path.join(import.meta.dirname, 'bootmount.js');
    const args = ['restore', 'web@latest', image, '--repo', repo, '--no-decrypt', '--luks'];
    const traced = spawnSync('strace', [
      '-f',
      '-e',
      'trace=open,openat',
      '-o',
      trace,
      process.execPath,
      program,
      ...args,
    ]);
    expect(traced.stderr.toString()).toBe('');
    const opened = fs.readFileSync(trace, 'utf8').match(new RegExp(`${folder}/[^"]*`, 'g')) ?? [];
    const foreign = [...new Set(opened)].filter(file => !`${file}/`.startsWith(`${repo}/`) && !file.startsWith(image));
    expect(foreign).toEqual([]);
    const luks = `driver=luks,key-secret=sec0,file.driver=file,file.filename=${image}`;
    const qemu = ['compare', '--object', `secret,id=sec0,file=${away}`, '--image-opts', luks];
    const compared = await run('qemu-img', [...qemu, `driver=raw,file.driver=file,file.filename=${at('disk.raw')}`]);
    expect(compared).toMatchObject({ code: 0, out: 'Images are identical.\n' });
    expect((await run('cryptsetup', ['luksDump', image])).out).toMatch(/Cipher mode:\s+xts-plain64/);
    expect(await run('cryptsetup', ['open', '--test-passphrase', '--key-file', away, image])).toMatchObject({
      code: 0,
    });
    const plain = ['restore', 'web', at('plain.raw'), '--repo', repo, '--key-file', away];
    expect(await runCli(plain)).toMatchObject({ code: 0 });
    expect(Buffer.compare(fs.readFileSync(at('plain.raw')), fs.readFileSync(at('disk.raw')))).toBe(0);
  },
);

test('what makes no sense is refused in one line', { timeout: 60_000 }, async () => {
  const [repo, key] = [at('gcm'), at('gcm-key')];
  fs.writeFileSync(key, 'correct horse', { mode: 0o600 });
  change(0, 32 * BLOCK);
  const secret = ['--encrypt', '--key-file', key];
  expect(await runCli(['backup', at('disk.raw'), repo, '--set', 'g', ...secret])).toMatchObject({ code: 0 });
  const restore = (...more: readonly string[]) => runCli(['restore', 'g', at('g.luks'), '--repo', repo, ...more]);
  const cases: readonly (readonly [readonly string[], number, string])[] = [
    [['--no-decrypt', '--luks'], 1, 'encrypted with aes-256-gcm: only one that was made with --cipher aes-256-xts'],
    [['--luks'], 2, 'never decrypted'],
    [['--no-decrypt'], 2, 'needs a format that says so'],
    [['--no-decrypt', '--luks', '--key-file', key], 2, 'takes no key'],
    [['--no-decrypt', '--luks', '--format', 'raw'], 2, 'exclude each other'],
  ];
  for (const [more, code, message] of cases) {
    const found = await restore(...more);
    expect(found, more.join(' ')).toMatchObject({ code, stderr: expect.stringContaining(message) });
  }
  expect(fs.existsSync(at('g.luks'))).toBe(false);
  const bare = await runCli(['backup', at('disk.raw'), at('bare'), '--set', 'p', '--cipher', 'aes-256-xts']);
  expect(bare).toMatchObject({ code: 2, stderr: expect.stringContaining('--encrypt') });
});
