/** Disks and backup sets for tests, made with `fixtures.ts`. */
import { makeGpt, makeMbr } from '../../src/base/partition-table.ts';
import { type Built, buildFile, content, type DiskSpec, type FileSpec, type Piece, plainOf } from './fixtures.ts';

export const MIB = 1_048_576;
const BLOCK = 65_536;
export const BASIC_DATA = 'EBD0A0A2-B9E5-4433-87C0-68B6B72699C7';

/** The first 63 sectors of a disk. */
export function track(head: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(32_256);
  bytes.set(head.subarray(0, bytes.length));
  return bytes;
}

export const gptOf = (size: number, partitions: readonly { at: number; length: number }[], sectorSize = 512) =>
  makeGpt(
    size,
    sectorSize,
    new Uint8Array(16).fill(9),
    partitions.map((partition, i) => ({ ...partition, type: BASIC_DATA, id: new Uint8Array(16).fill(i + 1) })),
  );

export const mbrOf = (partitions: readonly { at: number; length: number; type?: number }[]): Uint8Array =>
  makeMbr(
    512,
    0x1234abcd,
    partitions.map(({ at, length, type = 7 }) => ({ at, length, type, active: false })),
  );

/** An MBR disk of 8 MiB with one partition of 96 blocks. */
export function simpleDisk(blocks: ReadonlyMap<number, Uint8Array | 'zero'>): DiskSpec {
  const partition = { start: MIB, length: 96 * BLOCK, blockCount: 96, blocks };
  const bootTrack = track(mbrOf([{ at: MIB, length: 96 * BLOCK }]));
  return { format: 'mbr', size: 8 * MIB, bootTrack, partitions: [partition] };
}

export const blocks = (seed: number, numbers: readonly number[]): Map<number, Uint8Array> =>
  new Map(numbers.map(number => [number, content(BLOCK, seed * 1000 + number, number % 3 !== 0)]));

export const nameOf = (number: number): string =>
  `0123456789ABCDEF-${String(number).padStart(2, '0')}-${String(number).padStart(2, '0')}.mrimgx`;

export const historyTo = (last: number, without: readonly number[] = []): Map<number, string> =>
  new Map(Array.from({ length: last + 1 }, (_, n) => [n, nameOf(n)] as const).filter(([n]) => !without.includes(n)));

/** A full and two deltas on `simpleDisk`; the second delta turns a block of the full into zeros. */
export function threeFiles(common: Partial<FileSpec> = {}): FileSpec[] {
  const full = simpleDisk(blocks(1, [0, 1, 2, 10, 40, 41, 95]));
  const first = simpleDisk(blocks(2, [1, 11, 41]));
  const second = simpleDisk(new Map<number, Uint8Array | 'zero'>([[2, 'zero'], ...blocks(3, [11, 12])]));
  return [
    { ...common, number: 0, history: historyTo(0), disks: [full] },
    { ...common, number: 1, delta: true, history: historyTo(1), disks: [first] },
    { ...common, number: 2, delta: true, history: historyTo(2), disks: [second] },
  ];
}

/** A FAT volume: boot sector and tables as reserved sectors in two blocks, the second longer than what counts of it. */
export function fatDisk(): DiskSpec {
  const reservedLength = 4_194_304 + 100 * 512;
  const lcn0 = reservedLength + 512;
  return {
    format: 'mbr',
    size: 12 * MIB,
    bootTrack: track(mbrOf([{ at: MIB, length: 10 * MIB, type: 0x0c }])),
    partitions: [
      {
        start: MIB,
        length: 10 * MIB,
        lcn0,
        fileSystem: 'FAT32',
        reserved: [content(4_194_304, 77), content(65_536, 78)],
        reservedLength,
        blockCount: Math.ceil((10 * MIB - lcn0) / BLOCK),
        blocks: blocks(5, [0, 3, 70]),
      },
    ],
  };
}

/** A GPT disk of 16 MiB: an MSR without blocks that starts inside the boot track, and two volumes. */
export function gptDisk(): DiskSpec {
  const size = 16 * MIB;
  const volumes = [
    { at: 17_408, length: 2 * MIB - 17_408 },
    { at: 2 * MIB, length: 6 * MIB },
    { at: 8 * MIB, length: 8 * MIB - 17 * 1024 },
  ];
  const { head } = gptOf(size, volumes);
  const last = Math.ceil(volumes[2]!.length / BLOCK) - 1;
  const tail = content(volumes[2]!.length - last * BLOCK, 91);
  return {
    number: 3,
    format: 'gpt',
    // Whole cylinders only, as increments say it.
    size: 8_225_280,
    bootTrack: track(head.bytes),
    partitions: [
      { number: 0, start: volumes[0]!.at, length: volumes[0]!.length, blockCount: 0, blocks: new Map() },
      { number: 1, start: volumes[1]!.at, length: volumes[1]!.length, blockCount: 96, blocks: blocks(6, [0, 5, 95]) },
      {
        number: 2,
        start: volumes[2]!.at,
        length: volumes[2]!.length,
        blockCount: last + 1,
        blocks: new Map([...blocks(7, [1, 2]), [last, tail]]),
      },
    ],
  };
}

/** The files by name, and what a restore of the last one writes. */
export function built(files: readonly FileSpec[]): {
  readonly names: readonly string[];
  readonly all: readonly Built[];
} {
  return { names: files.map(file => nameOf(file.number)), all: files.map(buildFile) };
}

/**
 * The disk that a restore of the last file writes: boot track, boot records at the places given, then each partition
 * with its reserved sectors and its blocks as the files, base first, leave them. Later writes lie over earlier ones.
 */
export function restored(
  files: readonly FileSpec[],
  size: number,
  disk = 0,
  records: readonly Piece[] = [],
): Uint8Array {
  const out = new Uint8Array(size);
  const put = (bytes: Uint8Array, at: number): void => out.set(bytes.subarray(0, Math.max(0, size - at)), at);
  const tip = files.at(-1)!.disks[disk]!;
  put(tip.bootTrack, 0);
  for (const { at, bytes } of records) put(bytes, at);
  for (const [j, partition] of tip.partitions.entries()) {
    const { start, bootSectorOffset = 0, reservedLength = 0, blockSize = 65_536, lcn0 = 0 } = partition;
    let written = 0;
    for (const block of partition.reserved ?? []) {
      const plain = plainOf(block)!;
      const part = plain.subarray(0, reservedLength - written);
      put(part, start + bootSectorOffset + written);
      written += part.length;
    }
    const blocks = new Map<number, Uint8Array | null>();
    for (const file of files)
      for (const [block, stored] of file.disks[disk]?.partitions[j]?.blocks ?? []) blocks.set(block, plainOf(stored));
    for (const [block, plain] of blocks) if (plain !== null) put(plain, start + lcn0 + block * blockSize);
  }
  return out;
}
