/**
 * Making LUKS1 images in two steps. Who has the volume key makes a `Luks1Key` for a passphrase, 600 bytes; whoever has
 * that, and no key at all, makes the header of it, with the 250 KiB of key material that each keyslot takes.
 * "LUKS1 On-Disk Format Specification" 1.2.3, sections 2.1, 2.4 and 4.1.
 *
 * The key material is the volume key, split into stripes of which all but the last are random, enciphered under a key that
 * comes from the passphrase. Here the enciphered sectors are what is random, all but the last of them: they come from a
 * seed, so that only seed and last sector have to be kept.
 */
import crypto from 'node:crypto';
import { promisify } from 'node:util';
import type { Bytes } from '../contracts.ts';
import { ImageError } from '../errors.ts';
import { type TwoWayCipher, xtsCipher } from '../sector-cipher.ts';
import { diffuse } from './keyslot.ts';
import { buildLuks1Header, LUKS1_SLOTS } from './luks1.ts';

const pbkdf2 = promisify(crypto.pbkdf2);

const SECTOR = 512;
const KEY = 64;
const STRIPES = 4000;
const MATERIAL = KEY * STRIPES;
/** Key material begins at multiples of this, as cryptsetup has it. */
const ALIGN = 4096;
/** cryptsetup's place for the first sector of the disk: 2 MiB, behind eight keyslots. */
export const LUKS1_PAYLOAD: Bytes = 2 ** 21;
const HASH = 'sha256';
/** Bytes of the digest of a volume key. */
const DIGEST = 20;
/** A volume key is random, so its digest need not be slow. */
const DIGEST_ITERATIONS = 10_000;
/** A passphrase is stretched for a second on the machine that makes the key, within these bounds. */
const [LEAST, MOST] = [600_000, 20_000_000];
const STRETCH_MS = 1000;

/** One passphrase's keyslot, of which its key material can be made without the passphrase. */
export interface Luks1Key {
  readonly iterations: number;
  /** 32 bytes. */
  readonly salt: Uint8Array;
  /** 32 bytes: the sectors of the key material but the last are the keystream of AES-256-CTR under it. */
  readonly seed: Uint8Array;
  /** The last sector of the key material, 512 bytes. */
  readonly last: Uint8Array;
}

/** Tells the right volume key. */
export interface Luks1Digest {
  readonly iterations: number;
  /** 32 bytes. */
  readonly salt: Uint8Array;
  /** 20 bytes. */
  readonly digest: Uint8Array;
}

const sectorCipher = (key: Uint8Array): TwoWayCipher =>
  xtsCipher(key, { sectorSize: SECTOR, unit: SECTOR, first: 0, bits: 64 });

/** All sectors of the key material but the last. */
function keystream(seed: Uint8Array): Buffer {
  return crypto.createCipheriv('aes-256-ctr', seed, new Uint8Array(16)).update(Buffer.alloc(MATERIAL - SECTOR));
}

/** How often this machine hashes a passphrase in a second, within bounds. */
export async function luks1Iterations(): Promise<number> {
  const probe = 50_000;
  const begin = performance.now();
  await pbkdf2('passphrase', Buffer.alloc(32), probe, KEY, HASH);
  const each = (performance.now() - begin) / probe;
  return Math.round(Math.min(MOST, Math.max(LEAST, STRETCH_MS / each)));
}

/** The keyslot of `secret` for a volume key of 64 bytes. */
export async function luks1Key(secret: Uint8Array, volumeKey: Uint8Array, iterations: number): Promise<Luks1Key> {
  const [salt, seed] = [crypto.randomBytes(32), crypto.randomBytes(32)];
  const derived = await pbkdf2(secret, salt, iterations, KEY, HASH);
  const cipher = sectorCipher(derived);
  derived.fill(0);
  const stripes = keystream(seed);
  cipher.decipher(stripes, 0);
  const last = crypto.randomBytes(SECTOR);
  // All stripes but the last, mixed as whoever opens the slot will do it; the last one makes the volume key of it.
  const mixed = Buffer.alloc(KEY);
  const input = Buffer.alloc(4 + 32);
  for (let stripe = 0; stripe < STRIPES - 1; stripe++) {
    const at = stripe * KEY;
    const part = at < stripes.length ? stripes.subarray(at, at + KEY) : last.subarray(at - stripes.length);
    for (let i = 0; i < KEY; i++) mixed[i]! ^= part[i]!;
    diffuse(mixed, HASH, input);
  }
  for (let i = 0; i < KEY; i++) last[SECTOR - KEY + i] = mixed[i]! ^ volumeKey[i]!;
  cipher.encipher(last, MATERIAL - SECTOR);
  for (const secretBytes of [stripes, mixed, input]) secretBytes.fill(0);
  return { iterations, salt, seed, last };
}

export async function luks1Digest(volumeKey: Uint8Array): Promise<Luks1Digest> {
  const salt = crypto.randomBytes(32);
  const digest = await pbkdf2(volumeKey, salt, DIGEST_ITERATIONS, DIGEST, HASH);
  return { iterations: DIGEST_ITERATIONS, salt, digest };
}

/** Everything in front of the payload, LUKS1_PAYLOAD bytes: no secret is needed. At most eight keys. */
export function luks1Front(uuid: string, digest: Luks1Digest, keys: readonly Luks1Key[]): Uint8Array {
  if (keys.length > LUKS1_SLOTS)
    throw new ImageError('usage', `${keys.length} keys; a LUKS1 header has ${LUKS1_SLOTS}`);
  const front = new Uint8Array(LUKS1_PAYLOAD);
  const room = Math.ceil(MATERIAL / ALIGN) * ALIGN;
  const areaAt = (i: number): Bytes => ALIGN + i * room;
  front.set(
    buildLuks1Header({
      cipherName: 'aes',
      cipherMode: 'xts-plain64',
      hash: HASH,
      payloadAt: LUKS1_PAYLOAD,
      keyBytes: KEY,
      digest,
      uuid,
      stripes: STRIPES,
      slots: Array.from({ length: LUKS1_SLOTS }, (_, i) => ({ key: keys[i] ?? null, areaAt: areaAt(i) })),
    }),
  );
  for (const [i, { seed, last }] of keys.entries()) {
    front.set(keystream(seed), areaAt(i));
    front.set(last, areaAt(i) + MATERIAL - SECTOR);
  }
  return front;
}
