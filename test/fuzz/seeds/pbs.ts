import { crc32 } from 'node:zlib';
import { addSnapshot, diskContent, type Files } from '../../../formats/pbs/fixtures.ts';
import { pbs } from '../../../formats/pbs/index.ts';
import type { DamagedFiles } from '../damage.ts';
import { adapterTarget, SECRET, type Seed } from '../target.ts';

const FOLDER = 'vm/100/2026-11-20T10:00:00Z';
const HEADERS: Readonly<Record<string, number>> = {
  '42ab3807be8370a1': 12,
  '31b958426fb6a37f': 12,
  '7b6785be222d4cf0': 44,
  e6591bbf0bbfd80b: 44,
};

/** The CRC of every blob. */
function repair(files: DamagedFiles): void {
  for (const name of files.names) {
    const file = files.file(name)!;
    const header = HEADERS[Buffer.from(file.read(0, 8)).toString('hex')];
    if (header === undefined || file.size < header || !file.isDamaged) continue;
    const sum = Buffer.alloc(4);
    sum.writeUInt32LE(crc32(file.read(header, file.size - header)));
    file.write(8, sum);
  }
}

async function seed(title: string, key: Uint8Array | null): Promise<Seed> {
  const files: Files = {};
  await addSnapshot(files, {
    folder: FOLDER,
    chunkSize: 65_536,
    ...(key === null ? {} : { key, named: true }),
    disks: [
      { filename: 'drive-scsi0.img.fidx', content: diskContent(300_000, 1) },
      { filename: 'drive-virtio1.img.didx', content: diskContent(150_000, 2), cuts: [30_000, 5000, 40_000] },
    ],
    config: 'boot: order=scsi0\nname: web',
  });
  return { title, name: `${FOLDER}/index.json.blob`, files };
}

async function seeds(): Promise<readonly Seed[]> {
  const key = new Uint8Array(32);
  key.set(SECRET);
  return [await seed('plain', null), await seed('encrypted', key)];
}

export const target = adapterTarget(pbs, [], seeds, repair);
