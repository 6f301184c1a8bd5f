/**
 * AES-256-XTS of blocks (section 8): what LUKS calls aes-xts-plain64, sectors of 512 bytes numbered from the start of the
 * disk, so that the stored bytes of a disk are the payload of a LUKS image.
 */
import { hash, hkdfSync, type KeyObject } from 'node:crypto';
import type { Bytes } from '../../src/base/contracts.ts';
import { type TwoWayCipher, xtsCipher } from '../../src/base/sector-cipher.ts';
import { TAG } from './node.ts';

export const SECTOR = 512;
/** Two keys of AES-256. */
export const VOLUME_KEY = 64;

/** The key of all blocks of a set. The caller wipes it. */
export const volumeKeyOf = (master: KeyObject | Uint8Array, setId: Uint8Array): Uint8Array =>
  new Uint8Array(hkdfSync('sha256', master, setId, 'bml volume', VOLUME_KEY));

const ciphers = new WeakMap<KeyObject, TwoWayCipher>();

function cipherOf(key: KeyObject): TwoWayCipher {
  let cipher = ciphers.get(key);
  if (cipher === undefined) {
    const raw = key.export();
    cipher = xtsCipher(raw, { sectorSize: SECTOR, unit: SECTOR, first: 0, bits: 64 });
    raw.fill(0);
    ciphers.set(key, cipher);
  }
  return cipher;
}

/** Enciphers whole sectors in place; `at`: where they lie on the disk. */
export const encipherSectors = (key: KeyObject, data: Uint8Array, at: Bytes): void => cipherOf(key).encipher(data, at);

export const decipherSectors = (key: KeyObject, data: Uint8Array, at: Bytes): void => cipherOf(key).decipher(data, at);

/** First bytes of the digest of a stored block: needs no key. */
export const sectorsTag = (stored: Uint8Array): Uint8Array => hash('sha256', stored, 'buffer').subarray(0, TAG);
