/** BitLocker volumes as plain ones, of Windows 7 and later and of disks that can be taken out. */
import type { Bytes, Disk, Done, Keyring } from '../../base/contracts.ts';
import { decipheredDisk } from '../../base/deciphered-disk.ts';
import { inParts } from '../../base/done.ts';
import type { SectorCipher } from '../../base/sector-cipher.ts';
import type { Encrypted } from '../encrypted.ts';
import type { Stretch } from '../stretch.ts';
import { cipherOf, methodOf } from './cipher.ts';
import { volumeKey } from './keys.ts';
import { bootSector, METADATA_AREA, type Metadata, readMetadata } from './metadata.ts';

/** Where bytes of the plain volume come from; `at`: in the stretch. */
type Source = { readonly length: Bytes } & (
  | { readonly kind: 'zero' }
  | { readonly kind: 'volume'; readonly at: Bytes }
);

/**
 * The first sectors lie elsewhere, enciphered by where they lie; that place and the metadata read as zeros, as Windows
 * shows them.
 */
function sourceAt({ headerAt, headerSize, areas }: Metadata, at: Bytes, limit: Bytes): Source {
  if (at < headerSize) return { kind: 'volume', at: headerAt + at, length: Math.min(limit, headerSize - at) };
  let length = limit;
  for (const [from, size] of [[headerAt, headerSize] as const, ...areas.map(area => [area, METADATA_AREA] as const)]) {
    if (at >= from && at < from + size) return { kind: 'zero', length: Math.min(limit, from + size - at) };
    if (from > at) length = Math.min(length, from - at);
  }
  return { kind: 'volume', at, length };
}

function plainDisk(stretch: Stretch, metadata: Metadata, cipher: SectorCipher): Disk {
  const { its, disk, start, size } = stretch;
  const { encryptedSize } = metadata;
  const enciphered = decipheredDisk({ id: `${disk.id} ${its}`, below: disk, start, size, cipher });
  const read = (into: Uint8Array, at: Bytes): Done => {
    if (at >= encryptedSize) return disk.read(into, start + at);
    if (at + into.length <= encryptedSize) return enciphered.read(into, at);
    const length = encryptedSize - at;
    return inParts(into.length, (done, wait) => {
      const [from, to] = done === 0 ? [0, length] : [length, into.length];
      wait(read(into.subarray(from, to), at + from));
      return to;
    });
  };
  return {
    ...enciphered,
    read: (into, at) =>
      inParts(into.length, (done, wait) => {
        const source = sourceAt(metadata, at + done, into.length - done);
        const target = into.subarray(done, done + source.length);
        if (source.kind === 'zero') target.fill(0);
        else wait(read(target, source.at));
        return done + source.length;
      }),
  };
}

/** null: it is no BitLocker volume. `alive` is called while a key is tried, which takes a second. */
export async function bitLockerIn(stretch: Stretch, alive: () => void): Promise<Encrypted | null> {
  const sector = await bootSector(stretch);
  if (sector === null) return null;
  return {
    type: 'bitlocker',
    warnings: [],
    async unlock(keys: Keyring) {
      const { its } = stretch;
      const metadata = await readMetadata(stretch, sector);
      const method = methodOf(metadata.method, its);
      const key = await volumeKey(metadata.entries, await keys.secrets(), its, alive);
      const plain = plainDisk(stretch, metadata, cipherOf(method, key, metadata.sectorSize, its));
      key.fill(0);
      return { ...stretch, disk: plain, start: 0, size: plain.size, place: () => null };
    },
  };
}
