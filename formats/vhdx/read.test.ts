import { describe, expect, test } from 'vitest';
import { viewOf } from '../../src/base/struct.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { pattern } from '../../test/kit/disks.ts';
import { openStack } from '../../test/kit/reference.ts';
import {
  bytesOf,
  dataGuid,
  type FixtureSpec,
  fixture,
  headerOf,
  type Item,
  itemsOf,
  METADATA_AT,
  metadataOf,
  regionsOf,
  TABLE_AT,
} from './fixtures.ts';
import { vhdx } from './index.ts';
import { FileParameters, guidFor, HEADERS_AT, ITEM, MIB, putSum, REGION, REGION_TABLES_AT } from './structs.ts';

const keys = { secrets: async () => [] };
const open = (file: Uint8Array) => vhdx.open('a.vhdx', memoryStore({ 'a.vhdx': file }), keys);

const filled = (length: number, seed: number): Uint8Array<ArrayBuffer> => {
  const content = new Uint8Array(length);
  pattern(content, 0, seed);
  return content;
};

async function contentOf(file: Uint8Array): Promise<Uint8Array> {
  await using stack = await openStack({ adapter: vhdx, store: memoryStore({ 'a.vhdx': file }), name: 'a.vhdx', keys });
  const out = new Uint8Array(stack.size);
  await stack.read(out, 0);
  return out;
}

const DATA = filled(MIB, 1);
const PLAIN: FixtureSpec = { name: 'plain', size: 3 * MIB, blocks: { 0: { state: 6, data: DATA } } };
const plain = (): Uint8Array => bytesOf(fixture(PLAIN));
const CHILD: FixtureSpec = { ...PLAIN, name: 'child', parent: [['parent_linkage', `{${dataGuid('base')}}`]] };

describe('headers', () => {
  test('sound ones give no warning', async () => {
    await using image = await open(plain());
    expect(image.warnings).toEqual([]);
    expect(image.points[0]).toMatchObject({
      id: `vhdx:${dataGuid('plain')}`,
      parent: null,
      type: 'full',
      disks: [{ size: 3 * MIB, sectorSize: 512, stored: MIB }],
    });
  });

  test('the one with the higher number counts, wherever it stands', async () => {
    for (const [first, second, name] of [
      [7n, 8n, 'two'],
      [8n, 7n, 'one'],
      [2n ** 63n, 1n, 'one'],
    ] as const) {
      const file = plain();
      file.set(headerOf({ name: 'one' }, first), HEADERS_AT[0]!);
      file.set(headerOf({ name: 'two' }, second), HEADERS_AT[1]!);
      await using image = await open(file);
      expect(image.points[0]!.id).toBe(`vhdx:${dataGuid(name)}`);
    }
  });

  test('one that is damaged: the other is used, with a warning', async () => {
    for (const [i, at] of HEADERS_AT.entries()) {
      const file = plain();
      file[at + 4000] = 1;
      await using image = await open(file);
      expect(image.warnings).toEqual([
        expect.stringContaining(`the ${i === 0 ? 'first' : 'second'} of the two headers`),
      ]);
    }
  });

  test('both damaged: refused, with the place', async () => {
    const file = plain();
    for (const at of HEADERS_AT) file[at + 20] = file[at + 20]! ^ 1;
    await expect(open(file)).rejects.toMatchObject({
      fault: 'corrupt',
      where: { file: 'a.vhdx', at: HEADERS_AT[0]!, field: 'checksum' },
    });
  });

  test('the same number twice: only when they are equal', async () => {
    const file = plain();
    file.set(headerOf({ name: 'plain' }, 5n), HEADERS_AT[0]!);
    await (await open(file))[Symbol.asyncDispose]();
    file.set(headerOf({ name: 'other' }, 5n), HEADERS_AT[0]!);
    await expect(open(file)).rejects.toMatchObject({ fault: 'corrupt', where: { field: 'sequenceNumber' } });
  });

  test('a later version is refused by name', async () => {
    const file = plain();
    const at = HEADERS_AT[1]!;
    viewOf(file).setUint16(at + 66, 2, true);
    putSum(file.subarray(at, at + 4096));
    const error = await open(file).catch((e: unknown) => e);
    expect(error).toMatchObject({ fault: 'unsupported', where: { file: 'a.vhdx', at: at + 66, field: 'version' } });
    expect(String(error)).toContain('version 2');
  });

  test('no signature: another format', async () => {
    await expect(open(new Uint8Array(0))).rejects.toMatchObject({ fault: 'not-this-format' });
    await expect(open(filled(2 * MIB, 1))).rejects.toMatchObject({ fault: 'not-this-format' });
  });
});

describe('regions', () => {
  const bat = { id: REGION.bat, at: TABLE_AT, length: MIB };
  const metadata = { id: REGION.metadata, at: METADATA_AT, length: MIB };
  const withRegions = (...regions: Parameters<typeof regionsOf>[0][number][]): Uint8Array => {
    const file = plain();
    for (const at of REGION_TABLES_AT) file.set(regionsOf(regions), at);
    return file;
  };
  const unknown = guidFor('unknown');
  const refused = [
    ['an unknown region that is required', [bat, metadata, { ...bat, id: unknown }], 'unsupported', unknown],
    ['no block table', [metadata], 'corrupt', 'no block allocation table'],
    ['no metadata', [bat], 'corrupt', 'no metadata region'],
    ['two block tables', [bat, metadata, bat], 'corrupt', 'two of the block allocation table'],
    ['a region between MiBs', [{ ...bat, at: TABLE_AT + 512 }, metadata], 'corrupt', 'cannot lie at'],
    ['a region over the headers', [{ ...bat, at: 0 }, metadata], 'corrupt', 'cannot lie at 0'],
    ['a region of odd length', [{ ...bat, length: 1000 }, metadata], 'corrupt', '1000 bytes long'],
    ['a region beyond the end', [{ ...bat, length: 64 * MIB }, metadata], 'corrupt', 'leaves the file'],
    ['regions over each other', [bat, { ...metadata, length: 2 * MIB }], 'corrupt', 'overlap'],
  ] as const;
  for (const [title, regions, fault, message] of refused) {
    test(`refused: ${title}`, async () => {
      const error = await open(withRegions(...regions)).catch((e: unknown) => e);
      expect(error).toMatchObject({ fault, where: { file: 'a.vhdx', at: expect.any(Number) } });
      expect(String(error)).toContain(message);
    });
  }

  test('an unknown region that is not required is left out, with a warning', async () => {
    await using image = await open(withRegions({ ...bat, id: unknown, required: 0 }, bat, metadata));
    expect(image.warnings).toEqual([expect.stringContaining(unknown)]);
  });

  test('a damaged table: the other is used, with a warning; two: refused', async () => {
    const file = plain();
    file[REGION_TABLES_AT[0]! + 60_000] = 1;
    expect(await contentOf(file)).toEqual(await contentOf(plain()));
    await using image = await open(file);
    expect(image.warnings[0]).toContain('the first of the two region tables');
    file[REGION_TABLES_AT[1]! + 16] = 1;
    await expect(open(file)).rejects.toMatchObject({ fault: 'corrupt', where: { at: REGION_TABLES_AT[0]! } });
  });

  test('tables that differ are told of', async () => {
    const file = plain();
    file.set(regionsOf([metadata, bat]), REGION_TABLES_AT[1]!);
    await using image = await open(file);
    expect(image.warnings).toEqual([expect.stringContaining('differ')]);
  });

  test('a count beyond the table is refused before it is followed', async () => {
    const file = plain();
    for (const at of REGION_TABLES_AT) {
      viewOf(file).setUint32(at + 8, 2048, true);
      putSum(file.subarray(at, at + 65_536));
    }
    await expect(open(file)).rejects.toMatchObject({ fault: 'corrupt', where: { field: 'entryCount' } });
  });
});

describe('metadata', () => {
  const items = itemsOf(PLAIN);
  const withItems = (changed: readonly Item[]): Uint8Array => {
    const file = plain();
    file.fill(0, METADATA_AT, METADATA_AT + 200_000);
    file.set(metadataOf(changed), METADATA_AT);
    return file;
  };
  const replaced = (id: string, content: Uint8Array): readonly Item[] =>
    items.map(item => (item[0] === id ? [id, content, item[2]] : item));
  const word = (value: number): Uint8Array => new Uint8Array(new Uint32Array([value]).buffer);
  const long = (value: bigint): Uint8Array => new Uint8Array(new BigUint64Array([value]).buffer);
  const parameters = (blockSize: number, flags = 0) =>
    replaced(ITEM.fileParameters, FileParameters.build({ blockSize, flags }));
  const unknown = guidFor('unknown item');
  const refused = [
    ['an unknown item that is required', [...items, [unknown, word(1), 4]], 'unsupported', unknown],
    ['a user’s item that is required', [...items, [ITEM.virtualDiskId, word(1), 5]], 'unsupported', 'beca12ab'],
    ['a block of 512 KiB', parameters(MIB / 2), 'unsupported', 'block size of 524288'],
    ['a block of 3 MiB', parameters(3 * MIB), 'unsupported', 'block size of 3145728'],
    ['a block of 512 MiB', parameters(512 * MIB), 'unsupported', 'block size'],
    ['unknown flags', parameters(MIB, 4), 'unsupported', 'flags 0x4'],
    ['a parent without a locator', parameters(MIB, 2), 'corrupt', 'nothing says which'],
    ['sectors of 520 bytes', replaced(ITEM.logicalSectorSize, word(520)), 'unsupported', '520 bytes'],
    ['a disk of no size', replaced(ITEM.virtualDiskSize, long(0n)), 'corrupt', 'not a number of sectors'],
    ['half a sector', replaced(ITEM.virtualDiskSize, long(1_000_000n)), 'corrupt', 'not a number of sectors'],
    ['more than 64 TiB', replaced(ITEM.virtualDiskSize, long(2n ** 46n + 512n)), 'unsupported', 'larger than a VHDX'],
    ['more than 2^53', replaced(ITEM.virtualDiskSize, long(2n ** 63n)), 'unsupported', 'larger than a VHDX'],
    ['a size of 4 bytes', replaced(ITEM.virtualDiskSize, word(MIB)), 'corrupt', '4 bytes instead of 8'],
    ['no size', items.filter(([id]) => id !== ITEM.virtualDiskSize), 'corrupt', 'virtualDiskSize is missing'],
    ['an item twice', [...items, items[1]!], 'corrupt', 'there twice'],
  ] as const;
  for (const [title, changed, fault, message] of refused) {
    test(`refused: ${title}`, async () => {
      const error = await open(withItems(changed)).catch((e: unknown) => e);
      expect(error).toMatchObject({ fault, where: { file: 'a.vhdx', at: expect.any(Number) } });
      expect(String(error)).toContain(message);
    });
  }

  test('an unknown item that is not required is left out', async () => {
    const file = withItems([...items, [unknown, word(1), 2], [ITEM.virtualDiskSize, long(512n), 1]]);
    expect(await contentOf(file)).toEqual(await contentOf(plain()));
  });

  test('an item outside the region is refused', async () => {
    for (const [at, value] of [
      [METADATA_AT + 32 + 16, 32],
      [METADATA_AT + 32 + 16, MIB],
      [METADATA_AT + 32 + 20, 2 ** 31],
    ] as const) {
      const file = plain();
      viewOf(file).setUint32(at, value, true);
      await expect(open(file)).rejects.toMatchObject({ fault: 'corrupt', where: { at: METADATA_AT + 32 } });
    }
  });

  test('a table that does not fit into its region is refused', async () => {
    const file = withItems(replaced(ITEM.virtualDiskSize, long(BigInt(131_073) * BigInt(MIB))));
    const error = await open(file).catch((e: unknown) => e);
    expect(error).toMatchObject({ fault: 'corrupt', where: { at: TABLE_AT } });
    expect(String(error)).toContain('does not fit');
  });
});

describe('blocks', () => {
  test('states without a parent: all but data is zeros', async () => {
    const blocks = Object.fromEntries([0, 1, 2, 3, 5].map(state => [state, { state, data: DATA }]));
    const file = bytesOf(fixture({ ...PLAIN, size: 8 * MIB, blocks: { ...blocks, 7: { state: 6, data: DATA } } }));
    const want = new Uint8Array(8 * MIB);
    want.set(DATA, 7 * MIB);
    expect(Buffer.compare(await contentOf(file), want)).toBe(0);
  });

  const faulty = [
    ['a state that does not exist', PLAIN, { state: 4 }, 'in state 4'],
    ['a block shared with no parent', PLAIN, { state: 7, data: DATA }, 'shared with a parent'],
    ['bits without a meaning', PLAIN, { state: 6 + 8, data: DATA }, 'bits without a meaning'],
    ['data in the header', PLAIN, { state: 6 }, "in the file's metadata"],
    ['no sector bitmap', CHILD, { state: 7, data: DATA }, 'sector bitmap of blocks 0 to 4095 is missing'],
  ] as const;
  for (const [title, spec, block, message] of faulty) {
    test(`refused where it is read: ${title}`, async () => {
      const file = bytesOf(fixture({ ...spec, size: 9 * MIB, blocks: { 1: block, 2: { state: 6, data: DATA } } }));
      const store = memoryStore({ 'a.vhdx': file });
      await using image = await vhdx.open('a.vhdx', store, keys);
      const layer = image.points[0]!.disks[0]!.layer!;
      const error = await (async () => {
        await layer.load(MIB + 5, 1);
        return layer.locate(MIB + 5, 1);
      })().catch((e: unknown) => e);
      expect(error).toMatchObject({ fault: 'corrupt', where: { file: 'a.vhdx', at: expect.any(Number) } });
      expect(String(error)).toContain(message);
      // Its neighbours are as good as ever.
      await layer.load(2 * MIB, MIB);
      expect(layer.locate(2 * MIB, MIB)).toMatchObject({ kind: 'plain', length: MIB });
    });
  }

  test('places beyond the end or inside the tables: an error with the place of the entry', async () => {
    for (const at of [1n << 43n, 2n ** 44n - 1n, 1n, 2n, 3n]) {
      const file = plain();
      viewOf(file).setBigUint64(TABLE_AT + 8, (at << 20n) + 6n, true);
      const error = await contentOf(file).catch((e: unknown) => e);
      expect(error).toMatchObject({
        fault: 'corrupt',
        where: { file: 'a.vhdx', at: TABLE_AT + 8, field: 'entry 1' },
      });
    }
  });

  test('the last block needs only as much of the file as the disk has of it', async () => {
    const short: FixtureSpec = { ...PLAIN, size: MIB + 512, blockSize: 2 * MIB };
    const file = bytesOf(fixture({ ...short, blocks: { 0: { state: 6, data: filled(2 * MIB, 1) } } }));
    expect((await contentOf(file.subarray(0, file.length - MIB + 512))).length).toBe(MIB + 512);
    await expect(contentOf(file.subarray(0, file.length - MIB + 511))).rejects.toMatchObject({ fault: 'corrupt' });
  });
});

describe('the parent', () => {
  const pointOf = async (pairs: readonly (readonly [string, string])[]) => {
    await using image = await open(bytesOf(fixture({ ...CHILD, parent: pairs })));
    return { point: image.points[0]!, warnings: image.warnings };
  };
  const linkage = dataGuid('base');

  test('by its id, with relative names first, absolute ones by their last part', async () => {
    const { point, warnings } = await pointOf([
      ['absolute_win32_path', 'C:\\vm\\two.vhdx'],
      ['volume_path', '\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\\vm\\three.vhdx'],
      ['relative_path', '.\\..\\base\\one.vhdx'],
      ['parent_linkage', `{${linkage.toUpperCase()}}`],
      ['parent_linkage2', '{00000000-0000-0000-0000-000000000000}'],
    ]);
    expect(point.type).toBe('incremental');
    expect(point.parent).toEqual({
      by: 'id',
      id: `vhdx:${linkage}`,
      names: ['../base/one.vhdx', 'one.vhdx', 'two.vhdx', 'three.vhdx'],
    });
    expect(warnings).toEqual([]);
  });

  test('a second linkage is told of', async () => {
    const { warnings } = await pointOf([
      ['parent_linkage', `{${linkage}}`],
      ['parent_linkage2', `{${dataGuid('other')}}`],
    ]);
    expect(warnings).toEqual([expect.stringContaining(dataGuid('other'))]);
  });

  test('nothing that names it, or nonsense: refused', async () => {
    for (const pairs of [[], [['relative_path', 'a.vhdx']], [['parent_linkage', 'the one before']]] as const) {
      await expect(pointOf(pairs)).rejects.toMatchObject({ fault: 'corrupt', where: { field: 'parent_linkage' } });
    }
  });

  const locatorAt = METADATA_AT + 65_536 + itemsOf(PLAIN).reduce((sum, [, content]) => sum + content.length, 0);
  test('a locator of another type, or with names outside it, is refused', async () => {
    const file = bytesOf(fixture(CHILD));
    viewOf(file).setUint32(locatorAt, 1, true);
    await expect(open(file)).rejects.toMatchObject({ fault: 'unsupported', where: { at: locatorAt, field: 'type' } });
    const other = bytesOf(fixture(CHILD));
    viewOf(other).setUint32(locatorAt + 20 + 4, 2 ** 31, true);
    await expect(open(other)).rejects.toMatchObject({ fault: 'corrupt', where: { at: locatorAt + 20 } });
  });
});

test('the identity changes with what the file says, and not with its name', async () => {
  const identityOf = async (file: Uint8Array, name = 'a.vhdx') => {
    await using image = await vhdx.open(name, memoryStore({ [name]: file }), keys);
    return image.points[0]!.identity;
  };
  const before = await identityOf(plain());
  expect(await identityOf(plain(), 'b.vhdx')).toBe(before);
  const moved = plain();
  viewOf(moved).setBigUint64(TABLE_AT, 0n, true);
  const written = plain();
  written.set(headerOf({ name: 'written' }, 6n), HEADERS_AT[0]!);
  const identities = [before, await identityOf(moved), await identityOf(written)];
  expect(new Set(identities).size).toBe(3);
});
