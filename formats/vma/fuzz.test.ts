import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { ImageError } from '../../src/base/errors.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { random } from '../../test/kit/random.ts';
import { archive, deviceContent } from './fixtures.ts';
import { vma } from './index.ts';

const CASES = process.env.BOOTMOUNT_LONG === '1' ? 200_000 : 2000;

/** Puts the MD5 of the `length` bytes at `from` into them. */
function seal(file: Buffer, from: number, length: number, md5At: number): void {
  if (from + length > file.length) return;
  const part = file.subarray(from, from + length);
  part.fill(0, md5At, md5At + 16);
  createHash('md5').update(part).digest().copy(part, md5At);
}

test(`${CASES} damaged archives, their checksums made right again: ImageErrors only`, {
  timeout: 3_600_000,
}, async () => {
  const sound = archive({
    devices: [
      { name: 'drive-scsi0', content: deviceContent(400_000, 1) },
      { name: 'vmstate', content: deviceContent(70_000, 2) },
    ],
    config: 'boot: order=scsi0',
    slots: 3,
  });
  const size = sound.readUInt32BE(56);
  const extents: number[] = [];
  for (let at = size; at < sound.length; at += 512 + sound.readUInt16BE(at + 6) * 4096) extents.push(at);
  const { below, pick } = random(12);
  for (let i = 0; i < CASES; i++) {
    const file = Buffer.from(sound);
    for (let n = 1 + below(3); n > 0; n--) {
      const at = pick([below(64), 2044 + below(8), 4096 + below(96), 12_288 + below(80), pick(extents) + below(80)]);
      file[at] = below(256);
    }
    seal(file, 0, size, 32);
    for (const at of extents) seal(file, at, 512, 24);
    const cut = below(10) === 0 ? file.subarray(0, below(file.length)) : file;
    try {
      await using image = await vma.open('a.vma', memoryStore({ 'a.vma': cut }), { secrets: async () => [] });
      for (const { layer, size: length } of image.points[0]!.disks) {
        if (length === 0) continue;
        const at = below(Math.min(length, 2 ** 45));
        await layer!.load(at, length - at);
        const where = layer!.locate(at, length - at)!;
        expect(where.length).toBeGreaterThan(0);
        if (where.kind === 'plain') await where.source.read(new Uint8Array(Math.min(where.length, 65_536)), where.at);
      }
    } catch (error) {
      expect(error).toBeInstanceOf(ImageError);
    }
  }
});
