/** Encrypted stretches, and the plain ones inside them. */
import type { Keyring } from '../base/contracts.ts';
import { decipheredDisk } from '../base/deciphered-disk.ts';
import { ImageError } from '../base/errors.ts';
import { type LuksSource, luksHeader, unlockLuks } from '../base/luks/index.ts';
import type { SectorCipher } from '../base/sector-cipher.ts';
import type { Stretch } from './stretch.ts';

export interface Encrypted {
  /** `luks1`, `luks2`, `bitlocker` */
  readonly type: string;
  readonly warnings: readonly string[];
  /** 'locked' without a secret, 'wrong-key' when none fits. */
  unlock(keys: Keyring): Promise<Stretch>;
}

function plainStretch(stretch: Stretch, start: number, size: number, cipher: SectorCipher): Stretch {
  const { its, disk } = stretch;
  const plain = decipheredDisk({ id: `${disk.id} ${its}`, below: disk, start: stretch.start + start, size, cipher });
  return { ...stretch, disk: plain, start: 0, size: plain.size, place: () => null };
}

/**
 * What a stretch is encrypted with; null: nothing that is known. 'first': by what stands at its start, before file
 * systems are looked for; 'last': also by copies elsewhere.
 */
export async function encryptedIn(stretch: Stretch, when: 'first' | 'last'): Promise<Encrypted | null> {
  return (await bitLockerIn(stretch)) ?? luksIn(stretch, when);
}

/** Signatures of BitLocker's boot sector, on a disk and on one that can be taken out. Source: libbde. */
const BITLOCKER = new Set(['-FVE-FS-', 'MSWIN4.1']);
/** `4967d63b-2e29-4ad8-8399-f6a339e3d001`, as it is stored, and where on disks of either kind. */
const BITLOCKER_ID = '3bd66749292ed84a8399f6a339e3d001';
const ID_PLACES = [160, 424];

async function bitLockerIn({ its, disk, start, size }: Stretch): Promise<Encrypted | null> {
  if (size < 512) return null;
  const sector = Buffer.alloc(512);
  await disk.read(sector, start);
  const signature = sector.toString('latin1', 3, 11);
  const marked = ID_PLACES.some(at => sector.toString('hex', at, at + 16) === BITLOCKER_ID);
  if (signature !== '-FVE-FS-' && !(BITLOCKER.has(signature) && marked)) return null;
  return {
    type: 'bitlocker',
    warnings: [],
    unlock: async () => {
      throw new ImageError('locked', 'encrypted with BitLocker, which is not read', { file: its });
    },
  };
}

async function luksIn(stretch: Stretch, when: 'first' | 'last'): Promise<Encrypted | null> {
  const { its, disk, start, size } = stretch;
  const source: LuksSource = { name: its, size, read: (into, at) => disk.read(into, start + at) };
  const header = await luksHeader(source, when === 'last');
  if (header === null) return null;
  const { payloadAt, version, warnings } = header;
  const length = header.payloadSize ?? size - payloadAt;
  if (!(length > 0 && payloadAt + length <= size)) {
    throw new ImageError('corrupt', 'the data of LUKS lie outside the volume', { file: its, at: payloadAt });
  }
  return {
    type: `luks${version}`,
    warnings,
    unlock: async keys => plainStretch(stretch, payloadAt, length, await unlockLuks(source, header, keys)),
  };
}
