/** Keys derived from the master key, and the sealing of data records (section 8). */
import crypto, { createHmac, createSecretKey, hkdfSync, type KeyObject } from 'node:crypto';
import { viewOf } from '../../src/base/struct.ts';
import { volumeKeyOf } from './sectors.ts';
import { hex, KINDS, type Kind, MAJOR } from './structs.ts';

export const GCM_TAG = 16;
/** Counter that stands before the ciphertext. */
export const COUNTER = 8;

/** What one set's master key opens. */
export interface SetKeys {
  readonly master: KeyObject;
  /** HMAC-SHA-256 under the authentication key. */
  authenticate(data: Uint8Array): Uint8Array;
  session(layer: Uint8Array, salt: Uint8Array): KeyObject;
  /** Key of a set whose cipher is AES-256-XTS. */
  volume(): KeyObject;
}

export function setKeys(master: KeyObject, setId: Uint8Array): SetKeys {
  const auth = Buffer.from(hkdfSync('sha256', master, setId, 'bml auth', 32));
  const sessions = new Map<string, KeyObject>();
  let volume: KeyObject | null = null;
  return {
    master,
    authenticate: data => createHmac('sha256', auth).update(data).digest(),
    session(layer, salt) {
      const id = hex(layer) + hex(salt);
      let key = sessions.get(id);
      if (key === undefined) {
        const context = Buffer.concat([Buffer.from('bml data'), setId, layer]);
        key = createSecretKey(new Uint8Array(hkdfSync('sha256', master, salt, context, 32)));
        sessions.set(id, key);
      }
      return key;
    },
    volume() {
      if (volume === null) {
        const raw = volumeKeyOf(master, setId);
        volume = createSecretKey(raw);
        raw.fill(0);
      }
      return volume;
    },
  };
}

/** What an object is, wherever it lies: no file offset, no session, no other file's data. */
export interface Place {
  readonly setId: Uint8Array;
  readonly layer: Uint8Array;
  readonly kind: Kind;
  readonly disk: number;
  /** Block number; for a node its position. */
  readonly index: number;
  readonly level: number;
}

export function putIndex(view: DataView, at: number, index: number, level: number): void {
  view.setUint32(at, index % 0x1_0000_0000, true);
  view.setUint16(at + 4, Math.floor(index / 0x1_0000_0000), true);
  view.setUint8(at + 6, 0);
  view.setUint8(at + 7, level);
}

/** Length of the associated data. */
export const AAD = 56;

export function associatedData(place: Place, codec: number, plain: number, flags: number): Uint8Array<ArrayBuffer> {
  const data = new Uint8Array(AAD);
  const view = viewOf(data);
  view.setUint16(0, MAJOR, true);
  data.set(place.setId, 2);
  data.set(place.layer, 18);
  view.setUint8(34, KINDS[place.kind]);
  view.setUint8(35, codec);
  view.setUint32(36, place.disk, true);
  putIndex(view, 40, place.index, place.level);
  view.setUint32(48, plain, true);
  view.setUint32(52, flags, true);
  return data;
}

/** The session's counter as a nonce: 64 bits, then four zero bytes. */
function nonceOf(counter: Uint8Array): Uint8Array<ArrayBuffer> {
  const nonce = new Uint8Array(12);
  nonce.set(counter);
  return nonce;
}

/** The session's counter as it stands before the ciphertext. */
function putCounter(into: Uint8Array, counter: number): void {
  const view = viewOf(into);
  view.setUint32(0, counter % 0x1_0000_0000, true);
  view.setUint32(4, Math.floor(counter / 0x1_0000_0000), true);
}

/** Fills `into` with counter, ciphertext and tag. A counter is used once under its key. */
export function sealInto(
  into: Uint8Array,
  key: KeyObject,
  counter: number,
  aad: Uint8Array<ArrayBuffer>,
  plain: Uint8Array,
): void {
  putCounter(into, counter);
  const cipher = crypto.createCipheriv('aes-256-gcm', key, nonceOf(into.subarray(0, COUNTER)), {
    authTagLength: GCM_TAG,
  });
  cipher.setAAD(aad);
  into.set(cipher.update(plain), COUNTER);
  cipher.final();
  into.set(cipher.getAuthTag(), COUNTER + plain.length);
}

/** The plaintext of `sealed` (ciphertext and tag); null when the tag does not fit. Nothing leaves before that is known. */
export function unsealNow(
  key: KeyObject,
  counter: Uint8Array,
  aad: Uint8Array<ArrayBuffer>,
  sealed: Uint8Array,
): Uint8Array | null {
  if (sealed.length < GCM_TAG) return null;
  const cipher = crypto.createDecipheriv('aes-256-gcm', key, nonceOf(counter), { authTagLength: GCM_TAG });
  cipher.setAAD(aad);
  cipher.setAuthTag(sealed.subarray(sealed.length - GCM_TAG));
  const plain = cipher.update(sealed.subarray(0, sealed.length - GCM_TAG));
  try {
    cipher.final();
  } catch {
    return null;
  }
  return plain;
}
