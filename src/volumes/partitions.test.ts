/** Partition tables as sfdisk writes them. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { memoryDisk } from '../../test/kit/disks.ts';
import { emptyImage, lacking, scratch, tool } from '../../test/kit/volume-images.ts';
import { imageDisk } from '../../test/kit/volume-walk.ts';
import { partitionsOf } from './partitions.ts';

const cannot = lacking('sfdisk');
const folder = scratch();
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));
const MIB = 2 ** 20;

function disk(name: string, script: string): string {
  const file = path.join(folder, name);
  emptyImage(file, 64 * MIB);
  tool('sfdisk', ['-q', file], script);
  return file;
}

interface SfdiskPartition {
  readonly node: string;
  readonly start: number;
  readonly size: number;
  readonly type: string;
}

/** What sfdisk itself reads: number, offset and length, without extended partitions. */
function judged(file: string): readonly (readonly number[])[] {
  const { partitiontable } = JSON.parse(tool('sfdisk', ['-J', file])) as {
    partitiontable: { partitions: SfdiskPartition[] };
  };
  return partitiontable.partitions
    .filter(({ type }) => !['5', 'f', '85'].includes(type))
    .map(({ node, start, size }) => [Number(/\d+$/.exec(node)![0]), start * 512, size * 512]);
}

const found = async (file: string): Promise<readonly (readonly number[])[]> => {
  await using its = await imageDisk(file);
  return (await partitionsOf(its)).partitions.map(({ number, at, length }) => [number, at, length]);
};

describe.skipIf(cannot !== '')(`partitions ${cannot}`, () => {
  const MBR = 'label: dos\n,8M,c,*\n,8M,7\n,40M,5\n,,83\n,8M,83\n,4M,b\n,4M,83\n';

  test('MBR with logical partitions', async () => {
    const file = disk('mbr', MBR);
    expect(judged(file).length).toBeGreaterThan(5);
    expect(await found(file)).toEqual(judged(file));
  });

  test('a chain of logical partitions that leads back to its start ends', async () => {
    const file = disk('loop', MBR);
    const bytes = fs.readFileSync(file);
    const extended = bytes.readUInt32LE(446 + 2 * 16 + 8);
    // The second record names itself as the next one.
    const second = (extended + bytes.readUInt32LE(extended * 512 + 446 + 16 + 8)) * 512;
    bytes.writeUInt32LE(second / 512 - extended, second + 446 + 16 + 8);
    bytes[second + 446 + 16 + 4] = 5;
    bytes.writeUInt32LE(100, second + 446 + 16 + 12);
    fs.writeFileSync(file, bytes);
    expect((await found(file)).length).toBeLessThan(judged(disk('whole', MBR)).length);
  });

  test('GPT, and its copy at the end where the first is damaged', async () => {
    const file = disk('gpt', 'label: gpt\n,8M,U,,\nsize=8M, name="data disk"\nstart=90112,size=4096\n');
    const wanted = judged(file);
    expect(await found(file)).toEqual(wanted);
    await using its = await imageDisk(file);
    expect((await partitionsOf(its)).partitions[1]!.name).toBe('data disk');
    const bytes = fs.readFileSync(file);
    for (const place of [512 + 60, 1024 + 40]) {
      const damaged = Buffer.from(bytes);
      damaged[place]! ^= 1;
      const { partitions, warnings } = await partitionsOf(memoryDisk(damaged));
      expect(partitions.map(({ number, at, length }) => [number, at, length])).toEqual(wanted);
      expect(warnings).toHaveLength(1);
    }
    bytes.fill(0, 512, 1024);
    bytes.fill(0, bytes.length - 512);
    // Control: without either table only the protective entry is left, which is no volume.
    expect((await partitionsOf(memoryDisk(bytes))).scheme).toBe('none');
  });

  test('an empty disk, and one smaller than a sector', async () => {
    expect(await partitionsOf(memoryDisk(new Uint8Array(4096)))).toMatchObject({ scheme: 'none' });
    expect((await partitionsOf(memoryDisk(new Uint8Array(100)))).partitions).toEqual([]);
  });
});
