import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { crc32 } from 'node:zlib';
import { fillVolume, lvmMissing, lvmOn } from '../../kit/lvm-images.ts';
import type { DamagedFiles } from '../damage.ts';
import type { Seed } from '../target.ts';
import { madeSeed, volumeTarget } from '../volume-target.ts';

const TEXTS_AT = 4096;
const checksum = (data: Uint8Array): number => ~crc32(data, ~0xf597a6cf >>> 0) >>> 0;

function group(): Seed {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-fuzz-'));
  try {
    const files = ['a', 'b'].map(name => path.join(folder, name));
    for (const file of files) {
      fs.writeFileSync(file, '');
      fs.truncateSync(file, 4 * 2 ** 20);
    }
    using lvm = lvmOn(files);
    lvm.run('pvcreate', '-q', '--dataalignment', '64k', '--metadatasize', '60k', ...lvm.devices);
    lvm.run('vgcreate', '-s', '128k', 'vg', ...lvm.devices);
    const { files: made } = madeSeed('ext', 'truncate -s 1M a; mke2fs -q -F -t ext2 -b 1024 -N 256 -d tree a', 'a');
    for (const [name, options] of [
      ['lin', []],
      ['str', ['-i', '2', '-I', '64k']],
    ] as const) {
      lvm.run('lvcreate', '-an', '-Zn', '-Wn', '-L', '1M', '-n', name, ...options, 'vg');
      fillVolume(lvm, files, `vg/${name}`, Buffer.from(made.a!));
    }
    const images = files.map(file => [path.basename(file), new Uint8Array(fs.readFileSync(file))] as const);
    return { title: 'linear and striped', name: 'a', files: Object.fromEntries(images) };
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

/** Makes the checksums of labels, of metadata areas and of their text right again. */
function repair(files: DamagedFiles): void {
  for (const name of files.names) {
    const file = files.file(name)!;
    const sum = (at: number, length: number, to: number): void => {
      const bytes = new Uint8Array(4);
      new DataView(bytes.buffer).setUint32(0, checksum(file.read(at, length)), true);
      file.write(to, bytes);
    };
    sum(512 + 20, 492, 512 + 16);
    const area = Buffer.from(file.read(TEXTS_AT, 64));
    if (area.length < 64) continue;
    const [at, length] = [Number(area.readBigUInt64LE(40)), Number(area.readBigUInt64LE(48))];
    if (at < 65_536 && length < 65_536) sum(TEXTS_AT + at, length, TEXTS_AT + 56);
    sum(TEXTS_AT + 4, 508, TEXTS_AT);
  }
}

export const target = volumeTarget(
  lvmMissing() === '' ? ['lvm'] : ['a loop device for LVM'],
  async () => [group()],
  repair,
);
