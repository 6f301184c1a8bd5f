import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import type { Image, Problem } from '../../src/base/contracts.ts';
import { lzo1x } from '../../src/base/packing/lzo.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { openStack } from '../../test/kit/reference.ts';
import { archive, deviceContent, type Listed } from './fixtures.ts';
import { vma } from './index.ts';

const keys = { secrets: async () => [] };
const CONTENT = deviceContent(40 * 65_536, 1);
const DEVICES = [{ name: 'drive-scsi0', content: CONTENT }];
const sound = (): Buffer => archive({ devices: DEVICES, slots: 10 });

async function findings(file: Uint8Array): Promise<readonly Problem[]> {
  await using image: Image = await vma.open('a.vma', memoryStore({ 'a.vma': file }), keys);
  const found: Problem[] = [];
  const signal = new AbortController().signal;
  await image.verify!({ level: 3, found: problem => found.push(problem), progress() {}, signal });
  return found;
}

/** Clusters that read right; every other one must be an error. */
async function goodClusters(file: Uint8Array): Promise<number> {
  await using stack = await openStack({ adapter: vma, store: memoryStore({ 'a.vma': file }), name: 'a.vma', keys });
  let good = 0;
  for (let at = 0; at < stack.size; at += 65_536) {
    const part = new Uint8Array(65_536);
    try {
      await stack.read(part, at);
      expect(Buffer.compare(part, CONTENT.subarray(at, at + 65_536))).toBe(0);
      good++;
    } catch (error) {
      expect(error).toMatchObject({ fault: 'corrupt' });
    }
  }
  return good;
}

const extents = (file: Buffer): number[] => {
  const found: number[] = [];
  for (let at = file.readUInt32BE(56); at < file.length; at += 512 + file.readUInt16BE(at + 6) * 4096) found.push(at);
  return found;
};

test('a sound archive has no findings', async () => {
  expect(await findings(sound())).toEqual([]);
  expect(await goodClusters(sound())).toBe(40);
});

test.each([0, 6, 10, 30, 41, 200])(
  'byte %i of an extent header: its clusters are errors, the others are read',
  async at => {
    const file = sound();
    const extent = extents(file)[1]!;
    file[extent + at]! ^= 16;
    expect(await goodClusters(file)).toBe(30);
    expect(await findings(file)).toEqual([
      expect.objectContaining({ message: 'an extent header is damaged', offset: extent }),
      expect.objectContaining({ message: '10 clusters of drive-scsi0 are missing from the archive' }),
    ]);
  },
);

test('an archive that ends early keeps what it has', async () => {
  const file = sound();
  const [, , third] = extents(file);
  for (const [end, good] of [
    [third!, 20],
    [third! + 100, 20],
    [third! + 511, 20],
  ] as const) {
    expect(await goodClusters(file.subarray(0, end))).toBe(good);
    expect((await findings(file.subarray(0, end))).length).toBeGreaterThan(0);
  }
  const inside = file.subarray(0, third! + 512 + 4096);
  expect(await goodClusters(inside)).toBeGreaterThanOrEqual(20);
  expect(await findings(inside)).toContainEqual(
    expect.objectContaining({ message: 'the archive ends inside an extent' }),
  );
});

test('a cluster that is there twice is a finding', async () => {
  const order = (all: readonly Listed[]): readonly Listed[] => [...all, all[3]!];
  const found = await findings(archive({ devices: DEVICES, order }));
  expect(found).toEqual([expect.objectContaining({ message: 'cluster 3 of drive-scsi0 is in the archive twice' })]);
});

/** Changes the header and makes its MD5 right again. */
function rewritten(change: (header: Buffer) => void): Buffer {
  const file = sound();
  const header = file.subarray(0, file.readUInt32BE(56));
  change(header);
  header.fill(0, 32, 48);
  createHash('md5').update(header).digest().copy(header, 32);
  return file;
}

test.each<readonly [string, (header: Buffer) => void, string]>([
  ['version', h => h.writeUInt32BE(2, 4), 'version 2 is not known'],
  ['header size', h => h.writeUInt32BE(0xffff_fe00, 56), 'is not possible'],
  ['odd header size', h => h.writeUInt32BE(12_801, 56), 'is not possible'],
  ['blob size', h => h.writeUInt32BE(0xffff_0000, 52), 'does not lie in the header'],
  ['device name', h => h.writeUInt32BE(77, 4096 + 32), 'name of device 1'],
  ['device size', h => h.writeBigUInt64BE(2n ** 60n, 4096 + 40), 'larger than 2^53'],
  ['device beyond its clusters', h => h.writeBigUInt64BE(2n ** 50n, 4096 + 40), 'cannot have'],
])('a header whose %s makes no sense is refused', async (_, change, message) => {
  const store = memoryStore({ 'a.vma': rewritten(change) });
  await expect(vma.open('a.vma', store, keys)).rejects.toThrow(message);
});

test('a device that claims far more than the archive holds costs nothing', async () => {
  const file = rewritten(h => h.writeBigUInt64BE(2n ** 47n, 4096 + 40));
  const started = performance.now();
  expect(await findings(file)).toEqual([expect.objectContaining({ message: expect.stringContaining('are missing') })]);
  expect(performance.now() - started).toBeLessThan(1000);
});

test('extents of other devices and clusters are findings, not places', async () => {
  const file = rewritten(h => h.writeBigUInt64BE(BigInt(20 * 65_536), 4096 + 40));
  expect((await findings(file))[0]).toMatchObject({ message: expect.stringContaining('cluster 20 of device 1') });
});

test('the memory of the machine is no disk, and the boot disk comes first', async () => {
  const content = deviceContent(70_000, 2);
  const names = ['efidisk0', 'scsi0', 'virtio0'].map(name => `drive-${name}`);
  const devices = ['vmstate', ...names].map(name => ({ name, content }));
  const file = archive({ devices, config: 'boot: order=virtio0;ide2\nname: x\n' });
  await using image = await vma.open('a.vma', memoryStore({ 'a.vma': file }), keys);
  expect(image.points[0]!.disks.map(({ name }) => name)).toEqual(['virtio0', 'scsi0', 'efidisk0']);
  expect(image.points[0]!.time?.toISOString()).toBe('2026-11-20T10:00:00.000Z');
});

test.each([
  // "a", then a match of 19 at distance 1, then the end: literals, long match, end mark.
  [[18, 97, 0x20 + 17, 0, 0, 17, 0, 0], 'a'.repeat(20)],
  [[17 + 5, 1, 2, 3, 4, 5, 17, 0, 0], '\x01\x02\x03\x04\x05'],
])('LZO1X: %j', (packed, text) => {
  const out = new Uint8Array(text.length);
  lzo1x(Uint8Array.from(packed), out);
  expect(Buffer.from(out).toString('latin1')).toBe(text);
});

test('LZO1X: whatever comes in, only a RangeError goes out', () => {
  let seed = 1;
  const random = (): number => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
    return seed >>> 8;
  };
  for (let i = 0; i < 20_000; i++) {
    const packed = Uint8Array.from({ length: random() % 60 }, () => random() % 256);
    const out = new Uint8Array(random() % 300);
    try {
      lzo1x(packed, out);
    } catch (error) {
      expect(error).toBeInstanceOf(RangeError);
    }
  }
});
