/** LVM2 as lvm2 lays it out; GRUB, which reads it by itself, is the second opinion. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { fillVolume, lvmMissing, lvmOn } from '../../test/kit/lvm-images.ts';
import { type Expected, emptyImage, expectedOf, plainTree, scratch, tool } from '../../test/kit/volume-images.ts';
import { imageDisk, linesOf, volumesOn, walk } from '../../test/kit/volume-walk.ts';
import type { PointVolumes } from './volumes.ts';

const cannot = lvmMissing();
const folder = scratch();
const MIB = 2 ** 20;
const files = [0, 1, 2].map(n => path.join(folder, `pv${n}`));
let expected: Expected;

afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

/** An ext4 of that many MiB with the tree in it. */
function filled(size: number): Buffer {
  const file = path.join(folder, 'volume');
  emptyImage(file, size * MIB);
  tool('mke2fs', ['-q', '-F', '-t', 'ext4', '-d', path.join(folder, 'tree'), file]);
  return fs.readFileSync(file);
}

async function opened<T>(images: readonly string[], work: (found: PointVolumes) => Promise<T>): Promise<T> {
  await using stack = new AsyncDisposableStack();
  const disks = [];
  for (const file of images) disks.push(stack.use(await imageDisk(file)));
  return await work(await volumesOn(disks));
}

describe.skipIf(cannot !== '')(`LVM ${cannot}`, () => {
  beforeAll(() => {
    const tree = path.join(folder, 'tree');
    fs.mkdirSync(tree);
    plainTree(tree);
    expected = expectedOf(tree);
    for (const file of files) emptyImage(file, 64 * MIB);
    using lvm = lvmOn(files);
    lvm.run('pvcreate', '-q', ...lvm.devices);
    lvm.run('vgcreate', '-s', '1M', 'vg0', ...lvm.devices);
    const make = (...args: string[]) => lvm.run('lvcreate', '-an', '-Zn', '-Wn', ...args);
    make('-L', '10M', '-n', 'root', 'vg0', lvm.devices[0]!);
    make('-i', '3', '-I', '64k', '-L', '24M', '-n', 'striped', 'vg0');
    // Goes on behind the striped one, and then on the next physical volume.
    lvm.run('lvextend', '-L', '60M', 'vg0/root', lvm.devices[0]!, lvm.devices[1]!);
    make('-L', '16M', '-n', 'last', 'vg0', lvm.devices[2]!);
    fillVolume(lvm, files, 'vg0/root', filled(60));
    fillVolume(lvm, files, 'vg0/striped', filled(24));
    fillVolume(lvm, files, 'vg0/last', filled(16));
  });

  test('linear, striped, in several segments and on several disks: every file', async () => {
    await opened(files, async ({ volumes, locked, notes }) => {
      expect([locked, notes]).toEqual([[], []]);
      expect(volumes.map(({ name }) => name)).toEqual(['lvm-vg0-root', 'lvm-vg0-striped', 'lvm-vg0-last']);
      for (const { name, volume } of volumes) {
        const lines = linesOf(await walk(volume.root));
        delete lines['lost+found'];
        expect(lines).toEqual(expected.lines);
        // GRUB finds the same in the same images.
        const grub = `(lvm/${name.slice('lvm-'.length)})/random.bin`;
        const judged = path.join(folder, 'judged');
        tool('grub-fstest', ['-c', '3', ...files, 'cp', grub, judged]);
        expect(fs.readFileSync(judged).equals(fs.readFileSync(path.join(folder, 'tree/random.bin')))).toBe(true);
      }
    });
  });

  test('where bytes lie on the disks is known', async () => {
    await using stack = new AsyncDisposableStack();
    const disks = [];
    for (const file of files) disks.push(stack.use(await imageDisk(file)));
    const { volumes } = await volumesOn(disks);
    const { disk, place } = volumes.find(({ name }) => name === 'lvm-vg0-striped')!;
    for (let at = 4 * MIB - 1000; at < 5 * MIB; ) {
      const where = place(at, 5 * MIB - at)!;
      const [direct, read] = [Buffer.alloc(where.length), Buffer.alloc(where.length)];
      await disks[where.disk]!.read(direct, where.at);
      await disk.read(read, at);
      expect(direct.equals(read)).toBe(true);
      at += where.length;
    }
  });

  test('without one of its disks, what lies on the others is read', async () => {
    await opened([files[0]!, files[1]!], async ({ volumes, notes }) => {
      expect(notes).toContainEqual(expect.stringMatching(/^lvm vg0: the physical volume pv2 \(.*\) is missing$/));
      const root = volumes.find(({ name }) => name === 'lvm-vg0-root')!;
      const lines = linesOf(await walk(root.volume.root));
      expect(lines['random.bin']).toBe(expected.lines['random.bin']);
      // Of the striped one a third is missing: an error, never zeros.
      const striped = volumes.find(({ name }) => name === 'lvm-vg0-striped');
      if (striped !== undefined) {
        await expect(async () => striped.disk.read(new Uint8Array(MIB), 0)).rejects.toMatchObject({ fault: 'io' });
      }
      expect(volumes.map(({ name }) => name)).not.toContain('lvm-vg0-last');
    });
  });

  test('damaged metadata on one disk: the copy on another holds', async () => {
    const damaged = path.join(folder, 'damaged');
    const bytes = fs.readFileSync(files[0]!);
    const text = bytes.indexOf('vg0 {', 4096 + 512);
    expect(text).toBeGreaterThan(0);
    for (let at = text; at > 0 && at < MIB; at = bytes.indexOf('vg0 {', at + 1)) bytes[at + 10]! ^= 1;
    fs.writeFileSync(damaged, bytes);
    await opened([damaged, files[1]!, files[2]!], async ({ volumes, notes }) => {
      expect(notes).toEqual(['disk0 p0: the checksum of the metadata does not match']);
      expect(volumes).toHaveLength(3);
    });
    // Control: alone, it names no group.
    await opened([damaged], async ({ volumes }) => expect(volumes).toEqual([]));
  });
});
