/** Backups of products on a real mount: their own checksums, their errors, their keys, what is compressed as a whole. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { zstdDecompressSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { missing } from '../kit/oracles.ts';
import { expectationOf, SAMPLES, sampleMissing, scratch } from '../kit/samples.ts';
import { runCli } from './run-cli.ts';

const PBS = 'pbs/datastore.tar.gz';
const DEMO = 'macrium/reflect-x/demo.zip';
const VMA = 'vma/generated/small.vma.zst';
const able = process.getuid?.() === 0 && fs.existsSync('/dev/fuse');

let folder: string;
beforeAll(() => {
  folder = fs.realpathSync(scratch());
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const made = (name: string): string => {
  const at = path.join(folder, name);
  fs.mkdirSync(at, { recursive: true });
  return at;
};
const keyFile = (name: string, key: string): string => {
  const file = path.join(folder, name);
  fs.writeFileSync(file, key, { mode: 0o600 });
  return file;
};

interface At extends AsyncDisposable {
  readonly backups: string;
  readonly told: string;
}
async function mounted(repo: string, ...args: string[]): Promise<At> {
  const mnt = fs.mkdtempSync(path.join(folder, 'mnt-'));
  const ran = await runCli(['mount', repo, mnt, '--state', path.join(folder, 'state'), ...args]);
  expect(ran, ran.stderr).toMatchObject({ code: 0 });
  return {
    backups: path.join(mnt, 'backups'),
    told: ran.stderr,
    async [Symbol.asyncDispose]() {
      const ended = await runCli(['umount', mnt, '--release']);
      expect(ended, ended.stderr).toMatchObject({ code: 0 });
    },
  };
}

function read(file: string, at: number, length: number): Buffer {
  const out = Buffer.alloc(length);
  const fd = fs.openSync(file, 'r');
  try {
    for (let done = 0; done < length; ) {
      const n = fs.readSync(fd, out, done, length - done, at + done);
      if (n === 0) throw new Error('the file ends early');
      done += n;
    }
  } finally {
    fs.closeSync(fd);
  }
  return out;
}
const digest = (kind: string, data: Uint8Array): string => createHash(kind).update(data).digest('hex');

function extracted(name: string): string {
  const at = made(name);
  execFileSync('tar', ['xzf', path.join(SAMPLES, PBS), '-C', at]);
  return at;
}
const pbs = () =>
  expectationOf(PBS).expect as unknown as { points: Record<string, { sha256: string }>; key_hex: string };
const secretOf = (): string => pbs().key_hex;

interface Block {
  readonly at: number;
  readonly md5: string;
  readonly length: number;
}

/** Blocks that a Macrium file of one disk with one partition stores, parsed by the plainest means. */
function storedBlocks(file: Buffer): readonly Block[] {
  const blocksFrom = (from: number): { name: string; payload: Buffer; flags: number; end: number }[] => {
    const list: { name: string; payload: Buffer; flags: number; end: number }[] = [];
    for (let at = from; ; ) {
      const name = file.toString('latin1', at, at + 8).trim();
      const length = file.readUInt32LE(at + 8);
      const flags = file[at + 28]!;
      at += 32 + length;
      list.push({ name, payload: file.subarray(at - length, at), flags, end: at });
      if ((flags & 1) === 1) return list;
    }
  };
  const root = blocksFrom(Number(file.readBigUInt64LE(file.length - 20)));
  const json = JSON.parse(zstdDecompressSync(root.find(({ name }) => name === '$JSON')!.payload).toString());
  let next = json._header.index_file_position as number;
  const blocks: Block[] = [];
  const track = blocksFrom(next);
  next = track.at(-1)!.end;
  for (const { _header: head, _geometry: place, _file_system: fs } of json.disks[0].partitions) {
    const list = blocksFrom(next);
    next = list.at(-1)!.end;
    const index = list.find(({ name }) => name === '$INDEX')!.payload;
    let at = 4 + index.readUInt32LE(0) * 30;
    const count = index.readUInt32LE(at);
    at += 4;
    for (let i = 0; i < count; i++, at += 30) {
      if (index.readUInt32LE(at + 24) === 0) continue;
      const start = place.start + (fs.lcn0_offset - fs.start) + i * head.block_size;
      blocks.push({ at: start, md5: index.toString('hex', at + 8, at + 24), length: head.block_size });
    }
  }
  return blocks;
}

describe.skipIf(!able)('on a mount', () => {
  test.skipIf((sampleMissing(DEMO) ?? missing(['7zz'])) !== null)(
    'Macrium: all 1,608 blocks of the demo hold',
    async () => {
      const at = made('demo');
      execFileSync('7zz', ['e', '-bd', `-o${at}`, path.join(SAMPLES, DEMO), 'demo/*.mrimgx'], { stdio: 'ignore' });
      const blocks = storedBlocks(fs.readFileSync(path.join(at, fs.readdirSync(at)[0]!)));
      await using mount = await mounted(at);
      const file = path.join(mount.backups, fs.readdirSync(mount.backups)[0]!, 'latest/disk0.raw');
      const wrong = blocks.filter(block => digest('md5', read(file, block.at, block.length)) !== block.md5);
      expect([blocks.length, wrong]).toEqual([1608, []]);
    },
  );

  test.skipIf(sampleMissing(PBS) !== null)(
    'PBS: every snapshot; a missing chunk is an error for its range alone',
    async () => {
      const at = extracted('pbs');
      const root = path.join(at, fs.readdirSync(at)[0]!);
      const { points } = pbs();
      {
        await using mount = await mounted(at, '--key-file', keyFile('pbs.key', secretOf()));
        for (const [name, { sha256 }] of Object.entries(points)) {
          const [, id, time, drive] = /^vm\/(\d+)\/(\S+) drive-(\w+)$/.exec(name)!;
          const file = path.join(mount.backups, `vm-${id}`, time!.replaceAll(':', '-'), `${drive}.raw`);
          expect([name, digest('sha256', fs.readFileSync(file))]).toEqual([name, sha256]);
        }
      }
      const index = fs.readFileSync(path.join(root, 'vm/100/2026-11-20T10:00:00Z/drive-scsi0.img.fidx'));
      const chunkOf = (n: number): string => index.toString('hex', 4096 + 32 * n, 4128 + 32 * n);
      const size = Number(index.readBigUInt64LE(72));
      const count = (index.length - 4096) / 32;
      const all = Array.from({ length: count }, (_, n) => chunkOf(n));
      const gone = all.findIndex(own => all.indexOf(own) === all.lastIndexOf(own));
      fs.rmSync(path.join(root, '.chunks', all[gone]!.slice(0, 4), all[gone]!));
      await using mount = await mounted(at);
      const file = path.join(mount.backups, 'vm-100/2026-11-20T10-00-00Z/scsi0.raw');
      const failed = all.flatMap((_, n) => {
        try {
          read(file, n * size, 4096);
          return [];
        } catch (error) {
          return [[n, (error as NodeJS.ErrnoException).code]];
        }
      });
      expect(failed).toEqual([[gone, 'EIO']]);
      const verified = await runCli(['verify', at, 'vm-100@2026-11-20T10-00-00Z', '--json']);
      expect(verified.code).toBe(5);
      const { problems } = JSON.parse(verified.stdout) as { problems: { message: string; block: number }[] };
      expect(problems.map(({ message, block }) => [message, block])).toEqual([[`chunk ${all[gone]} is missing`, gone]]);
    },
  );

  test.skipIf((sampleMissing(PBS) ?? sampleMissing('macrium/synthetic')) !== null)(
    'keys: each is tried for each set; a set without its own is locked, and the rest mounts',
    async () => {
      const at = extracted('keys');
      fs.cpSync(path.join(SAMPLES, 'macrium/synthetic'), at, { recursive: true });
      const [first, second, wrong] = [
        keyFile('a.key', secretOf()),
        keyFile('b.key', 'bootmount'),
        keyFile('c.key', 'neither of them'),
      ];
      const states = async (...keys: string[]): Promise<Record<string, readonly string[]>> => {
        const ran = await runCli(['ls', at, '--json', ...keys.flatMap(key => ['--key-file', key])]);
        const sets = JSON.parse(ran.stdout) as { set: string; points: { state: string }[] }[];
        return Object.fromEntries(sets.map(({ set, points }) => [set, points.map(({ state }) => state)]));
      };
      const macrium = Object.keys(await states()).find(name => !name.startsWith('vm-'))!;
      const plain = ['ok', 'ok'];
      const locked = ['locked', 'locked'];
      expect(await states(first)).toEqual({ 'vm-100': plain, 'vm-101': ['ok'], [macrium]: locked });
      expect(await states(first, wrong, second)).toEqual({ 'vm-100': plain, 'vm-101': ['ok'], [macrium]: plain });
      await using mount = await mounted(at, '--key-file', second);
      expect(fs.readdirSync(mount.backups).toSorted()).toEqual([macrium, 'vm-100'].toSorted());
      expect(mount.told).toContain('vm-101@2026-11-20T10-00-00Z is locked');
      const disk = fs.readFileSync(path.join(mount.backups, macrium, 'latest/disk0.raw'));
      expect(disk.length).toBe(14_680_064);
    },
  );

  test.skipIf(sampleMissing(VMA) !== null)('a .vma.zst is listed without unpacking it, and read as it is', async () => {
    const at = made('vma');
    fs.copyFileSync(path.join(SAMPLES, VMA), path.join(at, 'vzdump-qemu-100-2026_11_20-16_16_21.vma.zst'));
    fs.writeFileSync(path.join(at, 'vzdump-qemu-100-2026_11_20-16_16_21.log'), 'a log');
    const listed = await runCli(['ls', at]);
    expect([listed.code, listed.stderr]).toEqual([0, '']);
    const unpacked = path.join(folder, 'state/unpacked');
    const { points } = expectationOf(VMA).expect as unknown as { points: Record<string, { sha256: string }> };
    for (const again of [false, true]) {
      await using mount = await mounted(at);
      const home = path.join(mount.backups, 'vzdump-qemu-100/latest/');
      execFileSync('ls', ['-l', home], { stdio: 'ignore' });
      expect(fs.existsSync(unpacked)).toBe(again);
      for (const [name, { sha256 }] of Object.entries(points)) {
        expect(digest('sha256', fs.readFileSync(`${home}${name.replace('drive-', '')}.raw`))).toBe(sha256);
      }
      expect(fs.readdirSync(unpacked)).toHaveLength(1);
    }
    const refused = await runCli(['verify', at, '--scratch', path.join(folder, 'small'), '--scratch-size', '1M']);
    expect([refused.code, refused.stdout]).toEqual([5, expect.stringContaining('unpacking it takes up to 12 MiB')]);
  });
});
