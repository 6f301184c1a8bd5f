/** QCOW2 with LUKS, written by QEMU. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { memoryStore } from '../../src/stores/memory.ts';
import { adapterKit, type MadeImage } from '../../test/kit/adapter-kit.ts';
import {
  createEncrypted,
  writeEncrypted as io,
  ENCRYPTED_NEEDS as NEEDS,
  encryptedOptions as optionsOf,
  qemuEncrypted as qemu,
} from '../../test/kit/encrypted-qcow2.ts';
import { missing, qemuImg } from '../../test/kit/oracles.ts';
import { openStack } from '../../test/kit/reference.ts';
import { scratch } from '../../test/kit/samples.ts';
import { raw } from '../raw/index.ts';
import { qcow2 } from './index.ts';

const SECRET = 'open sesame';
const SIZE = 6 * 2 ** 20;

const WRITES = [
  'write -P 1 0 200k',
  'write -P 2 1M 1M',
  'write -P 3 3000k 1',
  'write -z 1100k 64k',
  'write -P 4 6143k 1k',
];

function image(title: string, options: string, more: (folder: string) => void = () => {}): MadeImage {
  return {
    title,
    needs: NEEDS,
    secret: SECRET,
    // The header with its extensions; what follows holds the guest's bytes, which nothing covers.
    structures: () => [{ at: 0, length: 160, checked: false }],
    async make(folder) {
      if (options.includes('backing_file')) {
        await qemuImg.create(path.join(folder, 'base.raw'), 'raw', SIZE);
        execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -P 9 0 6M', path.join(folder, 'base.raw')]);
      }
      createEncrypted(folder, 'made.qcow2', { options, size: SIZE, secret: SECRET });
      io(folder, 'made.qcow2', WRITES);
      more(folder);
      qemu(folder, 'qemu-img', ['convert', '-O', 'raw', '--image-opts', optionsOf('made.qcow2'), 'made.raw']);
      fs.rmSync(path.join(folder, 'key'));
      return { file: 'made.qcow2', raw: 'made.raw' };
    },
  };
}

adapterKit(qcow2, {
  images: [
    image('LUKS', 'cluster_size=64k'),
    image('LUKS, over a plain base', 'backing_file=base.raw,backing_fmt=raw,cluster_size=4k'),
    image('LUKS, clusters of 2 MiB and freed ones', 'cluster_size=2M', folder =>
      io(folder, 'made.qcow2', ['discard 0 2M', 'write -P 7 10k 3k']),
    ),
    image('LUKS, extended L2', 'extended_l2=on,cluster_size=128k'),
  ],
  others: [raw],
  skip: [{ test: 'probe', reason: 'the samples are enough for this' }],
});

describe.skipIf(missing(NEEDS) !== null)('LUKS', () => {
  let folder = '';
  let plain: Uint8Array;
  let file: Buffer;
  const keys = (...secrets: readonly string[]) => ({ secrets: async () => secrets.map(secret => Buffer.from(secret)) });
  beforeAll(() => {
    folder = scratch();
    createEncrypted(folder, 'a.qcow2', { options: 'cluster_size=64k', size: SIZE, secret: SECRET });
    io(folder, 'a.qcow2', WRITES);
    qemu(folder, 'qemu-img', ['convert', '-O', 'raw', '--image-opts', optionsOf('a.qcow2'), 'a.raw']);
    qemu(folder, 'qemu-img', ['snapshot', '-c', 'first', '--image-opts', optionsOf('a.qcow2')]);
    io(folder, 'a.qcow2', ['write -P 8 0 4M']);
    plain = fs.readFileSync(path.join(folder, 'a.raw'));
    file = fs.readFileSync(path.join(folder, 'a.qcow2'));
  });
  afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

  test('an internal snapshot is deciphered too; keys are tried in their order', async () => {
    const store = memoryStore({ 'a.qcow2': file });
    await using stack = await openStack({ adapter: qcow2, store, name: 'a.qcow2', keys: keys('no', SECRET), point: 0 });
    const got = new Uint8Array(stack.size);
    await stack.read(got, 0);
    expect(Buffer.compare(got, plain)).toBe(0);
  });

  test('without the key structure can be verified, and is', async () => {
    await using image = await qcow2.open('a.qcow2', memoryStore({ 'a.qcow2': file }), keys());
    const found: string[] = [];
    const run = {
      progress() {},
      signal: new AbortController().signal,
      found: (p: { message: string }) => found.push(p.message),
    };
    expect((await image.verify!({ ...run, level: 3 })).checked).toBeGreaterThan(0);
    expect(found).toEqual([]);
    expect(image.points.map(point => point.problem?.fault)).toEqual(['locked', 'locked']);
  });

  test.each<[string, (bytes: Buffer, at: number) => void, string, RegExp]>([
    ['the header of LUKS past the end', (b, at) => b.writeBigUInt64BE(2n ** 40n, at + 8), 'corrupt', /not in the file/],
    ['none at all', (b, at) => b.writeUInt32BE(0x1234_5678, at), 'corrupt', /not in the file/],
    ['something else in its place', (b, at) => b.writeBigUInt64BE(0n, at + 8), 'corrupt', /no header of LUKS/],
    ['the old AES', b => b.writeUInt32BE(1, 32), 'unsupported', /AES in its old form/],
    ['a method that nobody knows', b => b.writeUInt32BE(3, 32), 'unsupported', /method 3/],
  ])('%s', async (_, change, fault, message) => {
    const bytes = Buffer.from(file);
    change(bytes, bytes.readUInt32BE(100));
    await using image = await qcow2.open('a.qcow2', memoryStore({ 'a.qcow2': bytes }), keys(SECRET));
    const { problem, disks } = image.points.at(-1)!;
    expect(problem?.fault).toBe(fault);
    expect(problem?.message).toMatch(message);
    expect(disks[0]!.layer).toBeNull();
  });
});
