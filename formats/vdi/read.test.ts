import { describe, expect, test } from 'vitest';
import { memoryStore } from '../../src/stores/memory.ts';
import { pattern } from '../../test/kit/disks.ts';
import { locate, openStack } from '../../test/kit/reference.ts';
import { counted } from '../../test/kit/tampered.ts';
import { uuidOf, vdiFile } from './fixtures.ts';
import { vdi } from './index.ts';
import { hasKeyStore } from './machine.ts';
import { Header, type HeaderFields, uuidText } from './structs.ts';

const keys = { secrets: async () => [] };
const BLOCK = 65_536;
const block = (seed: number): Uint8Array => {
  const data = new Uint8Array(BLOCK);
  pattern(data, 0, seed);
  return data;
};

const BASE = vdiFile({ blockSize: BLOCK, uuid: uuidOf(1), blocks: [block(1), block(2), 'free', block(3), 'free'] });
const CHILD = vdiFile({
  blockSize: BLOCK,
  uuid: uuidOf(50),
  parent: uuidOf(1),
  extra: 512,
  blocks: ['free', 'discarded', block(4), 'free', 'free'],
});

async function contentOf(files: Readonly<Record<string, Uint8Array>>, name: string): Promise<Uint8Array> {
  await using stack = await openStack({ adapter: vdi, store: memoryStore(files), name, keys });
  const content = new Uint8Array(stack.size);
  await stack.read(content, 0);
  return content;
}

describe('a differencing disk', () => {
  test('shows the parent where it was never written to, and zeros where it was discarded', async () => {
    const zeros = new Uint8Array(BLOCK);
    const want = Buffer.concat([block(1), zeros, block(4), block(3), zeros]);
    const got = await contentOf({ 'base.vdi': BASE, 'child.vdi': CHILD }, 'child.vdi');
    expect(Buffer.compare(got, want)).toBe(0);
  });

  test('names its parent by UUID, and the file that VirtualBox would give it', async () => {
    await using image = await vdi.open('child.vdi', memoryStore({ 'child.vdi': CHILD }), keys);
    const parent = uuidText(uuidOf(1));
    expect(image.points[0]).toMatchObject({
      id: `vdi:${uuidText(uuidOf(50))}`,
      parent: { by: 'id', id: `vdi:${parent}`, names: [`{${parent}}.vdi`] },
      type: 'incremental',
    });
    expect(parent).toBe('04030201-0605-0807-090a-0b0c0d0e0f10');
  });

  test('without its parent it is a broken chain, never zeros', async () => {
    await expect(contentOf({ 'child.vdi': CHILD }, 'child.vdi')).rejects.toMatchObject({ fault: 'broken-chain' });
    const stranger = vdiFile({ blockSize: BLOCK, uuid: uuidOf(2), blocks: [block(1)] });
    const files = { 'base.vdi': stranger, 'child.vdi': CHILD };
    await expect(contentOf(files, 'child.vdi')).rejects.toMatchObject({ fault: 'broken-chain' });
  });

  test('locate: absent, zero and plain', async () => {
    await using image = await vdi.open('c', memoryStore({ c: CHILD }), keys);
    const layer = image.points[0]!.disks[0]!.layer!;
    expect(layer.locate(0, 1)).toBeNull();
    expect(await locate(layer, 0, layer.size)).toEqual({ kind: 'absent', length: BLOCK });
    expect(layer.locate(BLOCK + 5, 100)).toEqual({ kind: 'zero', length: 100 });
    expect(layer.locate(3 * BLOCK - 1, 5)).toMatchObject({ kind: 'plain', length: 1, at: 1024 + 512 + BLOCK - 1 });
    expect(layer.locate(3 * BLOCK, 2 * BLOCK)).toEqual({ kind: 'absent', length: 2 * BLOCK });
  });
});

/** Open fails for BASE with these fields changed. */
async function faultWith(change: Partial<HeaderFields>) {
  const file = BASE.slice();
  file.set(Header.build({ ...Header.parse(file), ...change }));
  await using store = memoryStore({ 'x.vdi': file });
  const { store: watched, open } = counted(store);
  const failed = await vdi.open('x.vdi', watched, keys).then(
    () => null,
    error => error,
  );
  expect(open()).toBe(0);
  return failed;
}

describe('refused by name, with file, offset and field', () => {
  test.each<[string, Partial<HeaderFields>, string, string]>([
    ['version 0.1', { version: 1 }, 'unsupported', 'version'],
    ['an undo disk', { imageType: 3 }, 'unsupported', 'imageType'],
    ['an unknown type', { imageType: 5 }, 'unsupported', 'imageType'],
    ['a parent of a base', { parentUuid: uuidOf(7) }, 'corrupt', 'parentUuid'],
    ['a child without a parent', { imageType: 4 }, 'corrupt', 'parentUuid'],
    ['sectors of 4 KiB', { sectorSize: 4096 }, 'unsupported', 'sectorSize'],
    ['odd blocks', { blockSize: 65_537 }, 'unsupported', 'blockSize'],
    ['huge blocks', { blockSize: 2 ** 31 }, 'unsupported', 'blockSize'],
    ['odd extra bytes', { blockExtra: 3 }, 'unsupported', 'blockExtra'],
    ['no disk', { diskSize: 0 }, 'corrupt', 'diskSize'],
    ['too few blocks', { diskSize: 6 * BLOCK }, 'corrupt', 'blocks'],
    ['a map longer than the file', { blocks: 0xffff_ffff }, 'corrupt', 'blocks'],
    ['a map inside the header', { mapOffset: 0 }, 'corrupt', 'mapOffset'],
    ['data inside the map', { dataOffset: 512 }, 'corrupt', 'dataOffset'],
    ['a header without end', { headerLength: 0xffff_ffff }, 'corrupt', 'headerLength'],
  ])('%s', async (_name, change, fault, field) => {
    const at = Header.offsetOf(field as keyof HeaderFields);
    expect(await faultWith(change)).toMatchObject({ fault, where: { file: 'x.vdi', at, field } });
  });

  test('what is no VDI', async () => {
    const opening = vdi.open('x', memoryStore({ x: new Uint8Array(4096) }), keys);
    await expect(opening).rejects.toMatchObject({ fault: 'not-this-format' });
  });
});

test('a block beyond the end of the file fails when it is read, and only that one', async () => {
  const file = BASE.slice();
  new DataView(file.buffer).setUint32(512 + 4, 77, true);
  await using image = await vdi.open('x.vdi', memoryStore({ 'x.vdi': file }), keys);
  const layer = image.points[0]!.disks[0]!.layer!;
  expect(await locate(layer, 0, layer.size)).toMatchObject({ kind: 'plain', length: BLOCK });
  expect(() => layer.locate(BLOCK, 1)).toThrowError(
    expect.objectContaining({ fault: 'corrupt', where: { file: 'x.vdi', at: 516, field: 'map' } }),
  );
});

test('a disk that ends inside a sector is filled up, and says so', async () => {
  const odd = vdiFile({ blockSize: BLOCK, uuid: uuidOf(1), blocks: [block(1)], size: 1000 });
  await using image = await vdi.open('x.vdi', memoryStore({ 'x.vdi': odd }), keys);
  expect(image.points[0]!.disks[0]!.size).toBe(1024);
  expect(image.warnings).toEqual([expect.stringContaining('1000 bytes is filled up')]);
});

test('identity follows header, map and size', async () => {
  const identity = async (file: Uint8Array): Promise<string> => {
    await using image = await vdi.open('x', memoryStore({ x: file }), keys);
    return image.points[0]!.identity;
  };
  const changed = BASE.slice();
  changed[512] = 1;
  expect(await identity(BASE.slice())).toBe(await identity(BASE));
  expect(await identity(changed)).not.toBe(await identity(BASE));
});

describe('encryption, as the machine settings tell', () => {
  const uuid = uuidText(uuidOf(1));
  const child = uuidText(uuidOf(50));
  const settings = (property: string): string => `<?xml version="1.0"?>
<VirtualBox><Machine><MediaRegistry><HardDisks>
  <HardDisk uuid="{11111111-0605-0807-090a-0b0c0d0e0f10}" location="other.vdi" format="VDI" type="Normal"/>
  <HardDisk uuid="{${uuid}}" location="web.vdi" format="VDI" type="Normal">
    ${property}
    <HardDisk uuid="{${child}}" location="Snapshots/{${child}}.vdi" format="VDI"/>
  </HardDisk>
  <HardDisk uuid="{22222222-0605-0807-090a-0b0c0d0e0f10}" location="third.vdi" format="VDI"/>
</HardDisks></MediaRegistry></Machine></VirtualBox>`;
  const keyed = settings(
    '<Property name="CRYPT/KeyId" value="web"/><Property name="CRYPT/KeyStore" value="U0NORQ=="/>',
  );
  const text = (content: string): Uint8Array => new TextEncoder().encode(content);

  test('a key store locks its disk and those inside of it, and no others', () => {
    expect(hasKeyStore(keyed, uuid)).toBe(true);
    expect(hasKeyStore(keyed, child)).toBe(true);
    for (const first of ['11111111', '22222222']) {
      expect(hasKeyStore(keyed, `${first}-0605-0807-090a-0b0c0d0e0f10`)).toBe(false);
    }
    expect(hasKeyStore(settings(''), uuid)).toBe(false);
  });

  test.each([
    ['vms/web/web.vdi', 'vms/web/web.vbox'],
    ['vms/web/disk.vdi', 'vms/web/web.vbox'],
    ['vms/web/Snapshots/{x}.vdi', 'vms/web/web.vbox'],
    ['disk.vdi', 'disk.vbox'],
  ])('%s is refused because of %s', async (name, beside) => {
    const open = async (content: string) => {
      await using image = await vdi.open(name, memoryStore({ [name]: BASE, [beside]: text(content) }), keys);
      return { encrypted: image.encrypted, point: image.points[0]! };
    };
    const locked = await open(keyed);
    expect(locked.encrypted).toBe(true);
    expect(locked.point).toMatchObject({ problem: { fault: 'unsupported' }, disks: [{ layer: null }] });
    expect((await open(settings(''))).point.problem).toBeNull();
  });
});
