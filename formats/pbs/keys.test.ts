import { createCipheriv, pbkdf2Sync, scryptSync } from 'node:crypto';
import { zstdDecompressSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import type { ImagePoint } from '../../src/base/contracts.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { addSnapshot, diskContent, encodeBlob, type Files } from './fixtures.ts';
import { pbs } from './index.ts';
import { backupKey } from './keys.ts';

const KEY = Uint8Array.from({ length: 32 }, (_, i) => 200 - i);
const SALT = Buffer.from('0123456789abcdef0123456789abcdef', 'hex');
const PASSPHRASE = Buffer.from('correct horse');
const FOLDER = 'vm/1/2026-11-20T10:00:00Z';

/** A key file with the key wrapped as the product's client does. */
function keyFile(kdf: object | null, wrapping: Buffer | null): Buffer {
  let data = Buffer.from(KEY);
  if (wrapping !== null) {
    const iv = Buffer.alloc(16, 9);
    const cipher = createCipheriv('aes-256-gcm', wrapping, iv);
    const sealed = Buffer.concat([cipher.update(KEY), cipher.final()]);
    data = Buffer.concat([iv, cipher.getAuthTag(), sealed]);
  }
  const created = '2026-11-20T10:00:00+00:00';
  return Buffer.from(JSON.stringify({ kdf, created, modified: created, data: data.toString('base64') }, null, 2));
}

const plainFile = keyFile(null, null);
const scryptFile = keyFile(
  { Scrypt: { n: 1024, r: 8, p: 1, salt: SALT.toString('base64') } },
  scryptSync(PASSPHRASE, SALT, 32, { N: 1024, r: 8, p: 1 }),
);
const pbkdf2File = keyFile(
  { PBKDF2: { iter: 65_535, salt: SALT.toString('base64') } },
  pbkdf2Sync(PASSPHRASE, SALT, 65_535, 32, 'sha256'),
);
const paper = Buffer.concat([
  Buffer.from('-----BEGIN PROXMOX BACKUP KEY-----\n'),
  plainFile,
  Buffer.from('\n-----END PROXMOX BACKUP KEY-----\n'),
]);

async function openWith(
  secrets: readonly Uint8Array[],
  named: boolean,
  change = (_: Files) => {},
): Promise<ImagePoint> {
  const files: Files = {};
  const content = diskContent(100_000, 2);
  const disks = [{ filename: 'drive-scsi0.img.fidx', content }];
  await addSnapshot(files, { folder: FOLDER, chunkSize: 16_384, key: KEY, named, disks });
  change(files);
  await using image = await pbs.open(`${FOLDER}/index.json.blob`, memoryStore(files), { secrets: async () => secrets });
  const point = image.points[0]!;
  const layer = point.disks[0]!.layer;
  if (layer !== null) {
    const unit = new Uint8Array(layer.blockSize);
    await layer.unpack(0, unit);
    expect(Buffer.compare(unit, content.subarray(0, unit.length))).toBe(0);
  }
  return point;
}

describe.each([true, false])('keys, with the fingerprint in the manifest: %s', named => {
  test.each([
    ['a key file without a passphrase', [plainFile]],
    ['a paper key', [paper]],
    ['a key file with scrypt', [scryptFile, PASSPHRASE]],
    ['a key file with PBKDF2, the passphrase first', [PASSPHRASE, pbkdf2File]],
    ['32 bytes', [KEY]],
    ['64 digits, after a key that does not fit', [Buffer.alloc(32, 1), Buffer.from(Buffer.from(KEY).toString('hex'))]],
  ])('%s', async (_, secrets) => {
    expect((await openWith(secrets, named)).problem).toBeNull();
  });

  test.each([
    ['none', [], 'locked'],
    ['a passphrase alone', [PASSPHRASE], 'wrong-key'],
    ['a key file with the wrong passphrase', [scryptFile, Buffer.from('incorrect')], 'wrong-key'],
    ['a key file that lacks its passphrase', [scryptFile], 'locked'],
    ['another key', [Buffer.alloc(32, 7)], 'wrong-key'],
  ])('%s: the disk is listed and not shown', async (_, secrets, fault) => {
    const { problem, disks } = await openWith(secrets, named);
    expect(problem?.fault).toBe(fault);
    expect(disks).toMatchObject([{ name: 'scsi0', size: 100_000, layer: null }]);
    if (named) expect(problem?.message).toContain((await backupKey(KEY)).fingerprint);
  });
});

test('key files that ask for absurd work are not followed', async () => {
  const salt = SALT.toString('base64');
  for (const kdf of [{ Scrypt: { n: 2 ** 24, r: 256, p: 1, salt } }, { PBKDF2: { iter: 1e12, salt } }, { Argon: {} }]) {
    const { problem } = await openWith([keyFile(kdf, Buffer.alloc(32)), PASSPHRASE], true);
    expect(problem?.fault).toBe('wrong-key');
  }
});

test('a manifest that was changed after it was signed is refused', async () => {
  const { problem } = await openWith([KEY], true, files => {
    const name = `${FOLDER}/index.json.blob`;
    const text = zstdDecompressSync(files[name]!.subarray(12)).toString();
    files[name] = encodeBlob(Buffer.from(text.replace('"backup-id": "1"', '"backup-id": "2"')), null);
  });
  expect(problem).toMatchObject({ fault: 'corrupt', message: expect.stringContaining('signature') });
});

test('damage to the first chunk is not taken for a wrong key', async () => {
  const files: Files = {};
  const disks = [{ filename: 'drive-scsi0.img.fidx', content: diskContent(100_000, 2) }];
  await addSnapshot(files, { folder: FOLDER, chunkSize: 16_384, key: KEY, disks });
  const digest = Buffer.from(files[`${FOLDER}/drive-scsi0.img.fidx`]!.subarray(4096, 4128)).toString('hex');
  const chunk = `.chunks/${digest.slice(0, 4)}/${digest}`;
  for (const damage of [(raw: Uint8Array) => raw.fill(0, 60, 61), () => undefined]) {
    const damaged = damage(Buffer.from(files[chunk]!));
    const { [chunk]: _, ...rest } = files;
    const store = memoryStore(damaged === undefined ? rest : { ...rest, [chunk]: damaged });
    await using image = await pbs.open(`${FOLDER}/index.json.blob`, store, { secrets: async () => [KEY] });
    expect(image.points[0]!.problem).toBeNull();
  }
});
