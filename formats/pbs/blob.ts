/** Blobs: chunks, manifests and configurations, each with a checksum, some packed with zstd, some encrypted. */
import { promisify } from 'node:util';
import { crc32, zstdDecompress } from 'node:zlib';
import type { Bytes, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import type { BackupKey } from './keys.ts';
import { type BlobKind, blobKind, PlainBlob, SealedBlob } from './structs.ts';

const TAG = 16;
const unzstd = promisify<Uint8Array, object, Buffer<ArrayBuffer>>(zstdDecompress);

export interface Blob {
  readonly name: string;
  readonly length: Bytes;
  /** The file, and room for the tag behind it. */
  readonly raw: Uint8Array<ArrayBuffer>;
}

/** Reads the file of a blob whose content is at most `most` bytes long. A longer one is 'corrupt'. */
export async function readBlob(store: Store, name: string, most: Bytes): Promise<Blob> {
  await using source = await store.open(name);
  const length = source.size;
  // Packing is given up where it does not make the blob shorter, so the header is all that can be added.
  if (length > most + SealedBlob.size) {
    throw new ImageError('corrupt', `${length} bytes are too many for a blob of ${most}`, { file: name });
  }
  const raw = new Uint8Array(length + TAG);
  await source.read(raw.subarray(0, length), 0);
  return { name, length, raw };
}

/** null: the file does not begin as a blob does. */
export function kindOf({ raw, length }: Blob): BlobKind | null {
  const kind = blobKind(raw.subarray(0, length));
  return kind === null || length < kind.header ? null : kind;
}

/** The CRC-32 covers what follows the header: the ciphertext, where there is one. */
export function crcHolds(blob: Blob): boolean {
  const kind = kindOf(blob);
  return kind !== null && crc32(blob.raw.subarray(kind.header, blob.length)) === PlainBlob.parse(blob.raw).crc;
}

async function unseal(blob: Blob, key: BackupKey | null): Promise<Uint8Array<ArrayBuffer>> {
  const { raw, length, name } = blob;
  if (key === null) throw new ImageError('locked', 'the blob is encrypted', { file: name });
  const { iv, tag } = SealedBlob.parse(raw, 0, name);
  // The algorithm wants the tag behind the ciphertext.
  raw.set(tag, length);
  const algorithm = { name: 'AES-GCM', iv: new Uint8Array(iv), tagLength: TAG * 8 };
  try {
    return new Uint8Array(
      await crypto.subtle.decrypt(algorithm, key.cipher, raw.subarray(SealedBlob.size, length + TAG)),
    );
  } catch (cause) {
    throw new ImageError(
      'corrupt',
      'the blob cannot be decrypted: its tag does not fit',
      { file: name, at: 28, field: 'tag' },
      { cause },
    );
  }
}

/**
 * Decrypts and unpacks, off the calling thread. `most`: longest content; more is 'corrupt'. The checksum (CRC-32) is
 * looked at only where asked: chunks have a digest, and it is computed by the caller's thread.
 */
export async function blobContent(
  blob: Blob,
  key: BackupKey | null,
  most: Bytes,
  checkCrc: boolean,
): Promise<Uint8Array<ArrayBuffer>> {
  const { raw, length, name } = blob;
  const kind = kindOf(blob);
  if (kind === null) {
    throw new ImageError('corrupt', 'the file is not a blob', { file: name, at: 0, field: 'magic' });
  }
  if (checkCrc && !crcHolds(blob)) {
    throw new ImageError('corrupt', 'the checksum of the blob does not hold', { file: name, at: 8, field: 'crc' });
  }
  const stored = kind.encrypted ? await unseal(blob, key) : raw.subarray(kind.header, length);
  if (!kind.packed) {
    if (stored.length > most) throw new ImageError('corrupt', `the blob holds more than ${most} bytes`, { file: name });
    return stored;
  }
  try {
    // A chunk comes out in one piece; the room beyond lets the decoder see the end of its frame.
    const chunkSize = Math.min(most, Math.max(65_536, stored.length * 8)) + 64;
    return await unzstd(stored, { maxOutputLength: most, chunkSize });
  } catch (cause) {
    throw new ImageError('corrupt', 'the blob cannot be decompressed', { file: name, at: kind.header }, { cause });
  }
}
