/**
 * From a secret to the key of a BitLocker volume: a passphrase, a recovery key, the content of a BEK file, or the clear key
 * that a volume carries while its protection is suspended. Source: libbde, "BitLocker Drive Encryption (BDE) format".
 */
import { createDecipheriv, createHash } from 'node:crypto';
import { ImageError } from '../../base/errors.ts';
import { type Entry, entriesOf } from './metadata.ts';
import { stretched } from './stretch.ts';

const ENTRY = { vmk: 2, fvek: 3 } as const;
const VALUE = { key: 1, stretch: 3, encrypted: 5, vmk: 8, external: 9 } as const;
const PROTECTION = { clear: 0, external: 0x200, recovery: 0x800, passphrase: 0x2000 } as const;
const NONCE = 12;
const TAG = 16;
/** Size, version and method in front of a key that was unwrapped. */
const KEY_HEADER = 12;
const KEY = 32;
const VMK_HEADER = 28;
const BEK_HEADER = 48;
const BEK_LONGEST = 4096;
/** Eight groups of six digits, each a multiple of 11 of 16 bits. */
const RECOVERY = /^\s*\d{6}(?:[-\s]\d{6}){7}\s*$/;
const KEYS_KEPT = 64;

interface Protector {
  readonly protection: number;
  readonly id: string;
  readonly properties: readonly Entry[];
}

/** A secret as the protectors of one kind want it. */
interface Secret {
  readonly protection: number;
  /** Of a BEK file: which protector it belongs to. */
  readonly id: string | null;
  /** What is stretched, or the key itself. */
  readonly key: Buffer;
}

const sha256 = (data: Uint8Array): Buffer => createHash('sha256').update(data).digest();

function recoveryKey(text: string): Buffer | null {
  if (!RECOVERY.test(text)) return null;
  const groups = text.match(/\d{6}/g)!.map(Number);
  if (groups.some(group => group % 11 !== 0 || group / 11 > 0xffff)) return null;
  const key = Buffer.alloc(16);
  for (const [i, group] of groups.entries()) key.writeUInt16LE(group / 11, 2 * i);
  return key;
}

/** The key of a BEK file; null: it is none. */
function externalKey(secret: Uint8Array, its: string): Secret | null {
  const file = Buffer.from(secret);
  if (file.length < BEK_HEADER || file.length > BEK_LONGEST) return null;
  // An editor's line end would be taken off.
  if (file.readUInt32LE(0) !== file.length || file.readUInt32LE(4) !== 1 || file.readUInt32LE(8) !== BEK_HEADER) {
    return null;
  }
  const { data } = entriesOf(file.subarray(BEK_HEADER), its).find(({ value }) => value === VALUE.external) ?? {};
  if (data === undefined || data.length < 24) return null;
  const key = entriesOf(data.subarray(24), its).find(({ value }) => value === VALUE.key)?.data;
  if (key?.length !== 4 + KEY) return null;
  return { protection: PROTECTION.external, id: data.toString('hex', 0, 16), key: key.subarray(4) };
}

/** What a secret can be; a passphrase can look like a recovery key. */
function meanings(secret: Uint8Array, its: string): Secret[] {
  const external = externalKey(secret, its);
  if (external !== null) return [external];
  const text = Buffer.from(secret).toString('utf8');
  const recovery = recoveryKey(text);
  const found: Secret[] = [];
  if (recovery !== null) found.push({ protection: PROTECTION.recovery, id: null, key: sha256(recovery) });
  const passphrase = sha256(sha256(Buffer.from(text, 'utf16le')));
  return [...found, { protection: PROTECTION.passphrase, id: null, key: passphrase }];
}

/** Keys that were stretched: the points of one disk have the same protectors, and stretching takes a second. */
const kept = new Map<string, Buffer>();

async function stretchedOnce(secret: Buffer, salt: Buffer, alive: () => void): Promise<Buffer> {
  const name = sha256(Buffer.concat([secret, salt])).toString('base64');
  const known = kept.get(name);
  if (known !== undefined) return known;
  const key = await stretched(secret, salt, alive);
  if (kept.size === KEYS_KEPT) kept.delete(kept.keys().next().value!);
  kept.set(name, key);
  return key;
}

/** A key that was enciphered with another, in AES-CCM; null: it was another one. */
function unwrapped(entry: Buffer, key: Buffer): Buffer | null {
  if (entry.length < NONCE + TAG + KEY_HEADER) return null;
  const cipher = createDecipheriv('aes-256-ccm', key, entry.subarray(0, NONCE), { authTagLength: TAG });
  cipher.setAuthTag(entry.subarray(NONCE, NONCE + TAG));
  try {
    const plain = cipher.update(entry.subarray(NONCE + TAG));
    cipher.final();
    return plain.subarray(KEY_HEADER);
  } catch {
    return null;
  }
}

const protectorsOf = (entries: readonly Entry[], its: string): Protector[] =>
  entries
    .filter(({ type, value, data }) => type === ENTRY.vmk && value === VALUE.vmk && data.length >= VMK_HEADER)
    .map(({ data }) => ({
      id: data.toString('hex', 0, 16),
      protection: data.readUInt16LE(26),
      properties: entriesOf(data.subarray(VMK_HEADER), its),
    }));

const property = ({ properties }: Protector, wanted: number): Buffer | undefined =>
  properties.find(({ value }) => value === wanted)?.data;

async function masterKey(protector: Protector, secret: Secret, alive: () => void): Promise<Buffer | null> {
  const wrapped = property(protector, VALUE.encrypted);
  if (wrapped === undefined || (secret.id !== null && secret.id !== protector.id)) return null;
  if (secret.protection === PROTECTION.clear || secret.protection === PROTECTION.external) {
    return unwrapped(wrapped, secret.key);
  }
  const salt = property(protector, VALUE.stretch)?.subarray(4, 20);
  return salt?.length === 16 ? unwrapped(wrapped, await stretchedOnce(secret.key, salt, alive)) : null;
}

/** A volume whose protection is suspended carries its key. */
function clearSecrets(protector: Protector): Secret[] {
  const key = property(protector, VALUE.key)?.subarray(4);
  return key?.length === KEY ? [{ protection: PROTECTION.clear, id: protector.id, key }] : [];
}

/**
 * The volume's key, by the first secret that fits. 'locked' without a secret, 'wrong-key' when none fits. `alive` is called
 * while it works.
 */
export async function volumeKey(
  entries: readonly Entry[],
  secrets: readonly Uint8Array[],
  its: string,
  alive: () => void,
): Promise<Buffer> {
  const wrapped = entries.find(({ type, value }) => type === ENTRY.fvek && value === VALUE.encrypted)?.data;
  if (wrapped === undefined) throw new ImageError('corrupt', 'the BitLocker volume has no key', { file: its });
  const protectors = protectorsOf(entries, its);
  const clear = protectors.filter(({ protection }) => protection === PROTECTION.clear).flatMap(clearSecrets);
  for (const secret of [...clear, ...secrets.flatMap(given => meanings(given, its))]) {
    for (const protector of protectors) {
      if (secret.protection !== protector.protection) continue;
      const master = await masterKey(protector, secret, alive);
      const key = master?.length === KEY ? unwrapped(wrapped, master) : null;
      if (key !== null) return key;
    }
  }
  if (secrets.length === 0)
    throw new ImageError('locked', 'encrypted with BitLocker, and there is no key', { file: its });
  throw new ImageError('wrong-key', 'no key given opens the BitLocker volume', { file: its });
}
