/** Key slots (section 4): the set's master key, wrapped once per secret. */
import crypto, { type KeyObject } from 'node:crypto';
import type { Keyring } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { bytes, magic, struct, u8, u16le, u32le, u64le } from '../../src/base/struct.ts';
import { type LuksPart, putLuksPart, withLuksKey } from './luks-keys.ts';
import { crcFits, hex, KEY_AREA_SIZE, sealCrc } from './structs.ts';

const areaHeader = struct('key slots', 32, {
  magic: [0, magic('BMLKEYS\0')],
  sequence: [8, u64le],
  slots: [16, u16le],
  reserved: [18, u16le],
  generation: [20, u32le],
});
const FIRST_SLOT = 64;
const SLOT_SIZE = 256;
/** More would let a hostile file ask for minutes of key derivation. */
export const MAX_SLOTS = 16;

const slotStruct = struct('key slot', SLOT_SIZE, {
  type: [0, u8],
  reserved: [1, u8],
  flags: [2, u16le],
  cost: [4, u32le],
  rounds: [8, u32le],
  lanes: [12, u32le],
  salt: [16, bytes(32)],
  id: [48, bytes(16)],
  nonce: [64, bytes(12)],
  reserved2: [76, u32le],
  wrapped: [80, bytes(32)],
  tag: [112, bytes(16)],
  label: [128, bytes(64)],
});
/** Bytes of a label, in UTF-8. */
export const LABEL = 64;
/** Bytes of a slot that its own tag covers, beside the wrapped key. */
const SLOT_AAD = 64;

const ARGON2ID = 1;
const SCRYPT = 2;
const RAW = 3;

/** How a secret becomes a key. argon2id: memory in KiB; scrypt: N as a power of two; raw: the secret has full entropy. */
export type Derivation =
  | { readonly kdf: 'argon2id'; readonly memory: number; readonly passes: number; readonly lanes: number }
  | { readonly kdf: 'scrypt'; readonly log2N: number; readonly r: number; readonly p: number }
  | { readonly kdf: 'raw' };

export const hasArgon2 = (): boolean => typeof crypto.argon2 === 'function';

/** What a new set gets: both pass-phrase functions, so that runtimes without argon2 can read it too. */
export function usualDerivations(): readonly Derivation[] {
  const scrypt: Derivation = { kdf: 'scrypt', log2N: 17, r: 8, p: 1 };
  return hasArgon2() ? [{ kdf: 'argon2id', memory: 65536, passes: 3, lanes: 4 }, scrypt] : [scrypt];
}

type Slot = ReturnType<typeof slotStruct.parse>;

const MiB = 1_048_576;
/** Memory and work that a file may ask for: 512 MiB at once, 2 GiB touched in all. */
const MEMORY_CAP = 512 * MiB;
const WORK_CAP = 2048 * MiB;

/** Refused before anything is computed: a header is not to be trusted with our memory. */
function checkCost(slot: Slot, file: string, at: number): Derivation {
  const refuse = (why: string): never => {
    throw new ImageError('unsupported', `key slot asks for ${why}`, { file, at });
  };
  const { cost, rounds, lanes } = slot;
  if (slot.type === RAW) return { kdf: 'raw' };
  if (slot.type === ARGON2ID) {
    const memory = cost * 1024;
    if (memory > MEMORY_CAP || memory * rounds > WORK_CAP) return refuse(`argon2id with ${cost} KiB, ${rounds} passes`);
    if (lanes < 1 || lanes > 16 || rounds < 1 || cost < 8 * lanes) return refuse(`argon2id with ${lanes} lanes`);
    return { kdf: 'argon2id', memory: cost, passes: rounds, lanes };
  }
  if (slot.type === SCRYPT) {
    if (cost < 1 || cost > 24 || rounds < 1 || rounds > 64 || lanes < 1 || lanes > 16) {
      return refuse(`scrypt with N = 2^${cost}, r = ${rounds}, p = ${lanes}`);
    }
    const memory = 128 * rounds * 2 ** cost;
    if (memory > MEMORY_CAP || memory * lanes > WORK_CAP) return refuse(`scrypt with ${memory / MiB} MiB`);
    return { kdf: 'scrypt', log2N: cost, r: rounds, p: lanes };
  }
  return refuse(`key derivation ${slot.type}, which is unknown`);
}

const asPromise = (start: (done: (error: Error | null, key: Buffer) => void) => void): Promise<Buffer> =>
  new Promise((resolve, reject) => start((error, key) => (error ? reject(error) : resolve(key))));

/** 256 bits that wrap the master key. Runs on a pool thread. */
function derive(how: Derivation, secret: Uint8Array, salt: Uint8Array): Promise<Buffer> {
  switch (how.kdf) {
    case 'raw':
      return Promise.resolve(Buffer.from(crypto.hkdfSync('sha256', secret, salt, 'bml raw key', 32)));
    case 'scrypt': {
      const options = { N: 2 ** how.log2N, r: how.r, p: how.p, maxmem: MEMORY_CAP + 64 * MiB };
      return asPromise(done => crypto.scrypt(secret, salt, 32, options, done));
    }
    case 'argon2id': {
      const { memory, passes, lanes } = how;
      const parameters = { message: secret, nonce: salt, parallelism: lanes, tagLength: 32, memory, passes };
      return asPromise(done => crypto.argon2('argon2id', parameters, done));
    }
  }
}

const slotAad = (setId: Uint8Array, slot: Uint8Array): Uint8Array =>
  Buffer.concat([Buffer.from('bml key slot'), setId, slot.subarray(0, SLOT_AAD)]);

function padded(label: string): Uint8Array {
  const bytes = new Uint8Array(LABEL);
  bytes.set(Buffer.from(label).subarray(0, LABEL));
  return bytes;
}

/** A slot for `secret`; the slots of one secret have one id. */
async function buildSlot(
  how: Derivation,
  secret: Uint8Array,
  master: Uint8Array,
  setId: Uint8Array,
  id: Uint8Array,
  label: string,
): Promise<Uint8Array> {
  const numbers =
    how.kdf === 'argon2id'
      ? { type: ARGON2ID, cost: how.memory, rounds: how.passes, lanes: how.lanes }
      : how.kdf === 'scrypt'
        ? { type: SCRYPT, cost: how.log2N, rounds: how.r, lanes: how.p }
        : { type: RAW, cost: 0, rounds: 0, lanes: 0 };
  const salt = crypto.randomBytes(32);
  const nonce = crypto.randomBytes(12);
  const slot: Slot = {
    ...numbers,
    reserved: 0,
    flags: 0,
    salt,
    id,
    nonce,
    reserved2: 0,
    wrapped: new Uint8Array(32),
    tag: new Uint8Array(16),
    label: padded(label),
  };
  const key = await derive(how, secret, salt);
  const cipher = crypto.createCipheriv('aes-256-gcm', key, nonce, { authTagLength: 16 });
  key.fill(0);
  cipher.setAAD(slotAad(setId, slotStruct.build(slot)));
  const wrapped = Buffer.concat([cipher.update(master), cipher.final()]);
  return slotStruct.build({ ...slot, wrapped, tag: cipher.getAuthTag() });
}

/** The area of some slots, as they lie in it. `luks`: null for sets of any other cipher than AES-256-XTS. */
export function keyArea(slots: readonly Uint8Array[], sequence: number, luks: LuksPart | null): Uint8Array {
  const area = new Uint8Array(KEY_AREA_SIZE);
  area.set(areaHeader.build({ magic: 'BMLKEYS\0', sequence, slots: slots.length, reserved: 0, generation: 0 }));
  for (const [i, slot] of slots.entries()) area.set(slot, FIRST_SLOT + i * SLOT_SIZE);
  if (luks !== null) putLuksPart(area, luks);
  sealCrc(area);
  return area;
}

/** The slots of one secret, in each of several ways. */
export async function slotsFor(
  derivations: readonly Derivation[],
  secret: Uint8Array,
  master: Uint8Array,
  setId: Uint8Array,
  id: Uint8Array,
  label: string,
): Promise<Uint8Array[]> {
  const slots: Uint8Array[] = [];
  for (const how of derivations) slots.push(await buildSlot(how, secret, master, setId, id, label));
  return slots;
}

/** The key area of a new set. `luks`: its cipher is AES-256-XTS; a LUKS key belongs to the secret. */
export async function buildKeyArea(
  derivations: readonly Derivation[],
  secret: Uint8Array,
  master: Uint8Array,
  setId: Uint8Array,
  luks: { readonly iterations?: number } | null = null,
): Promise<Uint8Array> {
  const id = crypto.randomBytes(16);
  const slots = await slotsFor(derivations, secret, master, setId, id, '');
  return keyArea(slots, 1, luks === null ? null : await withLuksKey(null, master, setId, { id, secret, ...luks }));
}

export interface KeySlot {
  /** In hexadecimal; the slots of one secret share it. */
  readonly id: string;
  readonly type: 'argon2id' | 'scrypt' | 'raw' | 'unknown';
  readonly label: string;
  readonly raw: Uint8Array;
}

const TYPES = ['unknown', 'argon2id', 'scrypt', 'raw'] as const;

export const sequenceOf = (area: Uint8Array): number => areaHeader.parse(area).sequence;

/** What a sound key area holds. */
export function slotsIn(area: Uint8Array, file: string, areaAt: number): readonly KeySlot[] {
  const { slots } = areaHeader.parse(area, 0, file);
  if (slots > MAX_SLOTS) throw new ImageError('unsupported', `${slots} key slots`, { file, at: areaAt + 16 });
  return Array.from({ length: slots }, (_, i) => {
    const raw = area.slice(FIRST_SLOT + i * SLOT_SIZE, FIRST_SLOT + (i + 1) * SLOT_SIZE);
    const { id, type, label } = slotStruct.parse(raw, 0, file);
    const end = label.indexOf(0);
    const text = Buffer.from(end < 0 ? label : label.subarray(0, end)).toString('utf8');
    return { id: hex(id), type: TYPES[type] ?? 'unknown', label: text, raw };
  });
}

/** The newer sound copy of two; null when neither is. */
export function soundKeyArea(copies: readonly Uint8Array[]): Uint8Array | null {
  let best: Uint8Array | null = null;
  let newest = -1;
  for (const copy of copies) {
    if (!crcFits(copy)) continue;
    try {
      const { sequence } = areaHeader.parse(copy);
      if (sequence > newest) {
        newest = sequence;
        best = copy;
      }
    } catch {
      // Not a key area: the other copy decides.
    }
  }
  return best;
}

function unwrap(slot: Slot, raw: Uint8Array, key: Buffer, setId: Uint8Array): KeyObject | null {
  const cipher = crypto.createDecipheriv('aes-256-gcm', key, slot.nonce, { authTagLength: 16 });
  key.fill(0);
  cipher.setAAD(slotAad(setId, raw));
  cipher.setAuthTag(slot.tag);
  const master = cipher.update(slot.wrapped);
  try {
    cipher.final();
  } catch {
    return null;
  }
  const kept = crypto.createSecretKey(master);
  master.fill(0);
  return kept;
}

/** Recognises, without deriving anything again, the secret that opened a set. */
export const proofOf = (master: KeyObject, secret: Uint8Array): Buffer =>
  crypto.createHmac('sha256', master).update('bml secret').update(secret).digest();

export interface Unlocked {
  readonly master: KeyObject;
  readonly proof: Buffer;
}

/**
 * Tries every secret on every slot. null: none fits. Faults: 'unsupported' when no slot fits and one of them could not
 * be tried, for its cost or for want of argon2.
 */
export async function unlock(
  area: Uint8Array,
  secrets: readonly Uint8Array[],
  setId: Uint8Array,
  file: string,
  areaAt: number,
): Promise<Unlocked | null> {
  let refused: unknown = null;
  for (const [i, { raw }] of slotsIn(area, file, areaAt).entries()) {
    try {
      for (const secret of secrets) {
        const master = await openSlot(raw, secret, setId, file, areaAt + FIRST_SLOT + i * SLOT_SIZE);
        if (master !== null) return { master, proof: proofOf(master, secret) };
      }
    } catch (error) {
      refused = error;
    }
  }
  if (refused !== null) throw refused;
  return null;
}

/** The master key when `secret` is the slot's; otherwise null. 'unsupported': its cost, or argon2 is missing here. */
export async function openSlot(
  raw: Uint8Array,
  secret: Uint8Array,
  setId: Uint8Array,
  file: string,
  at: number,
): Promise<KeyObject | null> {
  const slot = slotStruct.parse(raw, 0, file);
  const how = checkCost(slot, file, at);
  if (how.kdf === 'argon2id' && !hasArgon2()) {
    const message = 'the key slot needs argon2id, which this runtime lacks';
    throw new ImageError('unsupported', message, { file }, { hint: 'Use Node 24.7 or newer.' });
  }
  return unwrap(slot, raw, await derive(how, secret, slot.salt), setId);
}

const known = new WeakMap<Keyring, Map<string, Promise<Unlocked | null>>>();

/** As `unlock`, once per keyring and key area: the files of a set share theirs. */
export async function unlockWith(
  keys: Keyring,
  area: Uint8Array,
  setId: Uint8Array,
  file: string,
  areaAt: number,
): Promise<Unlocked | 'locked' | null> {
  const secrets = await keys.secrets();
  if (secrets.length === 0) return 'locked';
  const digest = crypto.createHash('sha256').update(setId).update(area);
  for (const secret of secrets) digest.update(crypto.hash('sha256', secret, 'buffer'));
  const id = hex(digest.digest());
  const cache = known.get(keys) ?? new Map<string, Promise<Unlocked | null>>();
  known.set(keys, cache);
  let result = cache.get(id);
  if (result === undefined) {
    result = unlock(area, secrets, setId, file, areaAt);
    cache.set(id, result);
    result.catch(() => cache.delete(id));
  }
  return result;
}
