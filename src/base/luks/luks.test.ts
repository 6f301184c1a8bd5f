/** LUKS as cryptsetup and QEMU write it, content and all; neither needs device-mapper or root for that. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { random } from '../../../test/kit/random.ts';
import type { Keyring } from '../contracts.ts';
import { decipheredDisk } from '../deciphered-disk.ts';
import { type LuksHeader, type LuksSource, luksHeader, unlockLuks } from './index.ts';

const env = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` };
const run = (program: string, ...args: string[]): string =>
  execFileSync(program, args, { cwd: folder, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
const has = (program: string): boolean => env.PATH.split(':').some(dir => fs.existsSync(path.join(dir, program)));

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-luks-'));
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const MIB = 2 ** 20;
const SIZE = 3 * MIB;
const SECRET = 'open sesame';
const SOME = ['--reduce-device-size', '32M', '--key-file', 'key', '-q'];
const PBKDF2 = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];
const ARGON2ID = ['--pbkdf-memory', '64', '--pbkdf-parallel', '2', '--pbkdf-force-iterations', '4'];
const content = Buffer.alloc(SIZE);

beforeAll(() => {
  const { below } = random(11);
  for (let i = 0; i < SIZE; i++) content[i] = below(256);
  fs.writeFileSync(path.join(folder, 'plain'), content);
  fs.writeFileSync(path.join(folder, 'key'), SECRET);
});

/** The content as LUKS2 makes it of a plain file, in place. */
function luks2(name: string, ...options: string[]): Buffer {
  const file = path.join(folder, name);
  fs.copyFileSync(path.join(folder, 'plain'), file);
  fs.truncateSync(file, 32 * MIB + SIZE);
  run('cryptsetup', 'reencrypt', '--encrypt', '--type', 'luks2', ...SOME, ...options, file);
  return fs.readFileSync(file);
}

/** The content as QEMU writes it into a volume that cryptsetup made. */
function luks1(name: string, ...options: string[]): Buffer {
  const file = path.join(folder, name);
  fs.writeFileSync(file, '');
  fs.truncateSync(file, 2 * MIB + SIZE);
  run('cryptsetup', 'luksFormat', '-q', '--type', 'luks1', '--pbkdf-force-iterations', '1000', ...options, file, 'key');
  const secret = ['--object', `secret,id=s,data=${SECRET}`];
  const target = `driver=luks,file.filename=${file},key-secret=s`;
  run('qemu-img', 'convert', '-n', ...secret, '--target-image-opts', 'plain', target);
  return fs.readFileSync(file);
}

const sourceOf = (bytes: Buffer): LuksSource => ({
  name: 'image',
  size: bytes.length,
  read(into, at) {
    if (at + into.length > bytes.length) throw new RangeError('past the end');
    into.set(bytes.subarray(at, at + into.length));
  },
});
const keys = (...secrets: string[]): Keyring => ({ secrets: async () => secrets.map(text => Buffer.from(text)) });

async function plainOf(bytes: Buffer, ring: Keyring): Promise<{ header: LuksHeader; plain: Buffer }> {
  const source = sourceOf(bytes);
  const header = (await luksHeader(source))!;
  const cipher = await unlockLuks(source, header, ring);
  const { payloadAt: start, payloadSize } = header;
  const below = { ...source, sectorSize: 512 as const };
  await using disk = decipheredDisk({ id: 'x', below, start, size: payloadSize ?? bytes.length - start, cipher });
  const plain = Buffer.alloc(disk.size);
  await disk.read(plain, 0);
  return { header, plain };
}

const faultOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'none',
    error => `${error.fault}: ${error.message}`,
  );

const digest = (bytes: Buffer): string => createHash('sha256').update(bytes.subarray(0, SIZE)).digest('hex');

describe.skipIf(!has('qemu-img') || !has('cryptsetup'))('LUKS1 by cryptsetup and QEMU', () => {
  test.each([
    ['aes-xts-plain64', '512', 'sha256'],
    ['aes-xts-plain', '256', 'sha1'],
    ['aes-cbc-essiv:sha256', '256', 'sha512'],
    ['aes-cbc-plain64', '128', 'sha256'],
  ])('%s, keys of %s bits, %s', async (cipher, keySize, hash) => {
    const bytes = luks1('luks1', '--cipher', cipher, '--key-size', keySize, '--hash', hash);
    const { header, plain } = await plainOf(bytes, keys('something else', SECRET));
    expect(header).toMatchObject({ version: 1, cipher, sectorSize: 512 });
    expect(digest(plain)).toBe(digest(content));
    expect(await faultOf(plainOf(bytes, keys()))).toMatch(/^locked: encrypted with LUKS1, and there is no key/);
    expect(await faultOf(plainOf(bytes, keys('open sesam', '')))).toMatch(/^wrong-key: /);
  });

  test('ciphers that are not read, and costs that are absurd, are refused by name', async () => {
    const bytes = luks1('refused');
    const serpent = Buffer.from(bytes);
    serpent.write('serpent\0', 8, 'latin1');
    expect(await faultOf(plainOf(serpent, keys(SECRET)))).toBe(
      'unsupported: the cipher "serpent-xts-plain64" is not supported',
    );
    bytes.writeUInt32BE(0xffff_ffff, 208 + 4);
    const begin = performance.now();
    expect(await faultOf(plainOf(bytes, keys(SECRET)))).toMatch(/^unsupported: .*4294967295 iterations.*absurd/);
    expect(performance.now() - begin).toBeLessThan(1000);
  });
});

describe.skipIf(!has('cryptsetup'))('LUKS2 by cryptsetup', () => {
  test.each([
    ['aes-xts-plain64', 512, PBKDF2],
    ['aes-xts-plain64', 4096, [...PBKDF2, '--sector-size', '4096', '--label', 'Data']],
    ['aes-xts-plain64', 512, [...PBKDF2, '--key-size', '256', '--hash', 'sha512']],
    ['aes-xts-plain64', 4096, [...ARGON2ID, '--sector-size', '4096']],
    ['aes-xts-plain64', 512, [...ARGON2ID, '--pbkdf', 'argon2i']],
    ['aes-cbc-essiv:sha256', 512, [...PBKDF2, '--cipher', 'aes-cbc-essiv:sha256', '--key-size', '256']],
  ])('%s in sectors of %i %j', async (cipher, sectorSize, options) => {
    const bytes = luks2('luks2', ...options);
    const { header, plain } = await plainOf(bytes, keys('something else', SECRET));
    const label = options.includes('--label') ? 'Data' : '';
    expect(header).toMatchObject({ version: 2, cipher, sectorSize, label, warnings: [] });
    expect(digest(plain)).toBe(digest(content));
    expect(await faultOf(plainOf(bytes, keys()))).toMatch(/^locked: /);
    expect(await faultOf(plainOf(bytes, keys('open sesam')))).toMatch(/^wrong-key: /);
  });

  test('a second keyslot opens it too; a key that was taken away does not', async () => {
    luks2('slots', ...PBKDF2);
    fs.writeFileSync(path.join(folder, 'key2'), 'another');
    const file = path.join(folder, 'slots');
    run('cryptsetup', 'luksAddKey', '-q', ...ARGON2ID, '--key-file', 'key', file, 'key2');
    const both = fs.readFileSync(file);
    for (const secret of [SECRET, 'another']) {
      expect(digest((await plainOf(both, keys(secret))).plain)).toBe(digest(content));
    }
    run('cryptsetup', 'luksRemoveKey', '-q', file, 'key');
    const one = fs.readFileSync(file);
    expect(await faultOf(plainOf(one, keys(SECRET)))).toMatch(/^wrong-key/);
    expect(digest((await plainOf(one, keys('another'))).plain)).toBe(digest(content));
  });

  test('a damaged copy of the header is passed over, and said; two are corrupt', async () => {
    const bytes = luks2('copies', ...PBKDF2);
    const second = bytes.indexOf('SKUL\xba\xbe', 0, 'latin1');
    const withoutMagic = Buffer.from(bytes).fill(0, 0, 4096);
    const bothFlipped = Buffer.from(bytes);
    for (const [at, lost] of [
      [5000, 'first'],
      [200, 'first'],
      [second + 4100, 'second'],
    ] as const) {
      const damaged = Buffer.from(bytes);
      damaged[at]! ^= 1;
      bothFlipped[at]! ^= 1;
      const { header, plain } = await plainOf(damaged, keys(SECRET));
      expect(header.warnings).toEqual([`the ${lost} copy of the LUKS2 header is damaged: the other one was read`]);
      expect(digest(plain)).toBe(digest(content));
    }
    expect(digest((await plainOf(withoutMagic, keys(SECRET))).plain)).toBe(digest(content));
    expect(await luksHeader(sourceOf(withoutMagic), false)).toBeNull();
    expect(await faultOf(luksHeader(sourceOf(bothFlipped)))).toMatch(/^corrupt: neither copy/);
  });

  test('absurd costs, unknown requirements, keyslots outside the volume', async () => {
    const bytes = luks2('hostile', ...ARGON2ID);
    const changed = (change: (json: string) => string): Buffer => {
      const out = Buffer.from(bytes);
      const size = Number(out.readBigUInt64BE(8));
      const json = change(out.toString('utf8', 4096, out.indexOf(0, 4096)));
      out.fill(0, 4096, size).write(json, 4096);
      out.fill(0, 448, 512);
      createHash('sha256').update(out.subarray(0, size)).digest().copy(out, 448);
      out.writeUInt8(0, size);
      return out;
    };
    const tried = (change: (json: string) => string): Promise<string> =>
      faultOf(plainOf(changed(change), keys(SECRET)));
    // Control: the same JSON with its checksum made anew opens.
    expect(await tried(json => json)).toBe('none');
    const begin = performance.now();
    expect(await tried(json => json.replace('"memory":64', '"memory":999999999'))).toMatch(
      /^unsupported: .*999999999 KiB/,
    );
    expect(await tried(json => json.replace('"time":4', '"time":2000000000'))).toMatch(
      /^unsupported: .*passes over 64/,
    );
    expect(await tried(json => json.replace('"cpus":2', '"cpus":70000'))).toMatch(/^unsupported: .*70000 lanes/);
    expect(performance.now() - begin).toBeLessThan(1000);
    expect(await tried(json => json.replace('"stripes":4000', '"stripes":400000000'))).toMatch(/^corrupt: /);
    expect(await tried(json => json.replace('"offset":"32768"', '"offset":"3276800000"'))).toMatch(
      /^corrupt: .*outside/,
    );
    expect(await tried(json => json.replace('"config":{', '"config":{"requirements":{"mandatory":["future"]},'))).toBe(
      'unsupported: LUKS2 that requires "future"',
    );
    expect(await tried(json => json.replace('"crypt"', '"linear"'))).toMatch(/^unsupported: .*linear/);
    expect(await tried(json => json.replace('"segments"', '"segment"'))).toMatch(
      /^corrupt: LUKS2 metadata: JSON.segments/,
    );
    expect(await tried(json => json.slice(1))).toMatch(/^corrupt: LUKS2 metadata are no JSON/);
  });
});

test('what is no LUKS is not taken for it; an unknown version is refused', async () => {
  expect(await luksHeader(sourceOf(Buffer.alloc(100)))).toBeNull();
  expect(await luksHeader(sourceOf(Buffer.alloc(MIB)))).toBeNull();
  const future = Buffer.concat([Buffer.from('LUKS\xba\xbe\x00\x03', 'latin1'), Buffer.alloc(8192)]);
  expect(await faultOf(luksHeader(sourceOf(future)))).toBe('unsupported: LUKS version 3 is not known');
});
