/** Backups without free space: the same files, sound file systems, and everything kept where there is a doubt. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runCli } from '../../test/e2e/run-cli.ts';
import { emptyImage, lacking, mounted, noise, plainTree, scratch, tool } from '../../test/kit/volume-images.ts';
import { imageDisk, linesOf, volumesOf, walk } from '../../test/kit/volume-walk.ts';
import type { Disk } from '../base/contracts.ts';
import { Parser } from '../files/parser.ts';
import { unusedOf } from '../files/unused.ts';
import { addUnused } from '../files/unused-map.ts';
import { checkLeftOut, withoutUnused } from '../jobs/unused.ts';

const MIB = 2 ** 20;
const BLOCK = 4096;
const wanting = lacking(
  'mke2fs',
  'e2fsck',
  'mkntfs',
  'ntfs-3g',
  'mkfs.fat',
  'mcopy',
  'mkfs.xfs',
  'xfs_repair',
  'mkfs.btrfs',
  'btrfs',
  'sfdisk',
);
const cannot = process.getuid?.() === 0 && fs.existsSync('/dev/fuse') ? wanting : 'needs root and /dev/fuse';

const folder = scratch();
const place = (name: string): string => path.join(folder, name);
const disk = place('disk.raw');

interface Part {
  readonly name: string;
  readonly number: number;
  readonly at: number;
  readonly size: number;
  readonly make: readonly string[];
  readonly mount: readonly string[];
  readonly check: readonly string[];
}

const PARTS: readonly Part[] = [
  ['fat', 20, ['mkfs.fat', '-F', '16'], ['mount', '-o', 'loop'], ['fsck.fat', '-n']],
  ['ext4', 60, ['mke2fs', '-q', '-F', '-t', 'ext4', '-b', '4096'], ['mount', '-o', 'loop'], ['e2fsck', '-fn']],
  ['ntfs', 40, ['mkntfs', '-F', '-Q', '-q'], ['ntfs-3g'], ['ntfsfix', '-n']],
  ['xfs', 310, ['mkfs.xfs', '-q', '-f'], ['mount', '-o', 'loop'], ['xfs_repair', '-n', '-f']],
  ['btrfs', 130, ['mkfs.btrfs', '-q', '-f'], ['mount', '-o', 'loop'], ['btrfs', 'check']],
].map(([name, size, make, mount, check], i, all) => ({
  name: name as string,
  // The fourth one holds those that follow it.
  number: i < 3 ? i + 1 : i + 2,
  at: all.slice(0, i).reduce((sum, part) => sum + 1 + (part[1] as number), 1) * MIB,
  size: (size as number) * MIB,
  make: make as readonly string[],
  mount: mount as readonly string[],
  check: check as readonly string[],
}));
const END = PARTS.at(-1)!.at + PARTS.at(-1)!.size;
const DISK_SIZE = END + 2 * MIB;

function put(part: Part): void {
  const [from, to] = [fs.openSync(place(part.name), 'r'), fs.openSync(disk, 'r+')];
  const bytes = Buffer.alloc(MIB);
  for (let at = 0; at < part.size; at += MIB) {
    fs.readSync(from, bytes, 0, MIB, at);
    if (!bytes.every(byte => byte === 0)) fs.writeSync(to, bytes, 0, MIB, part.at + at);
  }
  fs.closeSync(from);
  fs.closeSync(to);
}

/** Every partition of a disk as a file, looked at by the tool of its file system. */
function repair(image: string, part: Part): void {
  const out = place('part');
  tool('dd', [`if=${image}`, `of=${out}`, 'bs=1M', `skip=${part.at / MIB}`, `count=${part.size / MIB}`, 'status=none']);
  tool(part.check[0]!, [...part.check.slice(1), out]);
}

const backup = async (time: string, ...more: readonly string[]): Promise<Record<string, unknown>> => {
  const args = ['backup', disk, place('repo'), '--set', 'web', '--time', time, '--block-size', '4K', '--json'];
  const { code, stdout, stderr } = await runCli([...args, ...more]);
  expect({ code, stderr }).toMatchObject({ code: 0 });
  return JSON.parse(stdout);
};

async function restored(point: string, name: string): Promise<string> {
  const file = place(name);
  expect(await runCli(['restore', `web@${point}`, file, '--repo', place('repo')])).toMatchObject({ code: 0 });
  return file;
}

async function contents(file: string): Promise<readonly Record<string, string>[]> {
  await using its = await imageDisk(file);
  const { volumes, notes } = await volumesOf(its);
  expect(notes).toEqual([]);
  return await Promise.all(volumes.map(async ({ volume }) => linesOf(await walk(volume.root))));
}

function outside(file: string): readonly Buffer[] {
  const all = fs.readFileSync(file);
  return [all.subarray(0, MIB), all.subarray(END)];
}

/** The same disk with other bytes in some places. */
const changed = (its: Disk, changes: readonly (readonly [at: number, bytes: Uint8Array])[]): Disk => ({
  ...its,
  async read(into, from) {
    await its.read(into, from);
    for (const [at, bytes] of changes) {
      const [first, end] = [Math.max(at, from), Math.min(at + bytes.length, from + into.length)];
      if (first < end) into.set(bytes.subarray(first - at, end - at), first - from);
    }
  },
});

describe.skipIf(cannot !== '')(`a backup without free space ${cannot}`, () => {
  let loops = true;

  beforeAll(() => {
    fs.mkdirSync(place('tree'));
    fs.mkdirSync(place('mnt'));
    plainTree(place('tree'));
    emptyImage(disk, DISK_SIZE);
    const line = (at: number, end: number): string => `start=${at / 512},size=${(end - at) / 512}`;
    const table = PARTS.map(({ at, size }) => line(at, at + size));
    table.splice(3, 0, `${line(PARTS[3]!.at - MIB, END)},type=5`);
    tool('sfdisk', ['-q', disk], `label: dos\n${table.join('\n')}\n`);
    const fd = fs.openSync(disk, 'r+');
    fs.writeSync(fd, noise(400, 1), 0, 400, 0);
    fs.writeSync(fd, noise(200_000, 2), 0, 200_000, 512);
    fs.writeSync(fd, noise(MIB, 3), 0, MIB, DISK_SIZE - MIB);
    fs.closeSync(fd);
    for (const part of PARTS) {
      emptyImage(place(part.name), part.size);
      tool(part.make[0]!, [...part.make.slice(1), place(part.name)]);
      const fill = (): void => {
        execFileSync('cp', ['-r', `${place('tree')}/.`, place('mnt')]);
        for (let i = 0; i < 30; i++) fs.writeFileSync(place(`mnt/gone ${i}`), noise(200_000, i));
        tool('sync', ['-f', place('mnt')]);
        for (let i = 0; i < 30; i += 2) fs.rmSync(place(`mnt/gone ${i}`));
      };
      if (part.name === 'fat') {
        const names = fs.readdirSync(place('tree')).map(name => path.join(place('tree'), name));
        tool('mcopy', ['-s', '-Q', '-i', place('fat'), ...names, '::']);
        tool('mdel', ['-i', place('fat'), '::random.bin']);
      } else loops = mounted([...part.mount, place(part.name), place('mnt')], fill) && loops;
      put(part);
    }
  }, 120_000);
  afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

  test('has the same files in sound file systems, and nothing of what is free; a later one too', async context => {
    if (!loops) return context.skip('no loop mounts here');
    const before = await contents(disk);
    expect(before.map(lines => Object.keys(lines).length > 400)).toEqual(PARTS.map(() => true));
    const whole = (await backup('2026-11-01T00:00:00Z')) as { changed: number };
    const full = await backup('2026-11-02T00:00:00Z', '--type', 'full', '--allocated', 'fs', '--verify');
    expect(full.kept).toEqual([]);
    expect(full.free).toBeGreaterThan(420 * MIB);
    // The deleted files were stored by the first one.
    expect((whole.changed - (full.changed as number)) * BLOCK).toBeGreaterThan(12 * MIB);
    const again = await restored('2026-11-02T00-00-00Z', 'again.raw');
    expect(await contents(again)).toEqual(before);
    expect(outside(again).every((bytes, i) => bytes.equals(outside(disk)[i]!))).toBe(true);
    for (const part of PARTS) repair(again, part);
    const gone = noise(4096, 0);
    expect([fs.readFileSync(disk).indexOf(gone) > 0, fs.readFileSync(again).indexOf(gone) > 0]).toEqual([true, false]);

    const ext4 = PARTS[1]!;
    mounted([...ext4.mount, place('ext4'), place('mnt')], () => {
      for (let i = 1; i < 30; i += 4) fs.rmSync(place(`mnt/gone ${i}`));
      fs.writeFileSync(place('mnt/new'), noise(50_000, 77));
    });
    put(ext4);
    const now = await contents(disk);
    const next = await backup('2026-11-03T00:00:00Z', '--allocated', 'fs', '--verify');
    // What became free since reads as zeros, and takes no room.
    expect(next.zeroed as number).toBeGreaterThan(200);
    expect(next.changed as number).toBeLessThan(60);
    expect(await contents(await restored('2026-11-03T00-00-00Z', 'next.raw'))).toEqual(now);
    expect(await contents(await restored('2026-11-02T00-00-00Z', 'old.raw'))).toEqual(before);
    repair(place('next.raw'), ext4);
  }, 120_000);

  test('one block of a file in the map, and the files differ', async () => {
    await using its = await imageDisk(disk);
    await using parser = new Parser();
    const { disks } = await unusedOf({ parser, disks: [{ name: 'disk0', disk: its }], blockSize: BLOCK });
    const lines = async (): Promise<readonly Record<string, string>[]> => {
      const { volumes } = await volumesOf(withoutUnused(its, disks[0]!));
      return await Promise.all(volumes.map(async ({ volume }) => linesOf(await walk(volume.root))));
    };
    const before = await contents(disk);
    expect(await lines()).toEqual(before);
    const { volumes } = await volumesOf(its);
    const entries = await volumes[1]!.volume.root.list();
    const file = await entries.find(({ name }) => name === 'random.bin')?.node();
    if (file?.kind !== 'file') return expect.unreachable();
    const range = (await file.open()).range(BLOCK, BLOCK);
    if (range.kind !== 'disk') return expect.unreachable();
    addUnused(disks[0]!, its.size, range.at, range.length);
    const red = await lines();
    expect(red[1]!['random.bin']).not.toBe(before[1]!['random.bin']);
    // And a source that was written to meanwhile is found out.
    const now = await unusedOf({ parser, disks: [{ name: 'disk0', disk: its }], blockSize: BLOCK });
    expect(() => checkLeftOut(disks[0]!, now.disks[0]!, 'disk0')).toThrow('was written to');
    expect(() => checkLeftOut(now.disks[0]!, now.disks[0]!, 'disk0')).not.toThrow();
  }, 60_000);

  test('a volume is kept whole, and it is said, where its map is in doubt', async () => {
    const keptOf = async (...change: readonly (readonly [at: number, bytes: Uint8Array])[]): Promise<string> => {
      await using plain = await imageDisk(disk);
      const its = changed(plain, change);
      await using parser = new Parser();
      const { disks, kept } = await unusedOf({ parser, disks: [{ name: 'disk0', disk: its }], blockSize: BLOCK });
      for (const { name, number, at, size } of PARTS) {
        const bits = disks[0]!.bits.subarray(at / BLOCK / 8, (at + size) / BLOCK / 8);
        const none = bits.every(byte => byte === 0);
        expect([name, none]).toEqual([name, kept.some(line => line.includes(name) || line.includes(`p${number}:`))]);
      }
      return kept.join('\n');
    };
    const [fat, ext4, ntfs, xfs] = PARTS as [Part, Part, Part, Part];
    expect(await keptOf([fat.at + 0x25, Uint8Array.of(1)])).toMatch(/^p1-fat16: it was in use/);
    // The flag of a journal with something in it.
    expect(await keptOf([ext4.at + 1024 + 0x60, Uint8Array.of(0xc6)])).toMatch(/^p2-ext4: it was in use/);
    const shadow = Buffer.alloc(64);
    Buffer.from('6b87083876c1484eb7ae04046e6cc752', 'hex').copy(shadow);
    shadow[50] = 1;
    expect(await keptOf([ntfs.at + 0x1e00, shadow])).toMatch(/^p3-ntfs: it has shadow copies/);
    const agf = Buffer.alloc(4, 0x55);
    expect(await keptOf([xfs.at + 512 + 216, agf])).toMatch(/^p5-xfs: the free space of group 0 is damaged/);
    // Another volume in the same place, and a system that sleeps.
    const entry = Buffer.from(fs.readFileSync(disk).subarray(446 + 16, 446 + 32));
    entry.writeUInt32LE((entry.readUInt32LE(8) + ext4.size / 512 / 2) >>> 0, 8);
    expect(await keptOf([446, entry])).toContain('p2-ext4: a parity, a mirror, a snapshot or another volume');
    const swap = [fat.at, Buffer.concat([Buffer.alloc(4086), Buffer.from('S1SUSPEND\0')])] as const;
    expect(await keptOf(swap)).toContain('p5-xfs: a sleeping system in disk0 p1 may have it open');
  }, 60_000);
});
