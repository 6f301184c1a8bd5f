import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { ImageError } from '../../src/base/errors.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { random } from '../../test/kit/random.ts';
import { addSnapshot, diskContent, encodeBlob, type Files } from './fixtures.ts';
import { pbs } from './index.ts';

const CASES = process.env.BOOTMOUNT_LONG === '1' ? 200_000 : 1500;
const FOLDER = 'vm/1/2026-11-20T10:00:00Z';
const NAME = `${FOLDER}/index.json.blob`;

test(`${CASES} damaged snapshots: right bytes or an ImageError`, { timeout: 3_600_000 }, async () => {
  const content = diskContent(90_112, 1);
  const files: Files = {};
  const disks = [
    { filename: 'drive-scsi0.img.fidx', content },
    { filename: 'b.img.didx', content, cuts: [7000] },
  ];
  await addSnapshot(files, { folder: FOLDER, chunkSize: 8192, disks });
  const manifest = {
    'backup-type': 'vm',
    'backup-id': '1',
    'backup-time': 1,
    files: disks.map(({ filename }) => ({
      filename,
      size: content.length,
      csum: createHash('sha256').update(files[`${FOLDER}/${filename}`]!.subarray(4096)).digest('hex'),
    })),
  };
  const names = disks.map(({ filename }) => `${FOLDER}/${filename}`);
  const { below, pick } = random(11);
  for (let i = 0; i < CASES; i++) {
    const damaged: Files = { ...files };
    const name = pick(names);
    const index = new Uint8Array(files[name]!);
    // Mostly the fields of the header and the table, which no checksum covers when it is read.
    for (let n = 1 + below(3); n > 0; n--) index[pick([below(80), 4096 + below(index.length - 4096)])] = below(256);
    damaged[name] = below(10) === 0 ? index.subarray(0, below(index.length)) : index;
    const text = JSON.stringify(manifest).split('');
    if (below(2) === 0) text[below(text.length)] = String.fromCharCode(32 + below(95));
    damaged[NAME] = encodeBlob(Buffer.from(text.join('')), null);
    try {
      await using image = await pbs.open(NAME, memoryStore(damaged), { secrets: async () => [] });
      for (const { layer, size } of image.points[0]!.disks)
        if (layer !== null) await readSome(layer, size, content, below);
    } catch (error) {
      expect(error).toBeInstanceOf(ImageError);
    }
  }
});

type Layer = NonNullable<Awaited<ReturnType<typeof pbs.open>>['points'][0]['disks'][0]['layer']>;

async function readSome(layer: Layer, size: number, content: Uint8Array, below: (n: number) => number): Promise<void> {
  if (size === 0) return;
  const at = below(Math.min(size, 2 ** 40));
  await layer.load(at, size - at);
  const where = layer.locate(at, size - at)!;
  expect(where.length).toBeGreaterThan(0);
  if (where.kind !== 'packed' || layer.blockSize > 2 ** 20) return;
  const unit = new Uint8Array(layer.blockSize);
  await layer.unpack(where.unit, unit);
  // A chunk that is another one's holds that one's bytes; what comes out is at least a chunk of this disk.
  expect(Buffer.from(content).includes(Buffer.from(unit.subarray(0, 64)))).toBe(true);
}
