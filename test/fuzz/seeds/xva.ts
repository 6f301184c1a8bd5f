import { content } from '../../../formats/virtnbdbackup/fixtures.ts';
import { xvaFile } from '../../../formats/xva/fixtures.ts';
import { xva } from '../../../formats/xva/index.ts';
import type { DamagedFiles } from '../damage.ts';
import { adapterTarget, type Seed } from '../target.ts';

const disk = new Uint8Array(3 * 1_048_576 + 70_144);
disk.set(content(40_000, 5), 0);
disk.set(content(30_000, 6), 3 * 1_048_576);
const SECTOR = 512;
const HEADERS = 12;

/** The sums of the first headers, as far as one leads to the next. */
function repair(files: DamagedFiles): void {
  for (const name of files.names) {
    const file = files.file(name)!;
    for (let at = 0, n = 0; at + SECTOR <= file.size && n < HEADERS; n++) {
      const head = Buffer.from(file.read(at, SECTOR));
      if (head.every(byte => byte === 0)) break;
      head.fill(0x20, 148, 156);
      const sum = head.reduce((total, byte) => total + byte, 0);
      file.write(at + 148, Buffer.from(`${sum.toString(8).padStart(6, '0')}\0 `));
      const size = Number.parseInt(head.toString('latin1', 124, 135), 8);
      if (!Number.isSafeInteger(size)) break;
      at += SECTOR + Math.ceil(size / SECTOR) * SECTOR;
    }
  }
}

async function seeds(): Promise<readonly Seed[]> {
  const disks = [
    { ref: 'Ref:7', device: '1', content: disk },
    { ref: 'Ref:9', device: '0', content: disk.subarray(0, 1_048_576) },
  ];
  return (['none', 'sha1', 'xxhash'] as const).map(sum => ({
    title: sum,
    name: 'a.xva',
    files: { 'a.xva': xvaFile({ disks, sum, sizes: sum !== 'none' }) },
  }));
}

export const target = adapterTarget(xva, [], seeds, repair);
