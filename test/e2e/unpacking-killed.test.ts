/**
 * All processes of a mount are killed while it unpacks an archive. The next mount goes on with what is there, and serves the
 * right bytes.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { zstdCompressSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { description, tarMember } from '../../formats/xva/fixtures.ts';
import type { MountStatus } from '../../src/server/protocol.ts';
import { random } from '../kit/random.ts';
import { scratch } from '../kit/samples.ts';
import { runCli } from './run-cli.ts';

const able = process.getuid?.() === 0 && fs.existsSync('/dev/fuse');
const BLOCK = 2 ** 20;
/** What is unpacked is made certain each 64 MiB: the kill comes after the first time, long before the end. */
const BLOCKS = 256;
const UNIQUE = 512;
/** The block that is damaged in the archive once it is unpacked. */
const EARLY = 8;

let folder: string;
let repo: string;
let archive: string;
/** The place of that damage. */
let early = 0;
const rest = Buffer.alloc(BLOCK - UNIQUE);

/** What is certain at once in memory takes long on a disk, and the run would be over. */
const ample = (at: string): boolean => {
  try {
    const { bavail, bsize } = fs.statfsSync(at);
    return bavail * bsize > 3 * 2 ** 30;
  } catch {
    return false;
  }
};

const uniqueOf = (block: number): Buffer => Buffer.alloc(UNIQUE, `block ${block} `);

/** An archive in many frames of zstd, nearly all of which hold the same. */
function writeArchive(): void {
  const { below } = random(3);
  const noise = Buffer.from(Uint8Array.from({ length: 40_000 }, () => below(256)));
  rest.fill(noise);
  const common = zstdCompressSync(rest);
  const disks = [{ ref: 'Ref:7', device: '0', content: { length: BLOCKS * BLOCK } as Uint8Array }];
  const fd = fs.openSync(archive, 'w');
  fs.writeSync(fd, zstdCompressSync(tarMember('ova.xml', Buffer.from(description({ disks })))));
  const length = Buffer.alloc(BLOCK);
  for (let block = 0; block < BLOCKS; block++) {
    const head = tarMember(`Ref:7/${String(block).padStart(8, '0')}`, length).subarray(0, 512);
    fs.writeSync(fd, Buffer.concat([zstdCompressSync(Buffer.concat([head, uniqueOf(block)])), common]));
    if (block === EARLY) early = fs.fstatSync(fd).size - 100;
  }
  fs.writeSync(fd, zstdCompressSync(Buffer.alloc(1024)));
  fs.closeSync(fd);
}

beforeAll(() => {
  folder = ample('/dev/shm') ? fs.mkdtempSync('/dev/shm/bootmount-killed-') : fs.realpathSync(scratch());
  repo = path.join(folder, 'repo');
  archive = path.join(repo, 'vm.xva');
  fs.mkdirSync(repo);
  writeArchive();
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const state = (): string => path.join(folder, 'state');
const left = (): readonly string[] => {
  try {
    return fs.readdirSync(path.join(state(), 'unpacked'));
  } catch {
    return [];
  }
};
/** How much of a run was made certain. */
const certain = (name: string): number => Number(/\.(\d+)-\d+-\d+\.part$/.exec(name)?.[1] ?? 0);

async function mount(mnt: string): Promise<string> {
  const ran = await runCli(['mount', repo, mnt, '--state', state()]);
  expect(ran, ran.stderr).toMatchObject({ code: 0 });
  return path.join(mnt, 'backups', fs.readdirSync(path.join(mnt, 'backups'))[0]!, 'latest/disk0.raw');
}

/** Kills supervisor and worker as soon as a part of the archive is certain to be unpacked. */
async function killWhileUnpacking(mnt: string): Promise<void> {
  const file = await mount(mnt);
  const { stdout } = await runCli(['mount', '--status', mnt, '--json']);
  const { supervisor, worker } = JSON.parse(stdout) as MountStatus;
  const reading = spawn('cat', [file], { stdio: 'ignore' });
  const ended = once(reading, 'close');
  while (!left().some(name => certain(name) > 0) && reading.exitCode === null) await delay(2);
  for (const { pid } of [supervisor, worker]) process.kill(pid, 'SIGKILL');
  expect((await ended)[0]).not.toBe(0);
}

/** The archive as it was, but for one byte of what was unpacked already: whoever reads that again notices. */
function damageWhatIsUnpacked(): void {
  const { atime, mtime } = fs.statSync(archive);
  const fd = fs.openSync(archive, 'r+');
  const byte = Buffer.alloc(1);
  fs.readSync(fd, byte, 0, 1, early);
  fs.writeSync(fd, Buffer.of(byte[0]! ^ 0x40), 0, 1, early);
  fs.closeSync(fd);
  fs.utimesSync(archive, atime, mtime);
}

/** Blocks that are not as they were written; the number of the first one that could not be read. */
function wrongIn(file: string): { readonly wrong: readonly number[]; readonly failed: number | null } {
  const fd = fs.openSync(file, 'r');
  const wrong: number[] = [];
  const into = Buffer.alloc(BLOCK);
  let block = 0;
  try {
    for (; block < BLOCKS; block++) {
      fs.readSync(fd, into, 0, BLOCK, block * BLOCK);
      const same = into.subarray(0, UNIQUE).equals(uniqueOf(block)) && into.subarray(UNIQUE).equals(rest);
      if (!same) wrong.push(block);
    }
    return { wrong, failed: null };
  } catch {
    return { wrong, failed: block };
  } finally {
    fs.closeSync(fd);
  }
}

describe.skipIf(!able)('all processes of a mount are killed while it unpacks', () => {
  test('the next one goes on where it was, and serves the right bytes', async () => {
    // Whole seconds, which can be put back.
    fs.utimesSync(archive, new Date(1_780_000_000_000), new Date(1_780_000_000_000));
    const mnt = path.join(folder, 'mnt');
    fs.mkdirSync(mnt);
    await killWhileUnpacking(mnt);
    const [partial, ...others] = left();
    expect([others, certain(partial!)]).toEqual([
      [],
      expect.toSatisfy(n => n > (EARLY + 1) * BLOCK && n < (BLOCKS / 2) * BLOCK),
    ]);
    damageWhatIsUnpacked();
    const again = async (): Promise<ReturnType<typeof wrongIn>> => {
      try {
        return wrongIn(await mount(mnt));
      } finally {
        await runCli(['umount', mnt, '--release']);
      }
    };
    expect(await again()).toEqual({ wrong: [], failed: null });
    expect(left()).toEqual([expect.stringMatching(/\.unpacked$/)]);

    // Without what was left the archive is read from its start, damage and all; it has no checksums.
    fs.rmSync(path.join(state(), 'unpacked'), { recursive: true });
    expect(await again()).not.toEqual({ wrong: [], failed: null });
  });
});
