import fs from 'node:fs';
import path from 'node:path';
import { deflateRawSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { memoryStore } from '../../src/stores/memory.ts';
import { adapterKit } from '../../test/kit/adapter-kit.ts';
import { missing, qemuImg, qemuIo, run } from '../../test/kit/oracles.ts';
import { locate } from '../../test/kit/reference.ts';
import { scratch } from '../../test/kit/samples.ts';
import { raw } from '../raw/index.ts';
import { qcow1 } from './index.ts';

const keys = { secrets: async () => [] };
const needs = ['qemu-img', 'qemu-io'];
const structures = (file: Uint8Array) => [
  { at: 0, length: 48, checked: false },
  { at: new DataView(file.buffer, file.byteOffset).getUint32(44), length: 48, checked: false },
];
const WRITES = ['write -P 17 11M 4k', 'write -P 18 983000 132096', 'write -P 19 5M 1M', 'write -z 6M 64k'];

async function makeBase(folder: string): Promise<string> {
  const file = path.join(folder, 'base.qcow');
  await qemuImg.create(file, 'qcow', '12M');
  await qemuIo(file, 'qcow', WRITES);
  return file;
}

/** Makes the image in `folder` and its raw twin. */
const made = (title: string, name: string, make: (folder: string) => Promise<unknown>) => ({
  title,
  needs,
  structures,
  async make(folder: string) {
    await make(folder);
    await qemuImg.convert(path.join(folder, name), 'qcow', path.join(folder, 'twin'), 'raw');
    return { file: name, raw: 'twin' };
  },
});

async function makeChild(folder: string, base: 'qcow' | 'raw'): Promise<void> {
  const parent = path.join(folder, `base.${base}`);
  if (base === 'qcow') await makeBase(folder);
  else {
    await qemuImg.create(parent, 'raw', '12M');
    await qemuIo(parent, 'raw', WRITES);
  }
  const child = path.join(folder, 'child.qcow');
  await qemuImg.create(child, 'qcow', '20M', ['-b', `base.${base}`, '-F', base]);
  await qemuIo(child, 'qcow', [
    'write -P 33 1M 100k',
    'write -z 11M 128k',
    'write -P 34 19M 1M',
    'write -P 35 2000 3000',
  ]);
}

adapterKit(qcow1, {
  others: [raw],
  images: [
    { sample: 'qcow1/sleuthkit/image.qcow', structures },
    made('alone', 'base.qcow', makeBase),
    made('compressed', 'packed.qcow', async folder => {
      const [base, packed] = [await makeBase(folder), path.join(folder, 'packed.qcow')];
      // QEMU 7.2 writes all of it and then ends with 1.
      await run('qemu-img', ['convert', '-c', '-f', 'qcow', '-O', 'qcow', base, packed]);
      await qemuImg.compare(base, 'qcow', packed, 'qcow');
    }),
    made('over qcow, clusters of 512 bytes', 'child.qcow', folder => makeChild(folder, 'qcow')),
    made('over raw', 'child.qcow', folder => makeChild(folder, 'raw')),
  ],
});

describe.skipIf(missing(needs) !== null)('QCOW version 1', () => {
  let folder = '';
  let file: Uint8Array;
  beforeAll(async () => {
    folder = scratch();
    await makeChild(folder, 'raw');
    file = fs.readFileSync(path.join(folder, 'child.qcow'));
  });
  afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

  const opened = (change: (view: DataView) => void) => {
    const changed = new Uint8Array(file);
    change(new DataView(changed.buffer));
    return qcow1.open('a/x.qcow', memoryStore({ 'a/x.qcow': changed }), keys);
  };

  test('names its backing file from its own folder', async () => {
    await using image = await opened(() => {});
    expect(image.points[0]!.parent).toEqual({ by: 'name', name: 'a/base.raw', format: null });
  });

  test.each<[string, (view: DataView) => void, string, string]>([
    ['cluster size', view => view.setUint8(32, 17), 'unsupported', 'clusterBits'],
    ['table size', view => view.setUint8(33, 5), 'unsupported', 'tableBits'],
    ['encryption', view => view.setUint32(36, 2), 'unsupported', 'encryption'],
    ['no disk', view => view.setUint32(28, 0), 'corrupt', 'size'],
    ['a disk beyond its table', view => view.setUint32(24, 0xffff), 'corrupt', 'firstAt'],
    ['first table in the header', view => view.setUint32(44, 8), 'corrupt', 'firstAt'],
    ['a long backing name', view => view.setUint32(16, 5000), 'corrupt', 'backingLength'],
    ['a backing name beyond the file', view => view.setUint32(12, 0xffff_fff0), 'corrupt', 'backingAt'],
  ])('%s is refused by name', async (_name, change, fault, field) => {
    await expect(opened(change)).rejects.toMatchObject({ fault, where: { file: 'a/x.qcow', field } });
  });

  test('encrypted: told, and not read', async () => {
    const secret = path.join(folder, 'encrypted.qcow');
    const options = ['--object', 'secret,id=s,data=abc', '-o', 'encrypt.format=aes,encrypt.key-secret=s'];
    const { code } = await run('qemu-img', ['create', '-q', '-f', 'qcow', ...options, secret, '1M']);
    expect(code).toBe(0);
    await using image = await qcow1.open('e.qcow', memoryStore({ 'e.qcow': fs.readFileSync(secret) }), keys);
    expect(image.encrypted).toBe(true);
    expect(image.points[0]).toMatchObject({ problem: { fault: 'unsupported' }, disks: [{ layer: null }] });
  });

  test('a file that is its own backing file is a broken chain', async () => {
    const at = Buffer.from(file).indexOf('base.raw');
    await using image = await opened(view => {
      for (const [i, c] of [...'./x.qcow'].entries()) view.setUint8(at + i, c.charCodeAt(0));
    });
    expect(image.points[0]!.problem).toMatchObject({ fault: 'broken-chain' });
  });
});

describe('packed clusters', () => {
  const CLUSTER = 4096;
  /** One table, one cluster: `packed` behind both, with the length that the entry gives. */
  const imageOf = (packed: Uint8Array, length = packed.length): Uint8Array => {
    const image = new Uint8Array(CLUSTER * 3 + packed.length);
    const view = new DataView(image.buffer);
    view.setUint32(0, 0x514649fb);
    view.setUint32(4, 1);
    view.setUint32(28, 2000);
    view.setUint8(32, 12);
    view.setUint8(33, 9);
    view.setUint32(44, CLUSTER);
    view.setUint32(CLUSTER + 4, CLUSTER * 2);
    view.setUint32(CLUSTER * 2, 0x8000_0000 + length * 2 ** (31 - 12));
    view.setUint32(CLUSTER * 2 + 4, CLUSTER * 3);
    image.set(packed, CLUSTER * 3);
    return image;
  };
  const unpacked = async (image: Uint8Array): Promise<Uint8Array> => {
    await using opened = await qcow1.open('x', memoryStore({ x: image }), keys);
    const layer = opened.points[0]!.disks[0]!.layer!;
    expect(await locate(layer, 100, layer.size - 100)).toEqual({
      kind: 'packed',
      unit: 0,
      within: 100,
      length: layer.size - 100,
    });
    const into = new Uint8Array(CLUSTER).fill(0xcc);
    await layer.unpack(0, into);
    return into;
  };
  const full = new Uint8Array(CLUSTER).fill(7);

  test('past the end of the disk they are zeros', async () => {
    const got = await unpacked(imageOf(deflateRawSync(full)));
    expect(got.subarray(0, 2000).every(byte => byte === 7)).toBe(true);
    expect(got.subarray(2000).every(byte => byte === 0)).toBe(true);
  });

  test.each([
    ['too short', imageOf(deflateRawSync(full.subarray(1)))],
    ['too long', imageOf(deflateRawSync(new Uint8Array(CLUSTER + 1)))],
    ['garbage', imageOf(new Uint8Array(100).fill(0xff))],
    ['empty', imageOf(new Uint8Array(10), 0)],
    ['beyond the end', imageOf(deflateRawSync(full), 4000)],
  ])('%s: an error, never other bytes', async (_name, image) => {
    await expect(unpacked(image)).rejects.toMatchObject({
      fault: 'corrupt',
      where: { at: CLUSTER * 2, field: 'table' },
    });
  });
});
