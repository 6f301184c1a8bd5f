/** Blobs: chunks, manifests and configurations, each with a checksum, some packed with zstd, some encrypted. */
import { crc32 } from 'node:zlib';
import type { Bytes, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { unzstdInto } from '../../src/base/zstd.ts';
import type { BackupKey } from './keys.ts';
import { ROOMS } from './rooms.ts';
import { type BlobKind, blobKind, PlainBlob, SealedBlob } from './structs.ts';

const TAG = 16;

export interface Blob {
  readonly name: string;
  readonly length: Bytes;
  /** The file, and room for the tag behind it. */
  readonly raw: Uint8Array<ArrayBuffer>;
}

/**
 * Reads the file of a blob whose content is at most `most` bytes long; a longer one is 'corrupt'. `use` has the blob until it
 * is done.
 */
export async function lentBlob<T>(
  store: Store,
  name: string,
  most: Bytes,
  use: (blob: Blob) => Promise<T>,
): Promise<T> {
  await using source = await store.open(name);
  const length = source.size;
  // Packing is given up where it does not make the blob shorter, so the header is all that can be added.
  if (length > most + SealedBlob.size) {
    throw new ImageError('corrupt', `${length} bytes are too many for a blob of ${most}`, { file: name });
  }
  return await ROOMS.lend(length + TAG, async raw => {
    await source.read(raw.subarray(0, length), 0);
    return use({ name, length, raw });
  });
}

/** As `lentBlob`, to keep. */
export const readBlob = (store: Store, name: string, most: Bytes): Promise<Blob> =>
  lentBlob(store, name, most, async blob => ({ ...blob, raw: blob.raw.slice() }));

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
 * Decrypts and unpacks to the start of `into`, off the calling thread where that takes long; gives the length. More than there
 * is room for is 'corrupt'. The checksum (CRC-32) is looked at only where asked: chunks have a digest, and it is computed by
 * the caller's thread.
 */
export async function blobInto(blob: Blob, key: BackupKey | null, into: Uint8Array, checkCrc: boolean): Promise<Bytes> {
  const { raw, length, name } = blob;
  const most = into.length;
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
    into.set(stored);
    return stored.length;
  }
  try {
    return await unzstdInto(stored, into);
  } catch (cause) {
    throw new ImageError('corrupt', 'the blob cannot be decompressed', { file: name, at: kind.header }, { cause });
  }
}

/** As `blobInto`, in memory of its own. `most`: longest content. */
export async function blobContent(
  blob: Blob,
  key: BackupKey | null,
  most: Bytes,
  checkCrc: boolean,
): Promise<Uint8Array<ArrayBuffer>> {
  return ROOMS.lend(most, async into => into.slice(0, await blobInto(blob, key, into, checkCrc)));
}
