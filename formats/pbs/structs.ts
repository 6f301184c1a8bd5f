/**
 * Structures of a Proxmox Backup Server datastore: proxmox-backup, docs/file-formats.rst. Little-endian.
 */
import type { Bytes } from '../../src/base/contracts.ts';
import { bytes, magic, struct, u32le, u64le } from '../../src/base/struct.ts';

export const DIGEST = 32;
/** Both kinds of index have a header of one page; the table follows. */
export const INDEX_HEADER = 4096;

/** Section "Fixed Index Format (.fidx)". */
export const FixedIndex = struct('fixed index', INDEX_HEADER, {
  magic: [0, magic('\x2f\x7f\x41\xed\x91\xfd\x0f\xcd')],
  uuid: [8, bytes(16)],
  creationTime: [24, u64le],
  checksum: [32, bytes(DIGEST)],
  imageSize: [64, u64le],
  chunkSize: [72, u64le],
});

/** Section "Dynamic Index Format (.didx)". */
export const DynamicIndex = struct('dynamic index', INDEX_HEADER, {
  magic: [0, magic('\x1c\x91\x4e\xa5\x19\xba\xb3\xcd')],
  uuid: [8, bytes(16)],
  creationTime: [24, u64le],
  checksum: [32, bytes(DIGEST)],
});

/** Section "Data Blob Format (.blob)": unencrypted and encrypted blobs. */
export const PlainBlob = struct('blob', 12, { magic: [0, bytes(8)], crc: [8, u32le] });
export const SealedBlob = struct('encrypted blob', 44, {
  magic: [0, bytes(8)],
  crc: [8, u32le],
  iv: [12, bytes(16)],
  tag: [28, bytes(16)],
});

export interface BlobKind {
  readonly encrypted: boolean;
  readonly packed: boolean;
  readonly header: Bytes;
}

const KINDS: Readonly<Record<string, BlobKind>> = {
  '42ab3807be8370a1': { encrypted: false, packed: false, header: PlainBlob.size },
  '31b958426fb6a37f': { encrypted: false, packed: true, header: PlainBlob.size },
  '7b6785be222d4cf0': { encrypted: true, packed: false, header: SealedBlob.size },
  e6591bbf0bbfd80b: { encrypted: true, packed: true, header: SealedBlob.size },
};

export const hex = (raw: Uint8Array): string => Buffer.from(raw.buffer, raw.byteOffset, raw.byteLength).toString('hex');

/** What kind of blob begins here; null when none does. */
export function blobKind(head: Uint8Array): BlobKind | null {
  return head.length < PlainBlob.size ? null : (KINDS[hex(head.subarray(0, 8))] ?? null);
}
