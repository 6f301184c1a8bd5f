import type { Bytes, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { blobContent, kindOf, readBlob } from './blob.ts';
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
 * Content of the chunk with this digest, which must be `length` bytes: decrypted, unpacked, and compared with the digest.
 * 'corrupt', naming the chunk's file, when it is missing, damaged or of another length.
 */
export async function readChunk(
  shelf: ChunkShelf,
  digest: Uint8Array,
  length: Bytes,
  checkCrc: boolean,
): Promise<Uint8Array<ArrayBuffer>> {
  const { store, root, key } = shelf;
  const name = hex(digest);
  const file = chunkFile(root, name);
  let content: Uint8Array<ArrayBuffer>;
  try {
    const blob = await readBlob(store, file, length);
    if (key !== null && kindOf(blob)?.encrypted === false) {
      throw new ImageError('corrupt', `chunk ${name} is not encrypted, and should be`, { file, at: 0 });
    }
    content = await blobContent(blob, key, length, checkCrc);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    const { fault, where, message } = error;
    if (fault === 'not-found') throw new ImageError('corrupt', `chunk ${name} is missing`, { file }, { cause: error });
    throw new ImageError(fault, `chunk ${name}: ${message}`, { ...where, file }, { cause: error });
  }
  if (content.length !== length) {
    throw new ImageError('corrupt', `chunk ${name} has ${content.length} bytes instead of ${length}`, { file });
  }
  if (!sameDigest(await digestOf(content, key), digest)) {
    throw new ImageError('corrupt', `chunk ${name} holds other data than its digest says`, { file });
  }
  return content;
}
