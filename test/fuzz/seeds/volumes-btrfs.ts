import { crc32c } from '../../../src/base/checksum.ts';
import type { DamagedFiles } from '../damage.ts';
import { madeSeed, volumeTarget } from '../volume-target.ts';

const NODE = 4096;
const SUPERBLOCK_AT = 65_536;
const btrfs = `truncate -s 24M a; mkfs.btrfs -q -f -M -n ${NODE} -m single -d single --rootdir tree a`;

/** Where the trees' blocks lie: those that bear the file system's number. */
let nodes: readonly number[] = [];

/** Makes the checksums of the superblock and of every tree block right again. */
function repair(files: DamagedFiles): void {
  const file = files.file('a');
  if (file === undefined) return;
  for (const at of [SUPERBLOCK_AT, ...nodes]) {
    const block = file.read(at, NODE);
    if (block.length < NODE) continue;
    const sum = new Uint8Array(4);
    new DataView(sum.buffer).setUint32(0, crc32c(block.subarray(32)), true);
    file.write(at, sum);
  }
}

export const target = volumeTarget(
  ['mkfs.btrfs'],
  async () => {
    const seed = madeSeed('btrfs', btrfs, 'a');
    const image = Buffer.from(seed.files.a!);
    const number = image.subarray(SUPERBLOCK_AT + 32, SUPERBLOCK_AT + 48);
    nodes = Array.from({ length: image.length / NODE }, (_, i) => i * NODE).filter(
      at => at !== SUPERBLOCK_AT && image.subarray(at + 32, at + 48).equals(number),
    );
    return [seed];
  },
  repair,
);
