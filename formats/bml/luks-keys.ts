/**
 * The LUKS part of the key area (section 4): what a LUKS header needs of each secret. Only who has the secret and the master
 * key can make it; who has neither can make a LUKS image with it.
 */
import type { KeyObject } from 'node:crypto';
import { ImageError } from '../../src/base/errors.ts';
import {
  type Luks1Digest,
  type Luks1Key,
  luks1Digest,
  luks1Iterations,
  luks1Key,
} from '../../src/base/luks/make-luks1.ts';
import { isZero } from '../../src/base/range.ts';
import { bytes, struct, u32le } from '../../src/base/struct.ts';
import { volumeKeyOf } from './sectors.ts';
import { corrupt, hex } from './structs.ts';

const digestStruct = struct('LUKS digest', 64, {
  salt: [0, bytes(32)],
  digest: [32, bytes(20)],
  iterations: [52, u32le],
  reserved: [56, bytes(8)],
});
const keyStruct = struct('LUKS key', 640, {
  id: [0, bytes(16)],
  iterations: [16, u32le],
  reserved: [20, bytes(12)],
  salt: [32, bytes(32)],
  seed: [64, bytes(32)],
  last: [96, bytes(512)],
  reserved2: [608, bytes(32)],
});
/** In the key area, behind sixteen slots. */
const DIGEST_AT = 4224;
const KEYS_AT = DIGEST_AT + digestStruct.size;
/** As many as a LUKS1 header has keyslots. */
export const MAX_LUKS_KEYS = 8;

export interface LuksKey extends Luks1Key {
  /** Of the key slots of the same secret, in hexadecimal. */
  readonly id: string;
}

export interface LuksPart {
  readonly digest: Luks1Digest;
  readonly keys: readonly LuksKey[];
}

/** null: the set has another cipher. `area` is sound. */
export function luksPartOf(area: Uint8Array, file: string, areaAt: number): LuksPart | null {
  if (isZero(area.subarray(DIGEST_AT, KEYS_AT))) return null;
  const digest = digestStruct.parse(area, DIGEST_AT, file);
  const keys: LuksKey[] = [];
  for (let i = 0; i < MAX_LUKS_KEYS; i++) {
    const at = KEYS_AT + i * keyStruct.size;
    const key = keyStruct.parse(area, at, file);
    if (key.iterations > 0) keys.push({ ...key, id: hex(key.id) });
    else if (!isZero(area.subarray(at, at + keyStruct.size))) {
      throw corrupt('key slots: a LUKS key without iterations', file, areaAt + at);
    }
  }
  return { digest, keys };
}

export function putLuksPart(area: Uint8Array, { digest, keys }: LuksPart): void {
  area.set(digestStruct.build({ ...digest, reserved: new Uint8Array(8) }), DIGEST_AT);
  for (const [i, key] of keys.entries()) {
    const id = new Uint8Array(Buffer.from(key.id, 'hex'));
    const reserved = { reserved: new Uint8Array(12), reserved2: new Uint8Array(32) };
    area.set(keyStruct.build({ ...key, id, ...reserved }), KEYS_AT + i * keyStruct.size);
  }
}

/** A secret that opens the set from now on. */
export interface NewLuksKey {
  readonly id: Uint8Array;
  readonly secret: Uint8Array;
  /** Of PBKDF2; absent: as many as take a second here. */
  readonly iterations?: number;
}

/** The part with a key more; `part` null: of a new set. */
export async function withLuksKey(
  part: LuksPart | null,
  master: KeyObject | Uint8Array,
  setId: Uint8Array,
  { id, secret, iterations }: NewLuksKey,
): Promise<LuksPart> {
  if (part !== null && part.keys.length >= MAX_LUKS_KEYS) {
    const message = `a set of cipher aes-256-xts has at most ${MAX_LUKS_KEYS} keys, as a LUKS header has`;
    throw new ImageError('usage', message, {}, { hint: 'remove one first' });
  }
  const volumeKey = volumeKeyOf(master, setId);
  try {
    const digest = part?.digest ?? (await luks1Digest(volumeKey));
    const key = await luks1Key(secret, volumeKey, iterations ?? (await luks1Iterations()));
    return { digest, keys: [...(part?.keys ?? []), { ...key, id: hex(id) }] };
  } finally {
    volumeKey.fill(0);
  }
}

/** The part with the keys of the secrets that stay; null stays null. */
export const luksKeysOf = (part: LuksPart | null, ids: ReadonlySet<string>): LuksPart | null =>
  part === null ? null : { ...part, keys: part.keys.filter(key => ids.has(key.id)) };
