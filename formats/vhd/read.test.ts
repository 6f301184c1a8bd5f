import { describe, expect, test } from 'vitest';
import type { Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { viewOf } from '../../src/base/struct.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { pattern } from '../../test/kit/disks.ts';
import { random } from '../../test/kit/random.ts';
import { openStack } from '../../test/kit/reference.ts';
import { counted } from '../../test/kit/tampered.ts';
import { blockVhd, fixedVhd, footerOf, resum, uuidOf } from './fixtures.ts';
import { vhd } from './index.ts';

const KIB = 1024;
const keys = { secrets: async () => [] };

const filled = (length: number, seed: number): Uint8Array<ArrayBuffer> => {
  const content = new Uint8Array(length);
  pattern(content, 0, seed);
  return content;
};

async function contentOf(store: Store, name: string): Promise<Uint8Array> {
  await using stack = await openStack({ adapter: vhd, store, name, keys });
  const out = new Uint8Array(stack.size);
  await stack.read(out, 0);
  return out;
}

const open = (file: Uint8Array) => vhd.open('a.vhd', memoryStore({ 'a.vhd': file }), keys);
const content = filled(64 * KIB, 1);
const dynamic = (): Uint8Array =>
  blockVhd({
    blockSize: 16 * KIB,
    blocks: [{ data: content.subarray(0, 16 * KIB) }, null, { data: content.subarray(32 * KIB, 48 * KIB) }, null],
    uuid: uuidOf(3),
  });

describe('footers', () => {
  test('a sound one gives no warning', async () => {
    await using image = await open(dynamic());
    expect(image.warnings).toEqual([]);
    expect(image.points[0]).toMatchObject({ id: `vhd:${uuidText(3)}`, parent: null, type: 'full' });
    expect(image.points[0]!.time?.toISOString()).toBe('2000-01-01T00:16:40.000Z');
  });

  test('damaged at the end: the copy at the start is used', async () => {
    const file = dynamic();
    const whole = await contentOf(memoryStore({ 'a.vhd': file }), 'a.vhd');
    // A size that is no number here: the broken footer must not even be looked into.
    viewOf(file).setBigUint64(file.length - 512 + 48, 2n ** 60n);
    await using image = await open(file);
    expect(image.warnings).toEqual([expect.stringContaining('its copy at the start is used')]);
    expect(await contentOf(memoryStore({ 'a.vhd': file }), 'a.vhd')).toEqual(whole);
  });

  test('damaged in both places: refused, with the place', async () => {
    const file = dynamic();
    file[60] = file[60]! ^ 1;
    file[file.length - 512 + 48] = file[file.length - 512 + 48]! ^ 1;
    await expect(open(file)).rejects.toMatchObject({
      fault: 'corrupt',
      where: { file: 'a.vhd', at: file.length - 448, field: 'checksum' },
    });
  });

  test('missing at the end: the copy is used, and reading past the cut is an error', async () => {
    const file = dynamic();
    const cut = file.subarray(0, file.length - 512 - 17 * KIB);
    await using image = await open(cut);
    expect(image.warnings[0]).toContain('may be cut off');
    const error = await contentOf(memoryStore({ 'a.vhd': cut }), 'a.vhd').catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ImageError);
    expect(error).toMatchObject({ fault: 'corrupt', where: { file: 'a.vhd' } });
  });

  test('of 511 bytes', async () => {
    const file = fixedVhd(content);
    const old = file.subarray(0, file.length - 1);
    expect(await contentOf(memoryStore({ 'a.vhd': old }), 'a.vhd')).toEqual(content);
    expect(vhd.probe(old.subarray(0, 4096), old.subarray(-4096), 'a.vhd')).toBe('maybe');
  });

  test('of a fixed disk with a wrong checksum: taken only when the size of the file agrees', async () => {
    const file = fixedVhd(content);
    file[file.length - 100] = 1;
    await using image = await open(file);
    expect(image.warnings[0]).toContain('the size of the file agrees');
    const longer = Buffer.concat([new Uint8Array(512), file]);
    await expect(open(longer)).rejects.toMatchObject({ fault: 'corrupt' });
  });

  test('none at all', async () => {
    await expect(open(content)).rejects.toMatchObject({ fault: 'not-this-format' });
    await expect(open(new Uint8Array(0))).rejects.toMatchObject({ fault: 'not-this-format' });
  });
});

const uuidText = (n: number): string => {
  const two = n.toString(16).padStart(2, '0');
  return [4, 2, 2, 2, 6].map(bytes => two.repeat(bytes)).join('-');
};

describe('refused by name', () => {
  const refused = [
    ['a later version', 12, 0x20000, 'unsupported', 'version 0x20000'],
    ['unknown features', 8, 6, 'unsupported', 'feature bits 0x6'],
    ['an unknown disk type', 60, 6, 'unsupported', 'disk type 6'],
    ['half a sector', 52, 1000, 'corrupt', 'not a number of sectors'],
  ] as const;
  for (const [title, at, value, fault, message] of refused) {
    test(title, async () => {
      const file = fixedVhd(content);
      viewOf(file).setUint32(content.length + at, value);
      resum(file, content.length, 'footer');
      const error = await open(file).catch((e: unknown) => e);
      expect(error).toMatchObject({ fault, where: { file: 'a.vhd' } });
      expect(String(error)).toContain(message);
    });
  }

  const headers = [
    ['a later header version', 24, 0x20000, 'unsupported', 'headerVersion'],
    ['a block of 3000 bytes', 32, 3000, 'unsupported', 'blockSize'],
    ['a block of 1 GiB', 32, 2 ** 30, 'unsupported', 'blockSize'],
    ['a table larger than the file', 28, 2 ** 31, 'corrupt', 'maxTableEntries'],
    ['a table too short for the disk', 28, 3, 'corrupt', 'maxTableEntries'],
    ['a table between sectors', 20, 1537, 'corrupt', 'tableOffset'],
  ] as const;
  for (const [title, at, value, fault, field] of headers) {
    test(title, async () => {
      const file = dynamic();
      viewOf(file).setUint32(512 + at, value);
      resum(file, 512, 'header');
      await expect(open(file)).rejects.toMatchObject({ fault, where: { file: 'a.vhd', field } });
    });
  }

  test('a block beyond the end, or inside the metadata: an error with the place of the entry', async () => {
    for (const entry of [0x7fff_0000, 1]) {
      const file = dynamic();
      viewOf(file).setUint32(1536 + 8, entry);
      const error = await contentOf(memoryStore({ 'a.vhd': file }), 'a.vhd').catch((e: unknown) => e);
      expect(error).toMatchObject({ fault: 'corrupt', where: { file: 'a.vhd', at: 1544, field: 'entry 2' } });
    }
  });

  test('a fixed disk that is longer than its file', async () => {
    const file = Buffer.concat([content.subarray(0, 512), footerOf(content.length, 'fixed', uuidOf(1))]);
    await expect(open(file)).rejects.toMatchObject({ fault: 'corrupt', where: { field: 'currentSize' } });
  });
});

test('a wrong header checksum is a warning', async () => {
  const file = dynamic();
  viewOf(file).setUint32(512 + 36, 1);
  await using image = await open(file);
  expect(image.warnings).toEqual(['the checksum of the dynamic header does not hold']);
});

test('a creator whose size others take from the geometry is named', async () => {
  const file = fixedVhd(content);
  file.set(new TextEncoder().encode('vpc '), content.length + 28);
  viewOf(file).setUint32(content.length + 56, 0x0001_0411);
  resum(file, content.length, 'footer');
  await using image = await open(file);
  expect(image.warnings[0]).toContain('shows 34816');
  expect(image.points[0]!.disks[0]!.size).toBe(content.length);
});

describe('blocks', () => {
  for (const blockSize of [512, 4 * KIB, 512 * KIB, 2048 * KIB]) {
    for (const tableLast of [false, true]) {
      test(`of ${blockSize} bytes in any order, the table ${tableLast ? 'behind' : 'before'} them`, async () => {
        const count = 5;
        const size = count * blockSize - (blockSize === 512 ? 0 : 512);
        const want = new Uint8Array(count * blockSize);
        const blocks = Array.from({ length: count }, (_, i) => {
          if (i === 1) return null;
          const data = filled(blockSize, i);
          want.set(data, i * blockSize);
          return { data };
        });
        const file = blockVhd({ blockSize, blocks, size, uuid: uuidOf(2), tableLast });
        const got = await contentOf(memoryStore({ 'a.vhd': file }), 'a.vhd');
        expect(Buffer.compare(got, want.subarray(0, size))).toBe(0);
      });
    }
  }

  test('a table of many pages is read in parts, as far as it is needed', async () => {
    const count = 20_000;
    const { below } = random(5);
    const want = new Uint8Array(count * 512);
    const blocks = Array.from({ length: count }, (_, i) => {
      if (below(4) > 0) return null;
      const data = filled(512, i);
      want.set(data, i * 512);
      return { data };
    });
    const store = memoryStore({ 'a.vhd': blockVhd({ blockSize: 512, blocks, uuid: uuidOf(2) }) });
    expect(Buffer.compare(await contentOf(store, 'a.vhd'), want)).toBe(0);
    const { store: watched, reads } = counted(store);
    await using stack = await openStack({ adapter: vhd, store: watched, name: 'a.vhd', keys });
    const opening = reads();
    expect(opening).toBeLessThan(6);
    for (let i = 0; i < 300; i++) await stack.extent(9000 * 512 + i * 512, 512);
    expect(reads() - opening).toBe(1);
  });
});

describe('differencing', () => {
  const { below } = random(31);
  const chainOf = (childBlock: number, parentBlock: number, parentSize: number) => {
    const size = 8 * 64 * KIB;
    const base = filled(size, 40);
    const parentBlocks = Array.from({ length: Math.ceil(parentSize / parentBlock) }, (_, i) =>
      below(3) === 0 ? null : { data: base.slice(i * parentBlock, (i + 1) * parentBlock) },
    );
    const want = new Uint8Array(size);
    for (const [i, block] of parentBlocks.entries()) if (block !== null) want.set(block.data, i * parentBlock);
    want.fill(0, parentSize);
    const childBlocks = Array.from({ length: size / childBlock }, (_, i) => {
      if (below(3) === 0) return null;
      const data = filled(childBlock, 50 + i);
      const bits = Array.from({ length: childBlock / 512 }, () => below(2) === 0);
      for (const [sector, bit] of bits.entries()) {
        const at = sector * 512;
        if (bit) want.set(data.subarray(at, at + 512), i * childBlock + at);
      }
      return { data, bits };
    });
    const parent = blockVhd({ blockSize: parentBlock, blocks: parentBlocks, size: parentSize, uuid: uuidOf(1) });
    const locators = [{ code: 'W2ru', content: Buffer.from('.\\base.vhd', 'utf16le') }];
    const child = blockVhd({
      blockSize: childBlock,
      blocks: childBlocks,
      uuid: uuidOf(2),
      parent: { uuid: uuidOf(1), name: 'C:\\vm\\base.vhd', locators },
    });
    return { want, store: memoryStore({ 'base.vhd': parent, 'child.vhd': child }) };
  };
  const shapes = [
    ['the same block size', 64 * KIB, 64 * KIB, 8 * 64 * KIB],
    ['a child with half the parent’s blocks', 32 * KIB, 64 * KIB, 8 * 64 * KIB],
    ['a child larger than its parent', 64 * KIB, 16 * KIB, 5 * 16 * KIB + 512],
  ] as const;
  for (const [title, childBlock, parentBlock, parentSize] of shapes) {
    test(title, async () => {
      const { want, store } = chainOf(childBlock, parentBlock, parentSize);
      expect(Buffer.compare(await contentOf(store, 'child.vhd'), want)).toBe(0);
    });
  }

  const parentNames = async (locators: readonly { code: string; content: Uint8Array }[], name: string) => {
    const parent = { uuid: uuidOf(7), name, locators };
    await using image = await open(blockVhd({ blockSize: 4096, blocks: [null], uuid: uuidOf(2), parent }));
    expect(image.points[0]!.type).toBe('incremental');
    return { ref: image.points[0]!.parent, warnings: image.warnings };
  };

  test('names of the parent: relative ones first, absolute ones by their last part', async () => {
    const { ref, warnings } = await parentNames(
      [
        { code: 'W2ku', content: Buffer.from('D:\\vm\\two.vhd\0', 'utf16le') },
        { code: 'MacX', content: Buffer.from('file://localhost/vm/three%20x.vhd') },
        { code: 'W2ru', content: Buffer.from('..\\base\\one.vhd', 'utf16le') },
        { code: 'Zzzz', content: Buffer.from('?') },
      ],
      'C:\\vm\\four.vhd',
    );
    expect(ref).toEqual({
      by: 'id',
      id: `vhd:${uuidText(7)}`,
      names: ['../base/one.vhd', 'one.vhd', 'two.vhd', 'three x.vhd', 'four.vhd'],
    });
    expect(warnings).toEqual([]);
  });

  test('a locator outside the file is left out with a warning', async () => {
    const parent = { uuid: uuidOf(7), name: 'b.vhd', locators: [{ code: 'W2ru', content: new Uint8Array(8) }] };
    const file = blockVhd({ blockSize: 4096, blocks: [null], uuid: uuidOf(2), parent });
    viewOf(file).setUint32(512 + 576 + 8, 0xffff_ff00);
    resum(file, 512, 'header');
    await using image = await open(file);
    expect(image.warnings[0]).toContain('W2ru points outside the file');
    expect(image.points[0]!.parent).toMatchObject({ names: ['b.vhd'] });
  });
});

test('the identity changes with what the file says, and not with its name', async () => {
  const identityOf = async (file: Uint8Array, name = 'a.vhd') => {
    await using image = await vhd.open(name, memoryStore({ [name]: file }), keys);
    return image.points[0]!.identity;
  };
  const before = await identityOf(dynamic());
  expect(await identityOf(dynamic(), 'b.vhd')).toBe(before);
  const moved = dynamic();
  viewOf(moved).setUint32(1536, 0xffff_ffff);
  expect(await identityOf(moved)).not.toBe(before);
});
