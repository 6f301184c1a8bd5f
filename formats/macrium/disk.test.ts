/** What lies on a disk beside the blocks of its volumes: boot track, tables, boot records, reserved sectors, gaps. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Image, Keyring } from '../../src/base/contracts.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { scratch } from '../../test/kit/samples.ts';
import { buildFile, bytesOf, content, type DiskSpec, type FileSpec } from './fixtures.ts';
import { macrium, macriumAdapter } from './index.ts';
import {
  blocks,
  fatDisk,
  gptDisk,
  gptOf,
  historyTo,
  MIB,
  mbrOf,
  nameOf,
  restored,
  simpleDisk,
  track,
} from './shapes.ts';

const NO_KEYS: Keyring = { secrets: async () => [] };

async function diskOf(files: readonly FileSpec[], adapter = macrium, number = 0) {
  const store = memoryStore(Object.fromEntries(files.map(file => [nameOf(file.number), bytesOf(buildFile(file))])));
  await using repository = await openRepository(store, [adapter], NO_KEYS);
  const point = repository.sets[0]!.points.at(-1)!;
  if (point.problem !== null) throw point.problem;
  await using disk = await point.openDisk(number);
  const out = new Uint8Array(disk.size).fill(0xcc);
  await disk.read(out, 0);
  return { bytes: out, warnings: repository.warnings, disks: point.disks };
}

const openOne = (file: FileSpec): Promise<Image> =>
  macrium.open(nameOf(file.number), memoryStore({ [nameOf(file.number)]: bytesOf(buildFile(file)) }), NO_KEYS);

const same = (a: Uint8Array, b: Uint8Array): void => expect(Buffer.compare(a, b)).toBe(0);

const hasSfdisk = ['/sbin/sfdisk', '/usr/sbin/sfdisk', '/usr/bin/sfdisk'].some(file => fs.existsSync(file));

function sfdisk(bytes: Uint8Array): string {
  const folder = scratch();
  try {
    const file = path.join(folder, 'disk');
    fs.writeFileSync(file, bytes);
    return execFileSync('sh', ['-c', 'sfdisk --verify "$0" 2>&1; sfdisk --dump "$0" 2>&1', file], { encoding: 'utf8' });
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

describe('GPT', () => {
  const file: FileSpec = { number: 0, disks: [gptDisk()], shortIndex: true };

  test('the size is where the primary table says that its copy ends, not the whole cylinders', async () => {
    const { bytes } = await diskOf([file], macriumAdapter({ completeTables: false }));
    expect(bytes.length).toBe(16 * MIB);
    same(bytes, restored([file], 16 * MIB));
  });

  test('the copy at the end is made, and nothing else changes', async () => {
    const { bytes, warnings } = await diskOf([file]);
    expect(warnings).toEqual([]);
    const expected = restored([file], 16 * MIB);
    const { at, bytes: tail } = gptOf(
      16 * MIB,
      gptDisk().partitions.map(({ start, length }) => ({ at: start, length })),
    ).tail;
    expected.set(tail, at);
    same(bytes, expected);
  });

  test.skipIf(!hasSfdisk)('sfdisk finds both tables sound', async () => {
    const { bytes } = await diskOf([file]);
    expect(sfdisk(bytes)).toContain('No errors detected');
    const { bytes: stored } = await diskOf([file], macriumAdapter({ completeTables: false }));
    expect(sfdisk(stored)).toMatch(/backup GPT table is corrupt/i);
  });

  test('without the table in the file the size reaches to the last volume and a copy behind it', async () => {
    const [disk] = file.disks as [DiskSpec];
    const { bytes, warnings } = await diskOf([
      { ...file, disks: [{ ...disk, bootTrack: track(new Uint8Array(512)) }] },
    ]);
    expect(bytes.length).toBe(16 * MIB - 17 * 1024 + 33 * 512);
    expect(warnings.join()).toContain('no partition table: one is made');
    if (hasSfdisk) expect(sfdisk(bytes)).not.toMatch(/corrupt/i);
  });

  test('a damaged table is left as it is, with a warning', async () => {
    const [disk] = file.disks as [DiskSpec];
    const bootTrack = disk.bootTrack.slice();
    bootTrack[1024]! ^= 1;
    const { bytes, warnings } = await diskOf([{ ...file, disks: [{ ...disk, bootTrack }] }]);
    expect(warnings.join()).toContain('its backup copy is left out');
    same(bytes.subarray(0, 2048), bootTrack.subarray(0, 2048));
  });

  test('sectors of 4096 bytes', async () => {
    const size = 16 * MIB;
    const volumes = [{ at: MIB, length: 14 * MIB }];
    const { head, tail } = gptOf(size, volumes, 4096);
    const partition = { start: MIB, length: 14 * MIB, blockCount: 224, blocks: blocks(1, [0, 223]) };
    const disk: DiskSpec = {
      format: 'gpt',
      sectorSize: 4096,
      size,
      bootTrack: track(head.bytes),
      partitions: [partition],
    };
    const one: FileSpec = { number: 0, disks: [disk] };
    const { bytes, disks } = await diskOf([one]);
    const expected = restored([one], size);
    expected.set(tail.bytes, tail.at);
    same(bytes, expected);
    expect(disks[0]).toMatchObject({ sectorSize: 4096, size });
  });
});

describe('MBR', () => {
  const record = (n: number): Uint8Array => content(512, 400 + n);
  /** `$EPT` with entries of 522 bytes as described, or 528 as a compiler aligns them. */
  function extended(size: 522 | 528): Uint8Array {
    const raw = Buffer.alloc(4 + 2 * size);
    raw.writeUInt32LE(2);
    for (const [i, at] of [3 * MIB, 5 * MIB].entries()) {
      raw.set(record(i), 4 + i * size);
      raw.writeBigUInt64LE(BigInt(at), 4 + i * size + 512);
      raw.writeUInt16LE(5 + i, 4 + i * size + 520);
    }
    return raw;
  }

  test.each([522, 528] as const)('boot records of logical drives, entries of %i bytes', async size => {
    const disk = { ...simpleDisk(blocks(1, [0])), extended: extended(size) };
    const [partition] = disk.partitions;
    const small = { ...disk, partitions: [{ ...partition!, length: MIB, blockCount: 16 }] };
    const files = [{ number: 0, disks: [small] }];
    const { bytes } = await diskOf(files);
    const records = [3 * MIB, 5 * MIB].map((at, i) => ({ at, bytes: record(i) }));
    same(bytes, restored(files, 8 * MIB, 0, records));
    expect(bytes[3 * MIB]).not.toBe(0);
  });

  test('entries of any other length are refused', async () => {
    const disk = { ...simpleDisk(blocks(1, [0])), extended: extended(522).subarray(0, 900) };
    await expect(openOne({ number: 0, disks: [disk] })).rejects.toMatchObject({ fault: 'corrupt' });
  });

  test.skipIf(!hasSfdisk)('a table is made for volumes that come without one', async () => {
    const disk = { ...simpleDisk(blocks(1, [0, 5])), bootTrack: new Uint8Array(32_256) };
    const { bytes, warnings } = await diskOf([{ number: 0, disks: [disk] }]);
    expect(warnings.join()).toContain('one is made');
    expect(sfdisk(bytes)).toMatch(/start= +2048, size= +12288, type=7/);
  });
});

describe('volumes', () => {
  test('some volumes of a disk, in their places, with the whole partition table', async () => {
    const disk = simpleDisk(blocks(2, [0, 17]));
    const bootTrack = track(
      mbrOf([
        { at: MIB, length: 6 * MIB },
        { at: 7 * MIB, length: MIB },
      ]),
    );
    const files = [{ number: 0, disks: [{ ...disk, bootTrack }] }];
    const { bytes } = await diskOf(files);
    same(bytes, restored(files, 8 * MIB));
  });

  test('several disks', async () => {
    const files = [{ number: 0, disks: [simpleDisk(blocks(2, [0, 17])), gptDisk(), fatDisk()] }];
    for (const [number, size] of [8 * MIB, 16 * MIB, 12 * MIB].entries()) {
      const { bytes, disks } = await diskOf(files, macriumAdapter({ completeTables: false }), number);
      same(bytes, restored(files, size, number));
      expect(disks.map(disk => disk.name)).toEqual(['disk0', 'disk1', 'disk2']);
    }
  });

  test('a last block that is longer than its volume stops where the next one starts', async () => {
    const [first, second] = [blocks(1, [15]), blocks(2, [0])];
    const start = MIB + 15 * 65_536 + 512 * 30;
    const partitions = [
      { start: MIB, length: start - MIB, blockCount: 16, blocks: first },
      { start, length: MIB, blockCount: 16, blocks: second },
    ];
    const bootTrack = track(mbrOf(partitions.map(({ start: at, length }) => ({ at, length }))));
    // The order in which they are stored does not matter.
    for (const stored of [partitions, partitions.toReversed()]) {
      const disk: DiskSpec = { format: 'mbr', size: 4 * MIB, bootTrack, partitions: stored };
      const { bytes } = await diskOf([{ number: 0, disks: [disk] }]);
      same(bytes, restored([{ number: 0, disks: [{ ...disk, partitions }] }], 4 * MIB));
    }
  });

  test('a volume inside the boot track shows it where it stores nothing', async () => {
    const start = 17_408;
    const bootTrack = track(content(32_256, 50));
    bootTrack.set([0x55, 0xaa], 510);
    const disk = (stored: ReadonlyMap<number, Uint8Array | 'zero'>): DiskSpec => ({
      format: 'mbr',
      size: 2 * MIB,
      bootTrack,
      partitions: [{ start, length: MIB, blockSize: 4096, blockCount: 256, blocks: stored }],
    });
    const full = {
      number: 0,
      disks: [
        disk(
          new Map([
            [1, content(4096, 1)],
            [5, content(4096, 2)],
          ]),
        ),
      ],
    };
    const delta = { number: 1, delta: true, history: historyTo(1), disks: [disk(new Map([[1, 'zero' as const]]))] };
    for (const files of [[full], [full, delta]]) {
      const { bytes } = await diskOf(files);
      same(bytes, restored(files, 2 * MIB));
    }
  });

  test('the drive of a backup of files and folders, whose volume states a start that means nothing', async () => {
    type Node = Record<string, Record<string, unknown>>;
    const files: FileSpec[] = [
      {
        number: 0,
        disks: [fatDisk()],
        edit(description) {
          const { _header, disks } = description as unknown as Node & { disks: { partitions: Node[] }[] };
          Object.assign(_header!, { backup_format: 'file_and_folder' });
          Object.assign(disks[0]!.partitions[0]!._file_system!, { start: 9 * MIB });
        },
      },
    ];
    const { bytes } = await diskOf(files);
    same(bytes, restored(files, 12 * MIB));
  });

  test('reserved sectors of FAT come from the newest file, whose list may name older ones', async () => {
    const full: FileSpec = { number: 0, disks: [fatDisk()] };
    const [partition] = fatDisk().partitions;
    const reserved = [buildFile(full).reserved[0]![0]![0]!, content(65_536, 80)];
    const delta: FileSpec = {
      number: 1,
      delta: true,
      history: historyTo(1),
      disks: [{ ...fatDisk(), partitions: [{ ...partition!, reserved, blocks: blocks(9, [3]) }] }],
    };
    for (const files of [[full], [full, delta]]) {
      const { bytes } = await diskOf(files);
      same(bytes, restored(files, 12 * MIB));
    }
  });
});
