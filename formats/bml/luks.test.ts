/** Sets whose blocks are LUKS sectors (cipher aes-256-xts): read, merged and exported; QEMU and cryptsetup judge. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Problem } from '../../src/base/contracts.ts';
import { type MemoryStore, memoryStore } from '../../src/stores/memory.ts';
import { installed, run } from '../../test/kit/oracles.ts';
import { consolidateBml } from './consolidate.ts';
import { editKeys } from './key-edit.ts';
import { CHEAP, layerOf, openLayer, pattern, readAll, SECRET, specOf, type Write, writeLayer } from './kit.ts';
import { openLuksImage } from './luks-image.ts';
import { recordsOf, sealChecksums, sealSum } from './raw-records.ts';
import { KINDS, RECORD_HEADER } from './structs.ts';
import { createBml } from './write.ts';

const SIZE = 300 * 4096 + 1536;
const GROWN = 330 * 4096 + 512;
const xts = { secret: SECRET, cipher: 'aes-256-xts' } as const;
const signal = new AbortController().signal;

/** A full, and three incrementals: changes, zeros, growth. */
async function chain(blockSize = 4096): Promise<MemoryStore> {
  const store = memoryStore();
  const scale = blockSize / 4096;
  for (let i = 0; i < 4; i++) {
    const size = i < 2 ? SIZE : GROWN;
    await using parent = i === 0 ? null : await openLayer(store, `${i - 1}.bml`, SECRET);
    const blocks = Math.floor(SIZE / blockSize);
    const writes = Array.from(
      { length: i === 0 ? 100 : 12 },
      (_, n): Write => [
        0,
        (n * 7 * (i + 1)) % Math.max(1, Math.floor(blocks / scale)),
        n % 5 === 4 ? 'zero' : n % 11 === 3 ? 'absent' : pattern(blockSize, i * 500 + n),
      ],
    );
    await writeLayer(store, `${i}.bml`, { size, blockSize, parent, ...xts }, writes);
  }
  return store;
}

const merge = (store: MemoryStore, ...files: readonly string[]) =>
  consolidateBml(store, { files, signal, progress() {} });

async function contentOf(store: MemoryStore, name: string): Promise<Uint8Array> {
  await using image = await openLayer(store, name, SECRET);
  return readAll(layerOf(image));
}

async function exported(store: MemoryStore, file: string): Promise<Uint8Array> {
  await using disk = await openLuksImage(store, { file, time: null, disk: 'disk0' });
  const image = new Uint8Array(disk.size);
  const step = 100_352;
  for (let at = 0; at < image.length; at += step) await disk.read(image.subarray(at, at + step), at);
  return image;
}

async function verified(store: MemoryStore, name: string, level: 1 | 2 | 3, secret: Uint8Array | null) {
  const found: Problem[] = [];
  await using image = await openLayer(store, name, secret);
  await image.verify!({ level, found: p => found.push(p), progress() {}, signal });
  return found;
}

let folder = '';
beforeAll(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bml-luks-'));
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

function put(name: string, data: Uint8Array): string {
  const file = path.join(folder, name);
  fs.writeFileSync(file, data, { mode: 0o600 });
  return file;
}

/** Whether QEMU reads the image, with the secret, as the plain file. */
async function qemuCompares(image: string, plain: string, secret: Uint8Array): Promise<{ code: number; text: string }> {
  const key = put('secret', secret);
  const options = `driver=luks,key-secret=sec0,file.driver=file,file.filename=${image}`;
  const args = ['compare', '--object', `secret,id=sec0,file=${key}`, '--image-opts', options];
  const { code, out, err } = await run('qemu-img', [...args, `driver=raw,file.driver=file,file.filename=${plain}`]);
  return { code, text: out + err };
}

const qemu = installed('qemu-img');
const cryptsetup = installed('cryptsetup');

describe('sets of cipher aes-256-xts', () => {
  test.skipIf(!qemu).each([4096, 65_536])(
    'in blocks of %i bytes: exported without the key, QEMU reads the same disk',
    async blockSize => {
      const store = await chain(blockSize);
      for (const name of ['0.bml', '1.bml', '2.bml', '3.bml']) {
        const plain = put('plain.raw', await contentOf(store, name));
        const image = put('out.luks', await exported(store, name));
        expect(await qemuCompares(image, plain, SECRET), name).toMatchObject({
          code: 0,
          text: expect.stringMatching(/identical/),
        });
      }
      const [middle, tip] = [await contentOf(store, '2.bml'), await contentOf(store, '3.bml')];
      await merge(store, '0.bml', '1.bml', '2.bml');
      for (const [name, content] of [
        ['2.bml', middle],
        ['3.bml', tip],
      ] as const) {
        expect(Buffer.compare(await contentOf(store, name), content)).toBe(0);
        expect(await verified(store, name, 3, SECRET)).toEqual([]);
        expect(await verified(store, name, 2, null)).toEqual([]);
        const image = put('merged.luks', await exported(store, name));
        expect((await qemuCompares(image, put('plain.raw', content), SECRET)).code, name).toBe(0);
      }
      // Control: the comparison tells one bit.
      const other = tip.slice();
      other[SIZE - 5]! ^= 1;
      expect((await qemuCompares(path.join(folder, 'merged.luks'), put('plain.raw', other), SECRET)).code).toBe(1);
    },
  );

  test('a full has every block, and the ciphertext of one place of equal content is the same', async () => {
    const store = memoryStore();
    await writeLayer(store, 'a.bml', { size: SIZE, ...xts }, [[0, 3, pattern(4096, 1)]]);
    const data = recordsOf(store.bytes('a.bml')).filter(({ kind }) => kind === KINDS.data);
    expect(data).toHaveLength(301);
    expect(await verified(store, 'a.bml', 3, SECRET)).toEqual([]);
    await using image = await openLayer(store, 'a.bml', SECRET);
    expect(image).toMatchObject({ encrypted: true, cipher: 'aes-256-xts' });
  });

  test('disks of no whole sectors, and a cipher that is not the set’s, are refused', async () => {
    const store = memoryStore();
    const odd = createBml('a.bml', store, specOf({ size: 5000, ...xts }));
    await expect(odd).rejects.toMatchObject({
      fault: 'usage',
      message: expect.stringContaining('no whole sectors of 512'),
    });
    await writeLayer(store, 'a.bml', { secret: SECRET }, []);
    await using parent = await openLayer(store, 'a.bml', SECRET);
    const child = createBml('b.bml', store, { ...specOf({ parent, secret: SECRET }), cipher: 'aes-256-xts' });
    await expect(child).rejects.toMatchObject({ fault: 'usage' });
    const gcm = openLuksImage(store, { file: 'a.bml', time: null, disk: 'disk0' });
    await expect(gcm).rejects.toMatchObject({
      fault: 'unsupported',
      message: expect.stringContaining('--cipher aes-256-xts'),
    });
  });

  test('a flipped bit of ciphertext is found without the key, also under a right checksum, and never exported', async () => {
    const store = await chain();
    const bytes = store.bytes('1.bml');
    const record = recordsOf(bytes).find(({ kind }) => kind === KINDS.data)!;
    bytes[record.at + RECORD_HEADER + 100]! ^= 1;
    store.put('1.bml', bytes);
    const fault = expect.objectContaining({ fault: 'corrupt' });
    expect(await verified(store, '1.bml', 1, null)).toEqual([fault]);
    expect(await verified(store, '1.bml', 3, SECRET)).toContainEqual(
      expect.objectContaining({ fault: 'corrupt', disk: 'disk0' }),
    );
    await expect(exported(store, '1.bml')).rejects.toMatchObject({ fault: 'corrupt' });
    sealChecksums(bytes.subarray(record.at, record.at + record.length));
    sealSum(bytes);
    store.put('1.bml', bytes);
    expect(await verified(store, '1.bml', 1, null)).toEqual([]);
    expect(await verified(store, '1.bml', 2, null)).toEqual([fault]);
    await expect(exported(store, '1.bml')).rejects.toMatchObject({
      fault: 'corrupt',
      message: expect.stringMatching(/digest/),
    });
    await expect(contentOf(store, '1.bml')).rejects.toMatchObject({
      fault: 'corrupt',
      message: expect.stringMatching(/digest/),
    });
    await expect(merge(store, '0.bml', '1.bml')).rejects.toMatchObject({ fault: 'corrupt' });
  });

  test.skipIf(!qemu)('sectors numbered wrongly are another disk to QEMU', async () => {
    const store = await chain();
    const content = await contentOf(store, '3.bml');
    const image = await exported(store, '3.bml');
    // One sector more in front: each is deciphered under the number of the next.
    const shifted = new Uint8Array(image.length);
    shifted.set(image.subarray(0, 2 ** 21));
    shifted.set(image.subarray(2 ** 21, image.length - 512), 2 ** 21 + 512);
    const found = await qemuCompares(put('shifted.luks', shifted), put('plain.raw', content), SECRET);
    expect(found).toMatchObject({ code: 1, text: expect.stringMatching(/mismatch/) });
  });

  test.skipIf(!cryptsetup)(
    'cryptsetup accepts the image; keys that are added open it, keys that are removed do not',
    async () => {
      const store = await chain();
      const other = Buffer.from('another one');
      const opens = async (secret: Uint8Array): Promise<boolean> => {
        const args = ['open', '--test-passphrase', '--type', 'luks1', '--key-file', put('secret', secret)];
        return (await run('cryptsetup', [...args, path.join(folder, 'keys.luks')])).code === 0;
      };
      const change = async (edit: Parameters<typeof editKeys>[1]['edit'], present: Uint8Array) => {
        const files = ['0.bml', '1.bml', '2.bml', '3.bml'];
        const openForWriting = (name: string) => store.reopen(name);
        await editKeys(store, {
          files,
          edit,
          present: [present],
          openForWriting,
          derivations: CHEAP,
          luksIterations: 1000,
        });
        put('keys.luks', await exported(store, '3.bml'));
      };
      put('keys.luks', await exported(store, '3.bml'));
      const { out } = await run('cryptsetup', ['luksDump', path.join(folder, 'keys.luks')]);
      expect(out).toMatch(/Cipher mode:\s+xts-plain64/);
      expect(out).toMatch(/MK bits:\s+512/);
      expect([await opens(SECRET), await opens(other)]).toEqual([true, false]);
      await change({ kind: 'add', secret: other, label: 'second' }, SECRET);
      expect([await opens(SECRET), await opens(other)]).toEqual([true, true]);
      const third = Buffer.from('a third');
      await change({ kind: 'change', secret: third, label: '' }, SECRET);
      expect([await opens(SECRET), await opens(other), await opens(third)]).toEqual([false, true, true]);
      await using image = await openLayer(store, '3.bml', third);
      expect(image.points[0]!.problem).toBeNull();
    },
  );
});
