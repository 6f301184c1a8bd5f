/** Encryption keys: key files (proxmox-backup, pbs-key-config) and what is derived from a key (pbs-tools, crypt_config). */
import { createHash, pbkdf2, pbkdf2Sync, scrypt } from 'node:crypto';
import { promisify } from 'node:util';
import type { Bytes, Keyring } from '../../src/base/contracts.ts';
import { digestOf as blockDigest } from '../../src/base/digest.ts';
import { ROOMS } from './rooms.ts';
import { DIGEST, hex } from './structs.ts';

const { subtle } = crypto;
const pbkdf2Later = promisify(pbkdf2);
const scryptLater = promisify<Uint8Array, Uint8Array, number, object, Buffer>(scrypt);

const KEY = 32;
/** Most memory for one derivation; the default of the product takes 64 MiB. */
const SCRYPT_MEMORY = 2 ** 30;
const MOST_ROUNDS = 10_000_000;

type Cipher = Awaited<ReturnType<typeof subtle.importKey>>;

export interface BackupKey {
  readonly cipher: Cipher;
  /** Goes into the digest of every encrypted chunk and signs manifests. */
  readonly idKey: Uint8Array;
  /** Hexadecimal bytes with colons, as the product shows it. */
  readonly fingerprint: string;
  /** Digest of a chunk of zeros. */
  zeroDigest(chunkSize: Bytes): Promise<Uint8Array>;
}

/** What the user's secrets give. */
export interface Keys {
  readonly keys: readonly BackupKey[];
  /** Secrets were given at all. */
  readonly any: boolean;
  /** A key file among them still waits for its passphrase. */
  readonly waiting: boolean;
}

/** SHA-256 of `data` and what follows it, off the calling thread where that takes long. */
export async function digestOf(data: Uint8Array, key: BackupKey | null): Promise<Uint8Array> {
  if (key === null) return blockDigest('sha256', data);
  return ROOMS.lend(data.length + key.idKey.length, async both => {
    both.set(data);
    both.set(key.idKey, data.length);
    return blockDigest('sha256', both);
  });
}

const perSize = (make: (chunkSize: Bytes) => Promise<Uint8Array>): ((chunkSize: Bytes) => Promise<Uint8Array>) => {
  const made = new Map<Bytes, Promise<Uint8Array>>();
  return chunkSize => {
    const digest = made.get(chunkSize) ?? make(chunkSize);
    made.set(chunkSize, digest);
    return digest;
  };
};

/** Digest of an unencrypted chunk of zeros. Chunk sizes are powers of two, so few are kept. */
export const plainZeroDigest = perSize(size => digestOf(new Uint8Array(size), null));

export async function backupKey(raw: Uint8Array): Promise<BackupKey> {
  const cipher = await subtle.importKey('raw', new Uint8Array(raw), 'AES-GCM', false, ['decrypt']);
  const idKey = new Uint8Array(pbkdf2Sync(raw, '_id_key', 10, KEY, 'sha256'));
  const input = createHash('sha256').update('Proxmox Backup Encryption Key Fingerprint').digest();
  const print = createHash('sha256').update(input).update(idKey).digest('hex');
  const key: BackupKey = {
    cipher,
    idKey,
    fingerprint: print.match(/../g)!.join(':'),
    zeroDigest: perSize(size => digestOf(new Uint8Array(size), key)),
  };
  return key;
}

type Kdf =
  | { readonly name: 'none' }
  | { readonly name: 'scrypt'; readonly n: number; readonly r: number; readonly p: number; readonly salt: Buffer }
  | { readonly name: 'pbkdf2'; readonly rounds: number; readonly salt: Buffer };

interface KeyFile {
  readonly kdf: Kdf;
  readonly data: Buffer;
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;
const count = (value: unknown, most: number): number =>
  typeof value === 'number' && Number.isInteger(value) && value > 0 && value <= most ? value : 0;

function kdfOf(value: unknown): Kdf | null {
  if (value === null || value === undefined || value === 'None') return { name: 'none' };
  if (!isRecord(value)) return null;
  const { Scrypt: s, PBKDF2: p } = value;
  if (isRecord(s) && typeof s.salt === 'string') {
    const [n, r, lanes] = [count(s.n, 2 ** 24), count(s.r, 256), count(s.p, 256)];
    if (n * r * lanes === 0 || 128 * n * r > SCRYPT_MEMORY / 2) return null;
    return { name: 'scrypt', n, r, p: lanes, salt: Buffer.from(s.salt, 'base64') };
  }
  if (isRecord(p) && typeof p.salt === 'string') {
    const rounds = count(p.iter, MOST_ROUNDS);
    return rounds === 0 ? null : { name: 'pbkdf2', rounds, salt: Buffer.from(p.salt, 'base64') };
  }
  return null;
}

/** A key file, or the text of a paper key; null when the secret is neither. */
function keyFileOf(secret: Uint8Array): KeyFile | null {
  const text = new TextDecoder().decode(secret);
  const paper = /-----BEGIN PROXMOX BACKUP KEY-----([\s\S]*)-----END PROXMOX BACKUP KEY-----/.exec(text);
  try {
    const value: unknown = JSON.parse(paper?.[1] ?? text);
    if (!isRecord(value) || typeof value.data !== 'string') return null;
    const kdf = kdfOf(value.kdf);
    return kdf === null ? null : { kdf, data: Buffer.from(value.data, 'base64') };
  } catch {
    return null;
  }
}

/** The key as such: 32 bytes, or as 64 hexadecimal digits. */
function rawKeyOf(secret: Uint8Array): Uint8Array | null {
  if (secret.length === KEY) return secret;
  const text = new TextDecoder().decode(secret);
  return /^[0-9a-fA-F]{64}$/.test(text) ? Buffer.from(text, 'hex') : null;
}

async function unwrap({ kdf, data }: KeyFile, passphrase: Uint8Array): Promise<Uint8Array | null> {
  if (kdf.name === 'none' || data.length !== 32 + KEY) return null;
  const derived =
    kdf.name === 'scrypt'
      ? await scryptLater(passphrase, kdf.salt, KEY, { N: kdf.n, r: kdf.r, p: kdf.p, maxmem: SCRYPT_MEMORY })
      : await pbkdf2Later(passphrase, kdf.salt, kdf.rounds, KEY, 'sha256');
  const wrapping = await subtle.importKey('raw', new Uint8Array(derived), 'AES-GCM', false, ['decrypt']);
  const sealed = new Uint8Array([...data.subarray(32), ...data.subarray(16, 32)]);
  const algorithm = { name: 'AES-GCM', iv: new Uint8Array(data.subarray(0, 16)), tagLength: 128 };
  try {
    return new Uint8Array(await subtle.decrypt(algorithm, wrapping, sealed));
  } catch {
    return null;
  }
}

async function fromSecrets(secrets: readonly Uint8Array[]): Promise<Keys> {
  const keys: BackupKey[] = [];
  const others = secrets.filter(secret => keyFileOf(secret) === null);
  let waiting = false;
  for (const file of secrets.map(keyFileOf)) {
    if (file === null) continue;
    let raw: Uint8Array | null = file.kdf.name === 'none' && file.data.length === KEY ? file.data : null;
    for (const passphrase of others) raw ??= await unwrap(file, passphrase);
    if (raw === null) waiting = true;
    else keys.push(await backupKey(raw));
  }
  for (const raw of others.map(rawKeyOf)) if (raw !== null) keys.push(await backupKey(raw));
  return { keys, any: others.length > 0 || keys.length > 0, waiting };
}

const known = new WeakMap<Keyring, Promise<Keys>>();

/** Derived once per keyring: a datastore has thousands of snapshots, and a passphrase takes a fifth of a second. */
export function keysOf(keyring: Keyring): Promise<Keys> {
  let keys = known.get(keyring);
  if (keys === undefined) {
    keys = keyring.secrets().then(fromSecrets);
    known.set(keyring, keys);
    keys.catch(() => known.delete(keyring));
  }
  return keys;
}

export const sameDigest = (a: Uint8Array, b: Uint8Array): boolean => a.length === DIGEST && Buffer.compare(a, b) === 0;
export const digestName = (digest: Uint8Array): string => hex(digest);
