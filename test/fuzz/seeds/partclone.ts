import { crc32 } from 'node:zlib';
import { type Spec, version1, version2 } from '../../../formats/partclone/fixtures.ts';
import { partclone } from '../../../formats/partclone/index.ts';
import type { DamagedFiles } from '../damage.ts';
import { adapterTarget, type Seed } from '../target.ts';

const BASE: Spec = { blockSize: 1024, blocks: 200, mode: 32, perSum: 16, reseed: true, bitmap: 1 };
const SPECS: readonly Spec[] = [
  BASE,
  { ...BASE, reseed: false },
  { ...BASE, mode: 0, bitmap: 8 },
  { ...BASE, mode: 48, bitmap: 0, blocks: 40 },
  { ...BASE, mode: 49, perSum: 7 },
];

const HEADER = 110;

/** The checksum of the header of version 2, and that of a bitmap of bits, as long as both say where it is. */
function repair(files: DamagedFiles): void {
  const file = files.file('a.pcl');
  const head = Buffer.from(file?.read(0, HEADER) ?? []);
  if (file === undefined || head.length < HEADER || head.toString('latin1', 30, 34) !== '0002') return;
  const sum = Buffer.alloc(4);
  sum.writeUInt32LE(~crc32(head.subarray(0, 106)) >>> 0);
  file.write(106, sum);
  const bits = Math.ceil(Number(head.readBigUInt64LE(60)) / 8);
  if (head[105] !== 1 || bits > file.size) return;
  const own = Buffer.alloc(4);
  own.writeUInt32LE(~crc32(file.read(HEADER, bits)) >>> 0);
  file.write(HEADER + bits, own);
}

async function seeds(): Promise<readonly Seed[]> {
  const made = SPECS.map(version2).concat(version1(0), version1(4));
  return made.map((file, i) => ({ title: `image ${i}`, name: 'a.pcl', files: { 'a.pcl': file } }));
}

export const target = adapterTarget(partclone, [], seeds, repair);
