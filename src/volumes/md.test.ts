/** md arrays from their members; mdadm reads the superblocks, and GRUB the file system inside. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { memoryDisk } from '../../test/kit/disks.ts';
import { ARRAY_UUID, type ArraySpec, arrayMembers, dataSize } from '../../test/kit/md-images.ts';
import { type Expected, emptyImage, expectedOf, lacking, noise, scratch, tool } from '../../test/kit/volume-images.ts';
import { linesOf, volumesOn, walk } from '../../test/kit/volume-walk.ts';
import { ImageError } from '../base/errors.ts';
import { eachUnused } from './free.ts';
import type { PointVolumes } from './volumes.ts';

const cannot = lacking('mke2fs', 'mdadm', 'grub-fstest');
const folder = scratch();
const MIB = 2 ** 20;
let expected: Expected;

afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const contents = new Map<number, Buffer>();
function filled(size: number): Buffer {
  const known = contents.get(size);
  if (known !== undefined) return known;
  const file = path.join(folder, 'volume');
  emptyImage(file, size);
  tool('mke2fs', ['-q', '-F', '-t', 'ext4', '-d', path.join(folder, 'tree'), file]);
  const content = fs.readFileSync(file);
  contents.set(size, content);
  return content;
}

const found = (images: readonly Uint8Array[]): Promise<PointVolumes> =>
  volumesOn(images.map((image, i) => memoryDisk(image as Uint8Array<ArrayBuffer>, `member${i}`)));

async function linesIn({ volumes }: PointVolumes): Promise<Record<string, string>> {
  const lines = linesOf(await walk(volumes[0]!.volume.root));
  delete lines['lost+found'];
  return lines;
}

const spec = (changes: Partial<ArraySpec>): ArraySpec => {
  const members = changes.members ?? 3;
  const base = { level: 5, layout: 2, members, chunk: 65_536, version: '1.2', name: 'data' } as const;
  return { ...base, legSizes: Array.from({ length: members }, () => 3 * MIB), ...changes };
};

describe.skipIf(cannot !== '')(`md ${cannot}`, () => {
  beforeAll(() => {
    const tree = path.join(folder, 'tree');
    fs.mkdirSync(tree);
    fs.mkdirSync(path.join(tree, 'folder'), { recursive: true });
    for (let i = 0; i < 100; i++) fs.writeFileSync(path.join(tree, 'folder', `file ${i}`), noise(i * 10, i));
    fs.writeFileSync(path.join(tree, 'random.bin'), noise(900_001, 1));
    expected = expectedOf(tree);
  });

  const arrays: readonly Partial<ArraySpec>[] = [
    { level: 0, layout: 0, members: 3 },
    { level: 1, layout: 0, members: 2, version: '1.0' },
    { level: 1, layout: 0, members: 2, version: '0.90', name: '7' },
    { level: 5, layout: 2, members: 3 },
    { level: 6, layout: 2, members: 5 },
    { level: 10, layout: 0x102, members: 3 },
    { level: 10, layout: 0x201, members: 4 },
  ];
  const more: readonly Partial<ArraySpec>[] = [
    { level: 1, layout: 0, members: 2, version: '1.1' },
    { level: 5, version: '0.90', name: '3' },
    ...[0, 1, 3].map(layout => ({ level: 5, layout })),
    ...[0, 1, 3].map(layout => ({ level: 6, layout, members: 5 })),
    { level: 4, layout: 0, chunk: 4096 },
    { level: 10, layout: 0x102, members: 4 },
    { level: 10, layout: 0x10201, members: 4 },
  ];

  test.each(process.env.BOOTMOUNT_LONG === '1' ? [...arrays, ...more] : arrays)('%j', async changes => {
    const its = spec(changes);
    const images = arrayMembers(its, filled(dataSize(its)));
    const files = images.map((image, i) => {
      const file = path.join(folder, `member${i}`);
      fs.writeFileSync(file, image);
      return file;
    });
    for (const file of files) expect(tool('mdadm', ['--examine', file])).toMatch(/Checksum : [0-9a-f]+ - correct/);
    // GRUB does not find arrays of version 0.90 among plain files.
    if (its.version !== '0.90') {
      const judged = path.join(folder, 'judged');
      tool('grub-fstest', ['-c', String(files.length), ...files, 'cp', `(mduuid/${ARRAY_UUID})/random.bin`, judged]);
      expect(fs.readFileSync(judged).equals(fs.readFileSync(path.join(folder, 'tree/random.bin')))).toBe(true);
    }

    const all = await found(images);
    expect([all.notes, all.volumes.map(({ name }) => name)]).toEqual([[], [`md-${its.name}`]]);
    expect(await linesIn(all)).toEqual(expected.lines);
    // Parities and mirrors hold what is free too: a lost member is made up for by it.
    const free = eachUnused(all.volumes[0]!, () => undefined).then(
      () => 'free',
      error => (error as Error).message,
    );
    expect(await free).toMatch(its.level === 0 ? /^free$/ : /^a parity, a mirror/);

    // Without a member: made up for, or said.
    const some = await found(images.slice(1));
    const missing = `md ${its.name}: 1 of ${its.members} members are missing or out of date`;
    if (its.level === 0) {
      expect(some.volumes).toEqual([]);
      expect(some.notes).toEqual([missing, `md ${its.name} cannot be read: a member of a striped array is missing`]);
    } else {
      expect(some.notes).toEqual([missing]);
      expect(await linesIn(some)).toEqual(expected.lines);
    }
    if (its.level === 6) {
      const few = await found(images.slice(2));
      expect([few.volumes, few.notes[1]]).toEqual([
        [],
        `md ${its.name} cannot be read: two members of a RAID 6 array are missing, and only one is made up for: add one of their disks`,
      ]);
    }
  });

  test('members of unequal size: the rest is striped over those that are longer', async () => {
    for (const layout of [1, 2]) {
      const its = spec({ level: 0, members: 3, layout, legSizes: [2 * MIB, 3 * MIB, 4 * MIB] });
      // As the kernel's map_sector does it, chunk by chunk.
      const content = filled(9 * MIB);
      const legs = its.legSizes.map(size => Buffer.alloc(size));
      let [c, before] = [0, 0];
      for (const end of [2 * MIB, 3 * MIB, 4 * MIB]) {
        const members = [0, 1, 2].filter(i => its.legSizes[i]! > before);
        const first = layout === 1 ? c : 0;
        for (let n = 0; n < ((end - before) / its.chunk) * members.length; n++, c++) {
          const row = before + Math.floor(n / members.length) * its.chunk;
          content.copy(legs[members[(first + n) % members.length]!]!, row, c * its.chunk, (c + 1) * its.chunk);
        }
        before = end;
      }
      const images = arrayMembers(its, Buffer.alloc(0)).map((image, i) => {
        legs[i]!.copy(image, MIB);
        return image;
      });
      expect(await linesIn(await found(images))).toEqual(expected.lines);
    }
  });

  test('a member that missed changes is not read; the one that has them is', async () => {
    const its = spec({ level: 1, members: 2, layout: 0, legSizes: [4 * MIB, 4 * MIB] });
    const old = arrayMembers(its, Buffer.alloc(4 * MIB), 10)[0]!;
    const fresh = arrayMembers(its, filled(4 * MIB), 20)[1]!;
    const both = await found([old, fresh]);
    expect(both.notes).toEqual(['md data: 1 of 2 members are missing or out of date']);
    expect(await linesIn(both)).toEqual(expected.lines);
  });

  test('a changed superblock is damage, not another array; a reshaped array is refused', async () => {
    const its = spec({ level: 1, members: 2, layout: 0, legSizes: [4 * MIB, 4 * MIB] });
    const [first, second] = arrayMembers(its, filled(4 * MIB)) as [Buffer, Buffer];
    first[4096 + 80]! ^= 1;
    const { notes } = await found([first]);
    expect(notes).toEqual(['disk0 p0 cannot be read: the checksum of an md superblock does not match']);
    second.writeUInt32LE(4, 4096 + 8);
    second.writeUInt32LE(second.readUInt32LE(4096 + 216) + 4, 4096 + 216);
    expect((await found([second])).notes).toEqual(['disk0 p0 cannot be read: the array is being reshaped']);
  });

  test('a mirror that cannot be read in one place is read from the other', async () => {
    const its = spec({ level: 1, members: 2, layout: 0, legSizes: [4 * MIB, 4 * MIB] });
    const disks = arrayMembers(its, filled(4 * MIB)).map((image, i) =>
      memoryDisk(image as Buffer<ArrayBuffer>, `m${i}`),
    );
    const bad = {
      ...disks[0]!,
      read(into: Uint8Array, at: number) {
        if (at > 1.2 * MIB) throw new ImageError('corrupt', 'a damaged block');
        return disks[0]!.read(into, at);
      },
    };
    expect(await linesIn(await volumesOn([bad, disks[1]!]))).toEqual(expected.lines);
    // Control: alone it cannot.
    const { notes } = await volumesOn([bad]);
    expect(notes).toContain('md data cannot be read: a damaged block');
  });
});
