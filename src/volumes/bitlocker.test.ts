/** BitLocker volumes: those that the test writes, checked by cryptsetup and dislocker, and those that Windows wrote. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  AREA,
  type BitLockerSpec,
  bekFile,
  bitLockerImage,
  type Method,
  PASSPHRASE,
  planFor,
  RECOVERY,
} from '../../test/kit/bitlocker-image.ts';
import { memoryDisk } from '../../test/kit/disks.ts';
import { SAMPLES } from '../../test/kit/samples.ts';
import { emptyImage, lacking, noise, scratch, tool } from '../../test/kit/volume-images.ts';
import { imageDisk, linesOf, volumesOn, walk } from '../../test/kit/volume-walk.ts';
import { encryptedIn } from './encrypted.ts';
import type { Stretch } from './stretch.ts';

const MIB = 2 ** 20;
const SIZE = 4 * MIB;
const folder = scratch();
const cannot = lacking('mkfs.fat', 'mcopy');
let plain: Uint8Array;
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

/** Something everywhere but where BitLocker puts what is its own. */
function full(spec: BitLockerSpec): Uint8Array {
  const bytes = noise(SIZE, 3);
  const { areas, headerAt } = planFor(SIZE, spec);
  for (const at of areas) bytes.fill(0, at, at + AREA);
  bytes.fill(0, headerAt, headerAt + 8192);
  return bytes;
}

async function opened(image: Buffer, ...secrets: readonly Uint8Array[]): Promise<Stretch> {
  const disk = memoryDisk(image);
  const stretch = { its: 'disk0 p1', folder: 'p1', described: true, label: '', disk, start: 0, size: image.length };
  const encrypted = await encryptedIn({ ...stretch, place: () => null }, 'first', () => undefined);
  return encrypted!.unlock({ secrets: async () => secrets });
}

async function contentOf({ disk }: Stretch): Promise<Uint8Array> {
  const into = new Uint8Array(disk.size);
  await disk.read(into, 0);
  // Reads that begin and end within sectors, and within what lies elsewhere.
  for (const [at, length] of [
    [8000, 1000],
    [planFor(SIZE, { method: 'xts-128' }).areas[1] - 5, AREA + 10],
    [disk.size - 77, 77],
  ] as const) {
    const part = new Uint8Array(length);
    await disk.read(part, at);
    expect(Buffer.compare(part, into.subarray(at, at + length))).toBe(0);
  }
  return into;
}

const secret = (text: string): Uint8Array => new TextEncoder().encode(text);
const METHODS: readonly Method[] = ['elephant-128', 'elephant-256', 'cbc-128', 'cbc-256', 'xts-128', 'xts-256'];

describe('every method', () => {
  test.for(METHODS)('%s', { timeout: 120_000 }, async method => {
    const spec: BitLockerSpec = { method, protectors: ['passphrase'] };
    const image = bitLockerImage(full(spec), spec);
    expect(Buffer.compare(await contentOf(await opened(image, secret(PASSPHRASE))), full(spec))).toBe(0);
    const file = path.join(folder, method);
    fs.writeFileSync(file, image);
    if (lacking('cryptsetup') === '')
      execFileSync('cryptsetup', ['open', '--type', 'bitlk', '--test-passphrase', file], { input: PASSPHRASE });
    if (lacking('dislocker-file') !== '') return;
    execFileSync('dislocker-file', ['-q', '-V', file, `-u${PASSPHRASE}`, '--', `${file}.plain`], { stdio: 'pipe' });
    expect(Buffer.compare(fs.readFileSync(`${file}.plain`), full(spec))).toBe(0);
  });

  test.for([
    { method: 'xts-128', sectorSize: 4096, protectors: ['suspended'] },
    { method: 'cbc-128', sectorSize: 4096, protectors: ['suspended'] },
    { method: 'xts-256', removable: true, protectors: ['suspended'] },
    { method: 'cbc-256', encryptedSize: 3 * MIB + 512, protectors: ['suspended'] },
    { method: 'elephant-128', encryptedSize: MIB + 512, protectors: ['suspended'] },
  ] as const)('%o', async spec => {
    const content = await contentOf(await opened(bitLockerImage(full(spec), spec)));
    expect(Buffer.compare(content, full(spec))).toBe(0);
  });
});

describe('keys', () => {
  const spec: BitLockerSpec = { method: 'xts-128', protectors: ['passphrase', 'recovery', 'external'] };
  let image: Buffer;
  beforeAll(() => {
    image = bitLockerImage(full(spec), spec);
  }, 120_000);

  test.each([
    ['recovery key', () => [secret(RECOVERY)]],
    ['recovery key after a passphrase that does not fit', () => [secret('no'), secret(RECOVERY.replaceAll('-', ' '))]],
    ['BEK file', () => [bekFile()]],
  ])('%s', { timeout: 120_000 }, async (_name, secrets) => {
    expect(Buffer.compare(await contentOf(await opened(image, ...secrets())), full(spec))).toBe(0);
  });

  test('none, and wrong ones', { timeout: 120_000 }, async () => {
    const of = async (...secrets: readonly string[]) => (await volumesOn([memoryDisk(image)], ...secrets)).locked;
    const locked = { name: 'p0-bitlocker', type: 'bitlocker' };
    expect(await of()).toEqual([{ ...locked, reason: 'encrypted with BitLocker, and there is no key' }]);
    const wrong = RECOVERY.replace('000011', '000022');
    const reason = 'no key given opens the BitLocker volume';
    expect(await of('correct Horse', wrong)).toEqual([{ ...locked, reason }]);
  });
});

test.skipIf(cannot !== '')(`a file system inside ${cannot}`, { timeout: 120_000 }, async () => {
  const file = path.join(folder, 'fat');
  emptyImage(file, SIZE);
  tool('mkfs.fat', ['-F', '12', '-n', 'SECRET', file]);
  fs.writeFileSync(path.join(folder, 'text'), 'inside '.repeat(3000));
  tool('mcopy', ['-i', file, path.join(folder, 'text'), '::A long name.txt']);
  plain = new Uint8Array(fs.readFileSync(file));
  const image = bitLockerImage(plain, { method: 'xts-128', protectors: ['suspended'] });
  const { volumes, locked, notes } = await volumesOn([memoryDisk(image)]);
  expect([locked, notes]).toEqual([[], []]);
  expect(volumes.map(({ name }) => name)).toEqual(['p0-fat12-SECRET']);
  const digest = createHash('sha256').update('inside '.repeat(3000)).digest('hex');
  expect(linesOf(await walk(volumes[0]!.volume.root))).toEqual({ 'A long name.txt': `file 21000 ${digest}` });
});

describe('damage', () => {
  const spec: BitLockerSpec = { method: 'xts-128', protectors: ['suspended'] };
  const { areas } = planFor(SIZE, spec);
  const notes = async (change: (image: Buffer) => void): Promise<readonly string[]> => {
    const image = bitLockerImage(new Uint8Array(SIZE), spec);
    change(image);
    return (await volumesOn([memoryDisk(image)])).notes;
  };

  test('of one copy of the metadata, and of all', async () => {
    const image = bitLockerImage(full(spec), spec);
    for (const at of areas.slice(0, 2)) image[at + 120]! ^= 1;
    expect(Buffer.compare(await contentOf(await opened(image)), full(spec))).toBe(0);
    image[areas[2] + 120]! ^= 1;
    await expect(opened(image)).rejects.toThrow('no copy of the metadata of BitLocker is sound');
  });

  test('what is not known is refused by name', async () => {
    expect(await notes(image => image.write('3b4da892', 160, 'hex'))).toEqual([expect.stringContaining('BitLocker')]);
    expect(await notes(image => image.writeUInt16LE(2048, 11))).toEqual([
      expect.stringContaining('BitLocker with sectors of 2048 bytes'),
    ]);
    const vista = await notes(image => {
      for (const at of areas) image.writeUInt16LE(1, at + 10);
    });
    expect(vista).toEqual([expect.stringContaining('BitLocker of Windows Vista is not read')]);
    const converting = await notes(image => image.write('3b4da89280dd0e4d9e4eb1e3284eaed8', 160, 'hex'));
    expect(converting).toEqual([expect.stringContaining('encrypted with BitLocker while it is written to')]);
  });
});

/** Made by Windows: the images of cryptsetup's own tests, with the digests of what they hold. */
const WINDOWS = path.join(SAMPLES, 'filesystems/mbroz+cryptsetup/bitlk-images.tar.xz');
const long = process.env.BOOTMOUNT_LONG === '1';
const absent = fs.existsSync(WINDOWS) ? (long ? '' : 'BOOTMOUNT_LONG=1 runs it') : `sample ${WINDOWS} is not here`;

test.skipIf(absent !== '')(`volumes of Windows ${absent}`, { timeout: 3_600_000 }, async () => {
  tool('tar', ['-C', folder, '-xJf', WINDOWS]);
  const images = path.join(folder, 'bitlk-images');
  const sections = fs.readFileSync(path.join(images, 'images.conf'), 'utf8').split(/^\[/m).slice(1);
  let checked = 0;
  for (const section of sections) {
    const name = section.slice(0, section.indexOf(']'));
    const field = (key: string): string => new RegExp(`^${key}=(.*)$`, 'm').exec(section)?.[1] ?? '';
    if (field('SHA256SUM') === '') continue;
    await using disk = await imageDisk(path.join(images, `${name}.img`));
    const secrets = ['PW', 'RP']
      .map(field)
      .filter(text => text !== '')
      .map(secret);
    const whole = { its: name, folder: 'p0', described: true, label: '', disk, start: 0, size: disk.size };
    const encrypted = await encryptedIn({ ...whole, place: () => null }, 'first', () => undefined);
    const { disk: open } = await encrypted!.unlock({ secrets: async () => secrets });
    const digest = createHash('sha256');
    for (let at = 0; at < open.size; at += MIB) {
      const part = new Uint8Array(Math.min(MIB, open.size - at));
      await open.read(part, at);
      digest.update(part);
    }
    expect(digest.digest('hex'), name).toBe(field('SHA256SUM'));
    checked++;
  }
  expect(checked).toBeGreaterThan(15);
});
