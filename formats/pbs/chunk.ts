import type { Bytes, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { blobInto, kindOf, lentBlob } from './blob.ts';
import { type BackupKey, digestOf, sameDigest } from './keys.ts';
import { chunkFile } from './place.ts';
import { hex } from './structs.ts';

export interface ChunkShelf {
  readonly store: Store;
  /** The datastore's folder, '' or with a slash at its end. */
  readonly root: string;
  /** null: the chunks are not encrypted. */
  readonly key: BackupKey | null;
}

/**
 * Fills `into` with the content of the chunk with this digest, which must be as long: decrypted, unpacked, and compared with
 * the digest. 'corrupt', naming the chunk's file, when it is missing, damaged or of another length; nothing in `into` is to be
 * used then.
 */
export async function readChunk(
  shelf: ChunkShelf,
  digest: Uint8Array,
  into: Uint8Array,
  checkCrc: boolean,
): Promise<void> {
  const { store, root, key } = shelf;
  const length = into.length;
  const name = hex(digest);
  const file = chunkFile(root, name);
  let got: Bytes;
  try {
    got = await lentBlob(store, file, length, blob => {
      if (key !== null && kindOf(blob)?.encrypted === false) {
        throw new ImageError('corrupt', `chunk ${name} is not encrypted, and should be`, { file, at: 0 });
      }
      return blobInto(blob, key, into, checkCrc);
    });
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    const { fault, where, message } = error;
    if (fault === 'not-found') throw new ImageError('corrupt', `chunk ${name} is missing`, { file }, { cause: error });
    throw new ImageError(fault, `chunk ${name}: ${message}`, { ...where, file }, { cause: error });
  }
  if (got !== length) {
    throw new ImageError('corrupt', `chunk ${name} has ${got} bytes instead of ${length}`, { file });
  }
  if (!sameDigest(await digestOf(into, key), digest)) {
    throw new ImageError('corrupt', `chunk ${name} holds other data than its digest says`, { file });
  }
}
