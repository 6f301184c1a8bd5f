import fs from 'node:fs';
import { describe, expect, test } from 'vitest';
import { localStore } from '../../src/stores/local.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { adapterKit, type MadeImage } from '../../test/kit/adapter-kit.ts';
import { memoryDisk } from '../../test/kit/disks.ts';
import { expectations, sampleEnds, scratch, unpackSample } from '../../test/kit/samples.ts';
import { raw, rawFormat } from './index.ts';

const keys = { secrets: async () => [] };
const skip = [
  { test: 'probe', reason: 'a raw disk has no magic: it is never certain' },
  { test: 'truncation', reason: 'a raw disk does not know its size' },
  { test: 'bit flips', reason: 'a raw disk has no structures' },
] as const;

const odd: MadeImage = {
  title: 'a file that ends inside a sector',
  needs: [],
  async make(folder) {
    const content = new Uint8Array(100_001).fill(3);
    fs.writeFileSync(`${folder}/odd.img`, content);
    const twin = new Uint8Array(100_352);
    twin.set(content);
    fs.writeFileSync(`${folder}/twin`, twin);
    return { file: 'odd.img', raw: 'twin' };
  },
};

adapterKit(raw, {
  images: [
    { sample: 'raw/sleuthkit/image.dd' },
    { sample: 'raw/qemu-samples/grub_mbr.raw.bz2' },
    { sample: 'qcow2/virtnbdbackup/vm4-sdb.qcow2' },
    odd,
  ],
  skip,
});

describe('probing raw disks', () => {
  test.skipIf(expectations().length === 0)('every raw sample may be one', () => {
    const samples = [...sampleEnds()].filter(({ format }) => format === 'raw');
    expect(samples.length).toBeGreaterThan(2);
    for (const { file, head, tail } of samples) expect(raw.probe(head, tail, file), file).toBe('maybe');
  });

  const zeros = new Uint8Array(65536);
  const signed = (at: number, ...bytes: number[]): Uint8Array => {
    const head = zeros.slice();
    head.set(bytes, at);
    return head;
  };
  test.each([
    ['disk.raw', zeros, 'maybe'],
    ['DISK.IMG', zeros, 'maybe'],
    ['disk', zeros, 'no'],
    ['disk', signed(510, 0x55, 0xaa), 'maybe'],
    ['disk', signed(512, ...Buffer.from('EFI PART')), 'maybe'],
    ['disk', signed(4096, ...Buffer.from('EFI PART')), 'maybe'],
    ['disk.qcow2', signed(1080, 0x53, 0xef), 'maybe'],
    ['notes.img', Buffer.from('only words\n'), 'no'],
    ['empty.img', new Uint8Array(0), 'no'],
  ] as const)('%s', (name, head, confidence) => {
    expect(raw.probe(head, head, name)).toBe(confidence);
  });
});

describe('raw disks', () => {
  test('what is missing of the last sector is zeros, and is said', async () => {
    const store = memoryStore({ 'x.img': new Uint8Array(700).fill(5) });
    await using image = await raw.open('x.img', store, keys);
    expect(image.warnings).toEqual([expect.stringContaining('700 bytes are filled up')]);
    const { size, layer } = image.points[0]!.disks[0]!;
    expect(size).toBe(1024);
    expect(layer!.locate(0, 1024)).toMatchObject({ kind: 'plain', length: 700, at: 0 });
    expect(layer!.locate(700, 324)).toEqual({ kind: 'zero', length: 324 });
  });

  test('a GPT in the second sector of 4 KiB gives sectors of 4 KiB', async () => {
    const content = new Uint8Array(5 * 4096 + 512);
    content.set(Buffer.from('EFI PART'), 4096);
    await using image = await raw.open('x.img', memoryStore({ 'x.img': content }), keys);
    expect(image.points[0]!.disks[0]).toMatchObject({ size: 6 * 4096, sectorSize: 4096 });
  });

  test('an empty file is refused and closed', async () => {
    await expect(raw.open('x.img', memoryStore({ 'x.img': new Uint8Array(0) }), keys)).rejects.toMatchObject({
      fault: 'not-this-format',
    });
  });

  test.skipIf(expectations().length === 0)('identity follows the content, not the name', async () => {
    const folder = scratch();
    try {
      const name = unpackSample('raw/sleuthkit/image.dd', folder);
      const bytes = fs.readFileSync(`${folder}/${name}`);
      fs.copyFileSync(`${folder}/${name}`, `${folder}/copy`);
      bytes[0]! ^= 1;
      fs.writeFileSync(`${folder}/changed`, bytes);
      const identity = async (file: string): Promise<string> => {
        await using image = await raw.open(file, localStore(folder), keys);
        return image.points[0]!.identity;
      };
      expect(await identity('copy')).toBe(await identity(name));
      expect(await identity('changed')).not.toBe(await identity(name));
    } finally {
      fs.rmSync(folder, { recursive: true });
    }
  });

  test('the view is the disk, filled up to whole sectors', () => {
    const [view] = rawFormat.layout(memoryDisk(new Uint8Array(1000)), { writable: true, name: 'x' });
    expect(view).toMatchObject({ suffix: '.raw', size: 1024 });
    expect(view!.pieceAt(1000)).toMatchObject({ kind: 'disk', from: 0, at: 0 });
  });
});
