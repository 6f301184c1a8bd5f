/** Encrypted stretches, and the plain ones inside them. */
import type { Keyring } from '../base/contracts.ts';
import { decipheredDisk } from '../base/deciphered-disk.ts';
import { ImageError } from '../base/errors.ts';
import { type LuksSource, luksHeader, unlockLuks } from '../base/luks/index.ts';
import type { SectorCipher } from '../base/sector-cipher.ts';
import { bitLockerIn } from './bitlocker/index.ts';
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
 * systems are looked for; 'last': also by copies elsewhere. `alive` is called while a key is tried.
 */
export async function encryptedIn(
  stretch: Stretch,
  when: 'first' | 'last',
  alive: () => void,
): Promise<Encrypted | null> {
  return (await bitLockerIn(stretch, alive)) ?? luksIn(stretch, when);
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
