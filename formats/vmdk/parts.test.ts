import { describe, expect, test } from 'vitest';
import type { Store } from '../../src/base/contracts.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { pattern } from '../../test/kit/disks.ts';
import { openStack } from '../../test/kit/reference.ts';
import { counted } from '../../test/kit/tampered.ts';
import { raw } from '../raw/index.ts';
import { descriptor, hosted } from './fixtures.ts';
import { vmdk } from './index.ts';

const GRAIN = 4096;
const keys = { secrets: async () => [] };
const filled = (length: number, seed: number): Uint8Array<ArrayBuffer> => {
  const content = new Uint8Array(length);
  pattern(content, 0, seed);
  return content;
};
const grain = (seed: number): Uint8Array => filled(GRAIN, seed);
const bytesOf = (text: string, encoding: BufferEncoding = 'utf8'): Uint8Array =>
  new Uint8Array(Buffer.from(text, encoding));
const extent = (...grains: readonly (Uint8Array | null)[]): Uint8Array => hosted({ grains, grainSize: GRAIN });
const disk = (keysOf: Readonly<Record<string, string>>, ...grains: readonly (Uint8Array | null)[]): Uint8Array =>
  hosted({ grains, grainSize: GRAIN, text: descriptor([`RW ${grains.length * 8} SPARSE "x.vmdk"`], keysOf) });
/** A master boot record's signature: what makes a raw disk known. */
const bootable = (length: number): Uint8Array => {
  const content = filled(length, 5);
  content.set([0x55, 0xaa], 510);
  return content;
};

async function contentOf(store: Store, name: string): Promise<Uint8Array> {
  await using stack = await openStack({ adapter: vmdk, store, name, keys });
  const out = new Uint8Array(stack.size);
  await stack.read(out, 0);
  return out;
}

const problemOf = async (store: Store, name: string) => {
  await using image = await vmdk.open(name, store, keys);
  return image.points[0]!.problem;
};

describe('descriptors', () => {
  const flat = bootable(2 * GRAIN);
  const opened = (text: string | Uint8Array) =>
    vmdk.open(
      'a.vmdk',
      memoryStore({ 'a.vmdk': typeof text === 'string' ? bytesOf(text) : text, 'a-flat.vmdk': flat }),
      keys,
    );

  test.each([
    [
      'line ends of Windows, and a byte order mark',
      `\ufeff${descriptor(['RW 16 FLAT "a-flat.vmdk" 0']).replaceAll('\n', '\r\n')}`,
    ],
    [
      'keys in other letters, spaces around',
      descriptor(['rw 16 flat "a-flat.vmdk"']).replace('CID=', 'cid = ').replace('createType=', 'CREATETYPE = '),
    ],
    ['padded with NULs', `${descriptor(['RW 16 FLAT "a-flat.vmdk" 0'])}${'\0'.repeat(500)}\nRW 16 FLAT "b" 0\n`],
    ['a name in the encoding that is told', descriptor(['RW 16 FLAT "a-flat.vmdk" 0'], { encoding: '"windows-1252"' })],
    [
      'the other spelling of a type',
      descriptor(['RW 16 FLAT "a-flat.vmdk" 0'], { createType: '"twoGbMaxExtentFlat"' }),
    ],
  ])('%s', async (_title, text) => {
    await using image = await opened(text);
    expect(image.points[0]).toMatchObject({ id: 'vmdk:0badcafe:a.vmdk', problem: null, disks: [{ size: 2 * GRAIN }] });
  });

  test.each([
    ['createType', descriptor([], { createType: '"fullDevice"' }), 'unsupported', 'fullDevice is a device'],
    ['createType', descriptor([], { createType: '"vmfsPassthroughRawDeviceMap"' }), 'unsupported', 'is a device'],
    ['createType', descriptor([], { createType: '"newType"' }), 'unsupported', 'newType'],
    ['createType', '# Disk DescriptorFile\nversion=1\nCID=1\n', 'corrupt', 'no createType'],
    ['CID', '# Disk DescriptorFile\nversion=1\ncreateType="custom"\n', 'corrupt', 'no CID'],
    ['CID', descriptor([], { CID: '123456789' }), 'corrupt', '123456789'],
    ['version', descriptor([], { version: '9' }), 'unsupported', 'version 9'],
    ['encoding', descriptor(['RW 16 FLAT "a-flat.vmdk" 0'], { encoding: '"klingon"' }), 'unsupported', 'klingon'],
    ['extent', descriptor([]), 'corrupt', 'no extents'],
    ['extent', descriptor(['RW x FLAT "a-flat.vmdk" 0']), 'corrupt', 'RW x FLAT'],
    ['extent', descriptor(['RW 16 FLAT']), 'corrupt', 'names no file'],
    ['extent', descriptor(['RW 99999999999999999999 FLAT "a-flat.vmdk" 0']), 'corrupt', 'too large'],
    ['extent', descriptor(['RW 16 VMFSRDM "a-rdm.vmdk"']), 'unsupported', 'VMFSRDM is a device'],
    ['extent', descriptor(['RW 16 NEW "a-flat.vmdk"']), 'unsupported', 'NEW'],
    ['extent', descriptor(['NOACCESS 16 FLAT "a-flat.vmdk" 0']), 'unsupported', 'not accessible'],
    [
      'encryptionKeys',
      descriptor(['RW 16 FLAT "a-flat.vmdk" 0'], { encryptionKeys: '"vmware:key/x"' }),
      'unsupported',
      'encrypted',
    ],
  ])('a bad %s is refused: %#', async (field, text, fault, message) => {
    await expect(opened(text)).rejects.toMatchObject({
      fault,
      message: expect.stringContaining(message),
      where: { field },
    });
  });

  test('a name in GBK is found', async () => {
    const text = Buffer.concat([
      Buffer.from(descriptor([], { encoding: 'GBK' })),
      Buffer.from('RW 16 FLAT "'),
      Buffer.from('b4c5c5cc', 'hex'),
      Buffer.from('.bin" 0\n#\n'),
    ]);
    const store = memoryStore({ 'a.vmdk': new Uint8Array(text), '磁盘.bin': flat });
    expect(Buffer.compare(await contentOf(store, 'a.vmdk'), flat)).toBe(0);
  });
});

describe('extents', () => {
  test('zeros, and raw data from inside a file', async () => {
    const lines = ['RW 8 ZERO', 'RW 8 FLAT "data.bin" 3', 'NOACCESS 3 ZERO', 'RDONLY 8 SPARSE "s.vmdk"'];
    const data = filled(12 * 512, 3);
    const store = memoryStore({
      'd/a.vmdk': bytesOf(descriptor(lines)),
      'd/data.bin': data,
      'd/s.vmdk': extent(grain(1)),
    });
    const want = Buffer.concat([
      new Uint8Array(GRAIN),
      data.subarray(1536, 1536 + GRAIN),
      new Uint8Array(1536),
      grain(1),
    ]);
    expect(Buffer.compare(await contentOf(store, 'd/a.vmdk'), want)).toBe(0);
  });

  test('one that is missing breaks the point, is named, and leaves nothing open', async () => {
    const lines = ['RW 8 SPARSE "a-s001.vmdk"', 'RW 8 SPARSE "a-s002.vmdk"'];
    const { store, open } = counted(
      memoryStore({ 'a.vmdk': bytesOf(descriptor(lines)), 'a-s001.vmdk': extent(grain(1)) }),
    );
    await using image = await vmdk.open('a.vmdk', store, keys);
    expect(image.points[0]).toMatchObject({
      problem: { fault: 'broken-chain', message: expect.stringContaining('"a-s002.vmdk"') },
      disks: [{ size: 2 * GRAIN, layer: null }],
    });
    await image[Symbol.asyncDispose]();
    expect(open()).toBe(0);
  });

  test('names that lead out of the folder are taken from it, with a warning; nothing else is opened', async () => {
    const lines = [
      'RW 8 FLAT "/vmfs/volumes/x/../../etc/one.bin" 0',
      'RW 8 FLAT "C:\\vms\\two.bin" 0',
      'RW 8 FLAT "sub\\three.bin" 0',
    ];
    const files = { 'd/one.bin': grain(1), 'd/two.bin': grain(2), 'd/sub/three.bin': grain(3) };
    const asked: string[] = [];
    const inner = memoryStore({ 'd/a.vmdk': bytesOf(descriptor(lines)), ...files });
    const open = (name: string) => {
      asked.push(name);
      return inner.open(name);
    };
    const store = { ...inner, open };
    await using image = await vmdk.open('d/a.vmdk', store, keys);
    expect(image.warnings).toHaveLength(3);
    expect(asked.every(name => name.startsWith('d/') && !name.includes('..'))).toBe(true);
    expect(Buffer.compare(await contentOf(store, 'd/a.vmdk'), Buffer.concat(Object.values(files)))).toBe(0);
  });

  test('one that ends early, or is shorter than the descriptor says, is refused', async () => {
    const open = (line: string, file: Uint8Array) =>
      vmdk.open('a.vmdk', memoryStore({ 'a.vmdk': bytesOf(descriptor([line])), 'a-x': file }), keys);
    await expect(open('RW 16 FLAT "a-x" 0', grain(1))).rejects.toMatchObject({
      fault: 'corrupt',
      where: { file: 'a-x', at: GRAIN },
    });
    await expect(open('RW 16 SPARSE "a-x"', extent(grain(1)))).rejects.toMatchObject({
      fault: 'corrupt',
      where: { field: 'capacity' },
    });
    await expect(open('RW 8 SPARSE "a-x"', grain(1))).rejects.toMatchObject({ fault: 'not-this-format' });
    await using image = await open('RW 8 SPARSE "a-x"', extent(grain(1), grain(2)));
    expect(image.warnings).toEqual([expect.stringContaining('the descriptor uses 4096')]);
  });

  test('the identity follows the content, also of raw parts', async () => {
    const identity = async (content: Uint8Array, name = 'a'): Promise<string> => {
      const text = bytesOf(descriptor(['RW 16 FLAT "part.bin" 0']));
      await using image = await vmdk.open(
        `${name}.vmdk`,
        memoryStore({ [`${name}.vmdk`]: text, 'part.bin': content }),
        keys,
      );
      return image.points[0]!.identity;
    };
    const content = bootable(2 * GRAIN);
    const changed = content.slice();
    changed[5000]! ^= 1;
    expect(await identity(content, 'other')).toBe(await identity(content));
    expect(await identity(changed)).not.toBe(await identity(content));
  });
});

describe('chains', () => {
  const child = (hint: string, parentCID: string): Uint8Array =>
    disk({ CID: '2', parentCID, parentFileNameHint: `"${hint}"` }, null, grain(2));
  const base = (CID: string): Uint8Array => disk({ CID }, grain(1), grain(1));

  test.each([
    ['beside', 'base.vmdk', 'd/base.vmdk'],
    ['in another folder', '../b/base.vmdk', 'b/base.vmdk'],
    ['where VMware had it', '/vmfs/volumes/4b5/vm/base.vmdk', 'd/base.vmdk'],
    ['on a drive of Windows', 'D:\\vms\\base.vmdk', 'd/base.vmdk'],
    ['relative, as on Windows', '..\\b\\base.vmdk', 'b/base.vmdk'],
  ])('the parent is found %s', async (_title, hint, at) => {
    const store = memoryStore({ 'd/a.vmdk': child(hint, 'cafe'), [at]: base('0000cafe') });
    await using repository = await openRepository(store, [vmdk], keys);
    const point = repository.sets.flatMap(set => set.points).find(each => each.file === 'd/a.vmdk')!;
    expect(point).toMatchObject({ state: 'ok', files: [at, 'd/a.vmdk'], type: 'incremental' });
    const got = new Uint8Array(2 * GRAIN);
    await using opened = await point.openDisk(0);
    await opened.read(got, 0);
    expect(Buffer.compare(got, Buffer.concat([grain(1), grain(2)]))).toBe(0);
  });

  test('a parent that was changed is refused, and both CIDs are named', async () => {
    const store = memoryStore({ 'a.vmdk': child('base.vmdk', 'cafe'), 'base.vmdk': base('beef') });
    const problem = await problemOf(store, 'a.vmdk');
    expect(problem).toMatchObject({ fault: 'broken-chain', where: { file: 'a.vmdk', field: 'parentCID' } });
    expect(problem!.message).toMatch(/base\.vmdk.*0000beef.*0000cafe/);
    // Control: with the right CID there is none.
    expect(
      await problemOf(memoryStore({ 'a.vmdk': child('base.vmdk', 'beef'), 'base.vmdk': base('beef') }), 'a.vmdk'),
    ).toBeNull();
  });

  test('a parent without a descriptor has no CID to compare, and is refused', async () => {
    const problem = await problemOf(
      memoryStore({ 'a.vmdk': child('b.vmdk', '1'), 'b.vmdk': extent(grain(1)) }),
      'a.vmdk',
    );
    expect(problem).toMatchObject({
      fault: 'broken-chain',
      message: expect.stringContaining('b.vmdk has no descriptor'),
    });
  });

  test('a missing parent, one that is not named, and a loop', async () => {
    const broken = async (files: Record<string, Uint8Array>): Promise<string | undefined> => {
      await using repository = await openRepository(memoryStore(files), [vmdk], keys);
      const points = repository.sets.flatMap(set => set.points);
      expect(points.every(point => point.state === 'broken' && point.problem?.fault === 'broken-chain')).toBe(true);
      return points[0]?.problem?.message;
    };
    expect(await broken({ 'a.vmdk': child('base.vmdk', 'cafe') })).toContain('base.vmdk is missing');
    expect(await broken({ 'a.vmdk': disk({ parentCID: 'cafe' }, null) })).toContain('0000cafe is not named');
    expect(await broken({ 'a.vmdk': child('a.vmdk', '2') })).toContain('loops');
  });
});

describe('parts in a repository', () => {
  const files = {
    'vm/a.vmdk': bytesOf(descriptor(['RW 8 SPARSE "a-s001.vmdk"', 'RW 8 SPARSE "a-s002.vmdk"'])),
    'vm/a-s001.vmdk': extent(grain(1)),
    'vm/a-s002.vmdk': extent(grain(2)),
    'vm/b.vmdk': bytesOf(descriptor(['RW 8 FLAT "b-flat.vmdk" 0'])),
    'vm/b-flat.vmdk': bootable(GRAIN),
    'vm/c.vmdk': bytesOf(descriptor(['RW 8 FLAT "c-f001.vmdk" 0', 'RW 8 FLAT "c-f002.vmdk" 0'])),
    'vm/c-f001.vmdk': bootable(GRAIN),
    'vm/c-f002.vmdk': new Uint8Array(GRAIN),
  };
  const listed = async (all: Record<string, Uint8Array>) => {
    await using repository = await openRepository(memoryStore(all), [vmdk, raw], keys);
    const points = repository.sets.flatMap(set => set.points);
    return {
      points,
      unknown: repository.unknown,
      warnings: repository.warnings,
      names: points.map(({ file }) => file).toSorted(),
    };
  };

  test('are no points of their own', async () => {
    const { points, unknown, warnings, names } = await listed(files);
    expect(names).toEqual(['vm/a.vmdk', 'vm/b.vmdk', 'vm/c.vmdk']);
    expect(points.every(({ state }) => state === 'ok')).toBe(true);
    expect([...unknown, ...warnings]).toEqual([]);
  });

  test('without their descriptors are shown, with a warning', async () => {
    const { 'vm/a.vmdk': _a, 'vm/b.vmdk': _b, 'vm/c.vmdk': _c, ...rest } = files;
    const { points, warnings, names } = await listed(rest);
    expect(names).toEqual(Object.keys(rest).toSorted());
    expect(points.every(({ state, adapter }) => state === 'ok' && adapter === 'vmdk')).toBe(true);
    expect(warnings).toHaveLength(names.length);
    expect(warnings.every(warning => warning.includes('has no descriptor'))).toBe(true);
  });

  test('that the descriptor does not list are points', async () => {
    expect((await listed({ ...files, 'vm/b-s001.vmdk': extent(grain(3)) })).names).toContain('vm/b-s001.vmdk');
  });

  test('of a snapshot without their descriptor are broken, not zeros where the parent would be', async () => {
    for (const name of ['x-000001-s001.vmdk', 'x-000002-delta.vmdk', 'x-sesparse.vmdk']) {
      const { points } = await listed({ [name]: extent(null, grain(1)) });
      expect(points).toMatchObject([
        { state: 'broken', problem: { fault: 'broken-chain', message: expect.stringContaining('descriptor x') } },
      ]);
    }
  });
});
