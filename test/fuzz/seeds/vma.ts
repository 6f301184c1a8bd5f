import { createHash } from 'node:crypto';
import { archive, deviceContent } from '../../../formats/vma/fixtures.ts';
import { vma } from '../../../formats/vma/index.ts';
import type { DamagedFiles } from '../damage.ts';
import { adapterTarget, type Seed } from '../target.ts';

const HEADER_MOST = 1_048_576;

/** Puts the MD5 of the stretch into it. */
function seal(files: DamagedFiles, name: string, from: number, length: number, md5At: number): void {
  const file = files.file(name)!;
  if (from + length > file.size) return;
  const part = file.read(from, length);
  part.fill(0, md5At, md5At + 16);
  file.write(from + md5At, createHash('md5').update(part).digest());
}

/** The header's sum, and those of the extents as far as one leads to the next. */
function repair(files: DamagedFiles): void {
  for (const name of files.names) {
    const file = files.file(name)!;
    const size = Buffer.from(file.read(56, 4));
    if (size.length < 4) continue;
    const header = size.readUInt32BE();
    if (header < 12_288 || header > HEADER_MOST) continue;
    seal(files, name, 0, header, 32);
    for (let at = header, extents = 0; at + 512 <= file.size && extents < 100; extents++) {
      seal(files, name, at, 512, 24);
      at += 512 + Buffer.from(file.read(at + 6, 2)).readUInt16BE() * 4096;
    }
  }
}

async function seeds(): Promise<readonly Seed[]> {
  const devices = [
    { name: 'drive-scsi0', content: deviceContent(400_000, 1) },
    { name: 'vmstate', content: deviceContent(70_000, 2) },
    { name: 'drive-virtio1', content: deviceContent(130_560, 3) },
  ];
  const order = <T>(all: readonly T[]): readonly T[] => all.map((_, i) => all[(i * 5 + 3) % all.length]!);
  const plain = archive({ devices, config: 'boot: order=scsi0', slots: 59 });
  const scattered = archive({ devices: devices.slice(0, 1), order, slots: 3 });
  return [
    { title: 'three devices', name: 'a.vma', files: { 'a.vma': plain } },
    { title: 'out of order', name: 'a.vma', files: { 'a.vma': scattered } },
  ];
}

export const target = adapterTarget(vma, [], seeds, repair);
