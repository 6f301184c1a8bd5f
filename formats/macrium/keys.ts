/** Passwords, keys and initialisation vectors: `docs/ENCRYPTION.md` of github.com/macrium/mrimgx_file_layout. */
import { createCipheriv, createDecipheriv, createHash, createHmac, pbkdf2, timingSafeEqual } from 'node:crypto';
import type { Keyring } from '../../src/base/contracts.ts';
import { viewOf } from '../../src/base/struct.ts';

export interface Encryption {
  /** AES-128, -192 or -256. */
  readonly bits: 128 | 192 | 256;
  readonly iterations: number;
  /** HMAC-SHA-256 of nothing under the right key. */
  readonly check: Uint8Array;
}

/** Which block an initialisation vector belongs to. Reserved sectors count from 0 in their own list. */
export interface Place {
  readonly disk: number;
  readonly partition: number;
  readonly block: number;
}

export interface Key {
  /** AES-CBC without padding. `stored` is a multiple of 16 bytes long, or the first such part of a block. */
  decrypt(stored: Uint8Array, place: Place): Uint8Array;
  /** AES-ECB, for metadata blocks. */
  decryptMetadata(stored: Uint8Array): Uint8Array;
}

const KEY_LENGTH = 32;

function derive(secret: Uint8Array, imageId: Uint8Array, iterations: number): Promise<Buffer> {
  const salt = createHash('sha256').update(imageId).digest();
  return new Promise((resolve, reject) => {
    pbkdf2(secret, salt, iterations, KEY_LENGTH, 'sha256', (error, key) => (error ? reject(error) : resolve(key)));
  });
}

/** A derived key costs a good part of a second, and all files of a set share it: kept as long as the keyring is. */
const derived = new WeakMap<Keyring, Map<string, Promise<Buffer>>>();

function deriveOnce(keys: Keyring, secret: Uint8Array, imageId: Uint8Array, iterations: number): Promise<Buffer> {
  let known = derived.get(keys);
  if (known === undefined) {
    known = new Map();
    derived.set(keys, known);
  }
  const id = createHash('sha256').update(imageId).update(`${iterations}`).update(secret).digest('hex');
  let key = known.get(id);
  if (key === undefined) {
    key = derive(secret, imageId, iterations);
    known.set(id, key);
  }
  return key;
}

function keyOf(raw: Buffer, bits: Encryption['bits'], imageId: Uint8Array): Key {
  const data = raw.subarray(0, bits / 8);
  const vectorKey = createHash('sha256').update(raw).digest();
  const vector = ({ disk, partition, block }: Place): Uint8Array => {
    const plain = new Uint8Array(16);
    plain.set(imageId);
    const view = viewOf(plain);
    view.setUint16(8, disk, true);
    view.setUint16(10, partition, true);
    view.setUint32(12, block, true);
    return createCipheriv('aes-256-ecb', vectorKey, null).setAutoPadding(false).update(plain);
  };
  return {
    // At once: with the processor's AES a block of 64 KiB takes less time than handing it to another thread.
    decrypt: (stored, place) =>
      createDecipheriv(`aes-${bits}-cbc`, data, vector(place)).setAutoPadding(false).update(stored),
    decryptMetadata: stored => createDecipheriv(`aes-${bits}-ecb`, data, null).setAutoPadding(false).update(stored),
  };
}

/** The key that one of the user's secrets gives; 'locked' when there are none, 'wrong-key' when none fits. */
export async function unlock(
  keys: Keyring,
  encryption: Encryption,
  imageId: Uint8Array,
): Promise<Key | 'locked' | 'wrong-key'> {
  const secrets = await keys.secrets();
  for (const secret of secrets) {
    const raw = await deriveOnce(keys, secret, imageId, encryption.iterations);
    const check = createHmac('sha256', raw).digest();
    if (timingSafeEqual(check, encryption.check)) return keyOf(raw, encryption.bits, imageId);
  }
  return secrets.length === 0 ? 'locked' : 'wrong-key';
}
