/**
 * What both versions of LUKS share: a passphrase is stretched to a key, which deciphers a keyslot's area; the area,
 * merged, is the volume key, and a digest says whether it is the right one.
 * Source: "LUKS1 On-Disk Format Specification" 1.2.3, sections 2 to 4; "LUKS2 On-Disk Format Specification" 1.1.
 */
import crypto, { createHash, getHashes, pbkdf2, timingSafeEqual } from 'node:crypto';
import type { ByteSource, Bytes } from '../contracts.ts';
import { ImageError } from '../errors.ts';
import { namedCipher } from '../sector-cipher.ts';

export type LuksSource = Pick<ByteSource, 'name' | 'size' | 'read'>;

export type KeyDerivation =
  | { readonly type: 'pbkdf2'; readonly hash: string; readonly iterations: number; readonly salt: Uint8Array }
  | {
      readonly type: 'argon2i' | 'argon2id';
      readonly passes: number;
      /** KiB */
      readonly memory: number;
      readonly lanes: number;
      readonly salt: Uint8Array;
    };

export interface Keyslot {
  readonly name: string;
  readonly derivation: KeyDerivation;
  /** Length of the volume key. */
  readonly keySize: number;
  /** The enciphered area: its cipher, the length of the cipher's key, where it begins. */
  readonly cipher: string;
  readonly cipherKeySize: number;
  readonly areaAt: Bytes;
  readonly stripes: number;
  readonly stripeHash: string;
}

export interface KeyDigest {
  readonly hash: string;
  readonly iterations: number;
  readonly salt: Uint8Array;
  readonly digest: Uint8Array;
}

/** cryptsetup makes keys of 64 bytes at most and 4,000 stripes; an area is some hundred KiB. */
const LONGEST_KEY = 128;
const MOST_STRIPES = 16_384;
/** A minute or so on a slow machine; cryptsetup aims at two seconds on the machine that made the volume. */
const MOST_ITERATIONS = 100_000_000;
/** cryptsetup's own limit is 4 GiB. */
const MOST_MEMORY = 4_194_304;
const MOST_PASSES_TIMES_MEMORY = 64 * 1_048_576;
const MOST_LANES = 64;
const HASHES = new Set(['sha1', 'sha224', 'sha256', 'sha384', 'sha512', 'ripemd160']);

export const fault = (source: LuksSource, kind: 'corrupt' | 'unsupported', what: string, at?: Bytes): ImageError =>
  new ImageError(kind, what, at === undefined ? { file: source.name } : { file: source.name, at });

export function checkHash(source: LuksSource, hash: string): void {
  if (HASHES.has(hash) && getHashes().includes(hash)) return;
  throw fault(source, 'unsupported', `the hash ${JSON.stringify(hash)} of LUKS is not supported`);
}

/** Refuses what would take for ever, before any of it is done. */
function checkCost(source: LuksSource, { name, derivation }: Keyslot): void {
  const refuse = (what: string): ImageError =>
    fault(source, 'unsupported', `LUKS keyslot ${name} asks for ${what}, which is refused as absurd`);
  if (derivation.type === 'pbkdf2') {
    checkHash(source, derivation.hash);
    const { iterations } = derivation;
    if (!(iterations >= 1 && iterations <= MOST_ITERATIONS)) throw refuse(`${iterations} iterations`);
    return;
  }
  const { passes, memory, lanes } = derivation;
  if (!(lanes >= 1 && lanes <= MOST_LANES)) throw refuse(`${lanes} lanes`);
  if (!(memory >= 8 * lanes && memory <= MOST_MEMORY)) throw refuse(`${memory} KiB of memory`);
  if (!(passes >= 1 && passes * memory <= MOST_PASSES_TIMES_MEMORY))
    throw refuse(`${passes} passes over ${memory} KiB`);
}

function checkSlot(source: LuksSource, slot: Keyslot): void {
  const { name, keySize, cipherKeySize, stripes, areaAt, stripeHash } = slot;
  const sound = (length: number): boolean => Number.isInteger(length) && length >= 1 && length <= LONGEST_KEY;
  if (!sound(keySize) || !sound(cipherKeySize) || !(stripes >= 1 && stripes <= MOST_STRIPES)) {
    throw fault(source, 'corrupt', `LUKS keyslot ${name}: keys of ${keySize} bytes in ${stripes} stripes`);
  }
  if (!Number.isSafeInteger(areaAt) || areaAt < 0 || areaAt + keySize * stripes > source.size) {
    throw fault(source, 'corrupt', `LUKS keyslot ${name} lies outside the volume`, areaAt);
  }
  checkHash(source, stripeHash);
}

const pbkdf2Async = (secret: Uint8Array, salt: Uint8Array, iterations: number, length: number, hash: string) =>
  new Promise<Buffer>((resolve, reject) => {
    pbkdf2(secret, salt, iterations, length, hash, (error, key) => (error === null ? resolve(key) : reject(error)));
  });

function derive(secret: Uint8Array, derivation: KeyDerivation, length: number): Promise<Buffer> {
  if (derivation.type === 'pbkdf2') {
    return pbkdf2Async(secret, derivation.salt, derivation.iterations, length, derivation.hash);
  }
  const { type, passes, memory, lanes, salt } = derivation;
  // Since Node 24.7.
  if (typeof crypto.argon2 !== 'function') {
    const message = `keys of LUKS that are derived by ${type} need Node 24.7 or newer; this is ${process.version}`;
    throw new ImageError('unsupported', message, {}, { hint: 'run it with a newer Node' });
  }
  return new Promise((resolve, reject) => {
    const parameters = { message: secret, nonce: salt, parallelism: lanes, tagLength: length, memory, passes };
    crypto.argon2(type, parameters, (error, key) => (error === null ? resolve(key) : reject(error)));
  });
}

/** Makes each block of the hash's length the hash of its number and itself. `input`: 4 bytes more than such a block. */
export function diffuse(data: Buffer, hash: string, input: Buffer): void {
  const length = input.length - 4;
  for (let i = 0; i * length < data.length; i++) {
    const end = Math.min(data.length, (i + 1) * length);
    input.writeUInt32BE(i);
    const size = 4 + data.copy(input, 4, i * length, end);
    crypto.hash(hash, size === input.length ? input : input.subarray(0, size), 'buffer').copy(data, i * length);
  }
}

/** The anti-forensic split, undone. */
function merged(area: Uint8Array, { keySize, stripes, stripeHash }: Keyslot): Buffer {
  const key = Buffer.alloc(keySize);
  const input = Buffer.alloc(4 + createHash(stripeHash).digest().length);
  for (let stripe = 0; stripe < stripes; stripe++) {
    if (stripe > 0) diffuse(key, stripeHash, input);
    for (let i = 0; i < keySize; i++) key[i]! ^= area[stripe * keySize + i]!;
  }
  input.fill(0);
  return key;
}

/** The volume key that a secret opens a keyslot to; null: it is not this slot's secret. Both buffers are the caller's. */
export async function openKeyslot(
  source: LuksSource,
  slot: Keyslot,
  { hash, iterations, salt, digest }: KeyDigest,
  secret: Uint8Array,
): Promise<Buffer | null> {
  checkSlot(source, slot);
  checkCost(source, slot);
  checkHash(source, hash);
  if (!(iterations >= 1 && iterations <= MOST_ITERATIONS)) {
    throw fault(source, 'unsupported', `a digest of ${iterations} iterations is refused as absurd`);
  }
  const derived = await derive(secret, slot.derivation, slot.cipherKeySize);
  const area = Buffer.alloc(Math.ceil((slot.keySize * slot.stripes) / 512) * 512);
  let key: Buffer | null = null;
  try {
    await source.read(area.subarray(0, Math.min(area.length, source.size - slot.areaAt)), slot.areaAt);
    namedCipher(slot.cipher, derived, 512).decipher(area, 0);
    key = merged(area, slot);
    const found = await pbkdf2Async(key, salt, iterations, digest.length, hash);
    if (timingSafeEqual(found, digest)) return key;
    key.fill(0);
    return null;
  } catch (error) {
    key?.fill(0);
    throw error;
  } finally {
    derived.fill(0);
    area.fill(0);
  }
}
