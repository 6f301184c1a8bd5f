/**
 * LUKS, versions 1 and 2: from a header and a passphrase to the cipher of a volume's sectors. Where the header and the
 * sectors lie is the caller's: a partition holds both, a QCOW2 file its header apart from its clusters.
 */
import type { Bytes, Keyring } from '../contracts.ts';
import { ImageError } from '../errors.ts';
import { namedCipher, type SectorCipher } from '../sector-cipher.ts';
import { type KeyDigest, type Keyslot, type LuksSource, openKeyslot } from './keyslot.ts';
import { LUKS1_HEADER, luks1Header } from './luks1.ts';
import { luks2Header } from './luks2.ts';

export type { LuksSource } from './keyslot.ts';

/** What a header says before any key is tried. */
export interface LuksHeader {
  readonly version: 1 | 2;
  readonly uuid: string;
  /** Version 2 only; empty: none. */
  readonly label: string;
  /** As Linux names it: `aes-xts-plain64`. */
  readonly cipher: string;
  readonly sectorSize: number;
  /** Where the enciphered sectors begin in the source, and how long they are; null: up to its end. */
  readonly payloadAt: Bytes;
  readonly payloadSize: Bytes | null;
  /** Number of the first enciphered sector, in units of 512 bytes. */
  readonly firstSector: number;
  /** Those in use, in the order in which they are to be tried. */
  readonly slots: readonly Keyslot[];
  readonly digest: KeyDigest;
  readonly warnings: readonly string[];
}

const MAGIC = Buffer.from('LUKS\xba\xbe', 'latin1');

/**
 * Reads the header at the source's start; null: there is none. A version 2 whose first copy is damaged is found by its
 * second one, so that a source without a LUKS magic costs nine short reads: `elsewhere: false` leaves them out.
 */
export async function luksHeader(source: LuksSource, elsewhere = true): Promise<LuksHeader | null> {
  if (source.size < LUKS1_HEADER) return null;
  const head = Buffer.alloc(LUKS1_HEADER);
  await source.read(head, 0);
  const isLuks = head.subarray(0, 6).equals(MAGIC);
  if (!isLuks) return elsewhere ? luks2Header(source, false) : null;
  const version = head.readUInt16BE(6);
  if (version === 1) return luks1Header(source, head);
  if (version === 2) return luks2Header(source, true);
  const message = `LUKS version ${version} is not known`;
  throw new ImageError('unsupported', message, { file: source.name, at: 6, field: 'version' });
}

function cipherOf({ cipher, sectorSize, firstSector }: LuksHeader, key: Buffer): SectorCipher {
  try {
    return namedCipher(cipher, key, sectorSize, firstSector);
  } finally {
    key.fill(0);
  }
}

/**
 * The cipher of the volume's sectors, by the first secret that opens a keyslot. 'locked' without a secret, 'wrong-key'
 * when none fits, 'unsupported' for ciphers and costs that are refused. The key itself is nowhere else in memory.
 */
export async function unlockLuks(source: LuksSource, header: LuksHeader, keys: Keyring): Promise<SectorCipher> {
  const { version, slots, digest } = header;
  const where = { file: source.name };
  const secrets = await keys.secrets();
  if (secrets.length === 0) throw new ImageError('locked', `encrypted with LUKS${version}, and there is no key`, where);
  let refused: ImageError | null = null;
  for (const secret of secrets) {
    for (const slot of slots) {
      try {
        const key = await openKeyslot(source, slot, digest, secret);
        if (key !== null) return cipherOf(header, key);
      } catch (error) {
        // One slot that cannot be tried is no reason not to try the others.
        if (!(error instanceof ImageError)) throw error;
        refused ??= error;
      }
    }
  }
  if (refused !== null) throw refused;
  const message =
    slots.length === 0 ? 'no keyslot of LUKS is in use' : `no key given opens a keyslot of LUKS${version}`;
  throw new ImageError('wrong-key', message, where);
}
