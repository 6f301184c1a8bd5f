import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Disk } from '../../src/base/contracts.ts';
import { localStore } from '../../src/stores/local.ts';
import { readView } from '../../src/views/view.ts';
import { materialize, memoryDisk, pattern, sparseDisk } from '../../test/kit/disks.ts';
import { missing, qemuImg, qemuIo } from '../../test/kit/oracles.ts';
import { openStack } from '../../test/kit/reference.ts';
import { scratch } from '../../test/kit/samples.ts';
import { parseDescriptor } from './descriptor.ts';
import { vmdk, vmdkFormat } from './index.ts';
import { DESCRIPTOR_SIZE } from './text.ts';

const MIB = 1_048_576;
const GIB = 2 ** 30;

async function textOf(disk: Disk, writable: boolean, name = 'disk0'): Promise<string> {
  const [file] = vmdkFormat.layout(disk, { writable, name });
  const raw = new Uint8Array(DESCRIPTOR_SIZE);
  await readView(file!, disk, raw, writable ? 0 : 512);
  return new TextDecoder().decode(raw);
}
const cidOf = (text: string): number => parseDescriptor(new TextEncoder().encode(text), 'x').cid;

describe('descriptors', () => {
  const disk = sparseDisk(40 * GIB, 1, []);

  test('say what is there, and never end with an extent', async () => {
    const flat = await textOf(disk, true);
    expect(parseDescriptor(new TextEncoder().encode(flat), 'x')).toMatchObject({
      createType: 'monolithicflat',
      parentCid: null,
      size: 40 * GIB,
      extents: [{ type: 'flat', file: 'disk0-flat.vmdk', fileAt: 0 }],
    });
    const sparse = await textOf(disk, false);
    expect(parseDescriptor(new TextEncoder().encode(sparse), 'x')).toMatchObject({
      createType: 'monolithicsparse',
      extents: [{ type: 'sparse', file: 'disk0.vmdk' }],
    });
    for (const text of [flat, sparse]) {
      const lines = text.replaceAll('\0', '').trim().split('\n');
      expect(lines.findIndex(line => line.startsWith('RW '))).toBeLessThan(lines.length - 3);
      expect(text).toMatch(/cylinders = "16383"\nddb\.geometry\.heads = "16"\nddb\.geometry\.sectors = "63"/);
    }
  });

  test('have a CID of their own for every disk and name, and the same one on every mount', async () => {
    const texts = [
      await textOf(disk, true),
      await textOf(disk, true, 'disk1'),
      await textOf(disk, false),
      await textOf(sparseDisk(40 * GIB, 1, [], 'other'), true),
    ];
    expect(new Set(texts.map(cidOf)).size).toBe(4);
    expect(await textOf(disk, true)).toBe(texts[0]);
  });

  test('a name that no extent line can hold is refused where it is needed', async () => {
    for (const name of ['a"b', 'a\nb', 'a\\b']) {
      expect(() => vmdkFormat.layout(disk, { writable: true, name })).toThrowError(
        expect.objectContaining({ fault: 'unsupported' }),
      );
      expect(await textOf(disk, false, name)).toContain('SPARSE "a_b.vmdk"');
    }
  });
});

describe('in the hands of QEMU', () => {
  let folder = '';
  beforeAll(() => {
    folder = scratch();
  });
  afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

  test.skipIf(missing(['qemu-io']) !== null)('a writable disk keeps its sizes, and guest data its place', async () => {
    const content = new Uint8Array(8 * MIB);
    pattern(content, 0, 3);
    const disk = memoryDisk(content);
    // Letters beyond ASCII, and a space.
    const name = 'Größe 磁盘';
    for (const file of vmdkFormat.layout(disk, { writable: true, name })) {
      await materialize(file, disk, path.join(folder, `${name}${file.suffix}`));
    }
    const [descriptor, flat] = [path.join(folder, `${name}.vmdk`), path.join(folder, `${name}-flat.vmdk`)];
    const before = cidOf(fs.readFileSync(descriptor, 'utf8'));
    for (let i = 0; i < 4; i++) {
      await qemuIo(descriptor, 'vmdk', [`write -P ${i + 1} ${i}M 1000k`, `write -z ${4 + i}M 64k`, 'discard 7M 512k']);
      expect(fs.statSync(descriptor).size).toBe(DESCRIPTOR_SIZE);
      content.fill(i + 1, i * MIB, i * MIB + 1_024_000);
      content.fill(0, (4 + i) * MIB, (4 + i) * MIB + 65_536);
      const got = fs.readFileSync(flat);
      // What is discarded may read as anything.
      expect(Buffer.compare(got.subarray(0, 7 * MIB), content.subarray(0, 7 * MIB))).toBe(0);
    }
    expect(cidOf(fs.readFileSync(descriptor, 'utf8'))).not.toBe(before);
    expect(await qemuImg.size(descriptor, 'vmdk')).toBe(8 * MIB);
    const store = localStore(folder);
    const keys = { secrets: async () => [] };
    await using stack = await openStack({ adapter: vmdk, store, name: `${name}.vmdk`, keys });
    expect(stack.image.warnings).toEqual([]);
    const got = new Uint8Array(7 * MIB);
    await stack.read(got, 0);
    expect(Buffer.compare(got, content.subarray(0, 7 * MIB))).toBe(0);
  });
});
