import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { localStore } from '../../src/stores/local.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { adapterKit } from '../../test/kit/adapter-kit.ts';
import { missing, qemuImg, qemuIo } from '../../test/kit/oracles.ts';
import { scratch } from '../../test/kit/samples.ts';
import { raw } from '../raw/index.ts';
import { qed } from './index.ts';

const keys = { secrets: async () => [] };
const needs = ['qemu-img', 'qemu-io'];
/** Header, first table and the tables behind it. */
const structures = () => [
  { at: 0, length: 64, checked: false },
  { at: 65_536, length: 512, checked: false },
];
const WRITES = ['write -P 17 11M 4k', 'write -P 18 983000 132096', 'write -P 19 5M 1M', 'write -z 6M 64k'];

/** A base, and a child with data, zeros and holes over it. */
async function makeChain(folder: string, base: 'qed' | 'raw'): Promise<void> {
  const parent = path.join(folder, `base.${base}`);
  await qemuImg.create(parent, base, '12M');
  await qemuIo(parent, base, WRITES);
  const child = path.join(folder, 'child.qed');
  await qemuImg.create(child, 'qed', '20M', ['-b', `base.${base}`, '-F', base]);
  await qemuIo(child, 'qed', [
    'write -P 33 1M 100k',
    'write -z 11M 128k',
    'write -P 34 19M 1M',
    'write -P 35 2000 3000',
  ]);
}

adapterKit(qed, {
  others: [raw],
  images: [
    {
      title: 'alone',
      needs,
      structures: () => [
        { at: 0, length: 64, checked: false },
        { at: 4096, length: 512, checked: false },
      ],
      async make(folder: string) {
        const file = path.join(folder, 'made.qed');
        await qemuImg.create(file, 'qed', '12M', ['-o', 'cluster_size=4096,table_size=4']);
        await qemuIo(file, 'qed', WRITES);
        await qemuImg.convert(file, 'qed', path.join(folder, 'made.raw'), 'raw');
        return { file: 'made.qed', raw: 'made.raw' };
      },
    },
    ...(['qed', 'raw'] as const).map(base => ({
      title: `over ${base}`,
      needs,
      structures,
      async make(folder: string) {
        await makeChain(folder, base);
        await qemuImg.convert(path.join(folder, 'child.qed'), 'qed', path.join(folder, 'twin'), 'raw');
        return { file: 'child.qed', raw: 'twin' };
      },
    })),
  ],
});

describe.skipIf(missing(needs) !== null)('QED', () => {
  let folder = '';
  let file: Uint8Array;
  beforeAll(async () => {
    folder = scratch();
    await makeChain(folder, 'raw');
    file = fs.readFileSync(path.join(folder, 'child.qed'));
  });
  afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

  const opened = (change: (view: DataView) => void) => {
    const changed = new Uint8Array(file);
    change(new DataView(changed.buffer));
    return qed.open('a/x.qed', memoryStore({ 'a/x.qed': changed }), keys);
  };

  test('names its backing file from its own folder, and that it is raw', async () => {
    await using image = await opened(() => {});
    expect(image.points[0]!.parent).toEqual({ by: 'name', name: 'a/base.raw', format: 'raw' });
    expect(image.points[0]!.type).toBe('incremental');
  });

  test.each<[string, (view: DataView) => void, string, string]>([
    ['features', view => view.setUint32(16, 0x15, true), 'unsupported', 'features'],
    ['cluster size', view => view.setUint32(4, 65_537, true), 'unsupported', 'clusterSize'],
    ['table size', view => view.setUint32(8, 32, true), 'unsupported', 'tableSize'],
    ['header beyond the file', view => view.setUint32(12, 0xffff_ffff, true), 'corrupt', 'headerSize'],
    ['first table beyond the file', view => view.setUint32(40, 0xffff_0000, true), 'corrupt', 'firstAt'],
    ['first table off a cluster', view => view.setUint32(40, 65_537, true), 'corrupt', 'firstAt'],
    ['odd size', view => view.setUint32(48, 513, true), 'corrupt', 'size'],
    ['size beyond the tables', view => view.setUint32(52, 0xffff, true), 'corrupt', 'size'],
    ['backing name outside the header', view => view.setUint32(56, 70_000, true), 'corrupt', 'backingAt'],
  ])('%s is refused by name', async (_name, change, fault, field) => {
    await expect(opened(change)).rejects.toMatchObject({ fault, where: { file: 'a/x.qed', field } });
  });

  test('a backing file elsewhere is not opened', async () => {
    const at = Buffer.from(file).indexOf('base.raw');
    await using image = await opened(view => {
      for (const [i, c] of [...'nbd:a.ra'].entries()) view.setUint8(at + i, c.charCodeAt(0));
    });
    expect(image.points[0]!.problem).toMatchObject({ fault: 'unsupported' });
    expect(image.points[0]!.disks[0]!.layer).toBeNull();
  });

  test('one that was not closed says so', async () => {
    await using image = await opened(view => view.setUint32(16, 7, true));
    expect(image.warnings).toEqual([expect.stringContaining('not closed cleanly')]);
  });

  test('a table or a cluster that leads out of the file fails when it is read', async () => {
    await using whole = await qed.open('child.qed', localStore(folder), keys);
    const healthy = whole.points[0]!.disks[0]!.layer!;
    await healthy.load(0, 1);
    expect(healthy.locate(0, 1)).toMatchObject({ kind: 'plain' });
    const firstAt = new DataView(file.buffer, file.byteOffset).getUint32(40, true);
    const tableAt = new DataView(file.buffer, file.byteOffset).getUint32(firstAt, true);
    for (const [place, what] of [
      [firstAt, 'table 0'],
      [tableAt, 'block 0'],
    ] as const) {
      for (const value of [0x7fff_0000, 65_537]) {
        await using image = await opened(view => view.setUint32(place, value, true));
        const layer = image.points[0]!.disks[0]!.layer!;
        await layer.load(0, 1);
        expect(() => layer.locate(0, 1)).toThrowError(
          expect.objectContaining({
            fault: 'corrupt',
            message: expect.stringContaining(what),
            where: { file: 'a/x.qed', at: place, field: 'table' },
          }),
        );
      }
    }
  });
});
