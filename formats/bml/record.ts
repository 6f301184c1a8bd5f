/** Records (section 6): a header, the stored bytes, a tag when encrypted, zeros up to the alignment. */
import { crc32c } from '../../src/base/checksum.ts';
import type { Bytes } from '../../src/base/contracts.ts';
import { roundUp } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import { GCM_TAG, type Place, putIndex } from './crypto.ts';
import { TAG } from './node.ts';
import { sectorsTag } from './sectors.ts';
import {
  ALIGN,
  type Cipher,
  ENCRYPTED,
  KINDS,
  type Kind,
  RECORD_HEADER,
  recordHeader,
  SECTORS,
  SHORT,
} from './structs.ts';

const BODY_CRC = recordHeader.offsetOf('bodyCrc');
const HEADER_CRC = recordHeader.offsetOf('headerCrc');

/** Bytes of a record without the padding. */
export const recordLength = (stored: number, tagged: boolean): number =>
  RECORD_HEADER + stored + (tagged ? GCM_TAG : 0);

/** A record with padding; `body` is everything that follows the header, a tag included. */
export function buildRecord(
  place: Place,
  session: number,
  codec: number,
  flags: number,
  plain: number,
  body: readonly Uint8Array[],
): Uint8Array<ArrayBuffer> {
  const length = body.reduce((sum, part) => sum + part.length, 0);
  const record = new Uint8Array(roundUp(RECORD_HEADER + length, ALIGN));
  let at = RECORD_HEADER;
  for (const part of body) {
    record.set(part, at);
    at += part.length;
  }
  sealRecord(record, place, session, codec, flags, plain, length);
  return record;
}

/** Writes the header over a record whose body of `length` bytes, a tag included, stands behind it already. */
export function sealRecord(
  record: Uint8Array,
  place: Place,
  session: number,
  codec: number,
  flags: number,
  plain: number,
  length: number,
): void {
  const view = viewOf(record);
  record.set([0x42, 0x52, 0x45, 0x43, KINDS[place.kind], codec]);
  view.setUint16(6, session, true);
  view.setUint32(8, place.disk, true);
  view.setUint32(12, flags, true);
  putIndex(view, 16, place.index, place.level);
  record.set(place.layer.subarray(0, 8), 24);
  view.setUint32(32, (flags & ENCRYPTED) === 0 ? length : length - GCM_TAG, true);
  view.setUint32(36, plain, true);
  view.setUint32(BODY_CRC, crc32c(record.subarray(RECORD_HEADER, RECORD_HEADER + length)), true);
  view.setUint32(HEADER_CRC, headerCrc(record), true);
}

const ZERO_CRC = new Uint8Array(4);

const headerCrc = (record: Uint8Array): number => crc32c(ZERO_CRC, crc32c(record.subarray(0, HEADER_CRC)));

export const headerFits = (record: Uint8Array): boolean =>
  viewOf(record).getUint32(HEADER_CRC, true) === headerCrc(record);

/** `record` is header and body, without padding. */
export const bodyFits = (record: Uint8Array): boolean =>
  viewOf(record).getUint32(BODY_CRC, true) === crc32c(record.subarray(RECORD_HEADER));

/** What a record is wanted to be. */
export interface Wanted {
  readonly kind: Kind;
  readonly codec: number;
  readonly session: number;
  readonly disk: number;
  readonly index: number;
  readonly level: number;
  readonly layer: Uint8Array;
  readonly stored: number;
  readonly flags: number;
}

/** null: `header` is the wanted record's. Otherwise which field says that it is another one, or damaged. */
export function headerFault(header: Uint8Array, wanted: Wanted): string | null {
  if (header[0] !== 0x42 || header[1] !== 0x52 || header[2] !== 0x45 || header[3] !== 0x43) return 'there is no record';
  if (!headerFits(header)) return 'the record header fails its checksum';
  const view = viewOf(header);
  const index = view.getUint16(20, true) * 0x1_0000_0000 + view.getUint32(16, true);
  if (view.getUint8(4) !== KINDS[wanted.kind]) return 'the record is of another kind';
  if (view.getUint32(8, true) !== wanted.disk) return 'the record belongs to another disk';
  if (index !== wanted.index || view.getUint8(22) !== 0 || view.getUint8(23) !== wanted.level) {
    return `the record is that of block ${index}`;
  }
  for (let i = 0; i < 8; i++) if (header[24 + i] !== wanted.layer[i]) return 'the record belongs to another layer';
  if (view.getUint16(6, true) !== wanted.session) return 'the record belongs to another session';
  // A node that was copied may be packed anew: its hash decides, not its stored form.
  const sameForm = view.getUint32(32, true) === wanted.stored && view.getUint8(5) === wanted.codec;
  if (!sameForm && wanted.kind !== 'node') {
    return 'the record is another version of the block';
  }
  if (view.getUint32(12, true) !== wanted.flags) return 'the record has other flags';
  return null;
}

export const storedHeaderCrc = (header: Uint8Array): number => viewOf(header).getUint32(HEADER_CRC, true);

/** Of the record with this header, without the padding. */
export function wholeLength(header: Uint8Array): Bytes {
  const tagged = (viewOf(header).getUint32(12, true) & ENCRYPTED) !== 0;
  return recordLength(storedLength(header), tagged);
}

/** The same with the padding. */
export const paddedLength = (header: Uint8Array): Bytes => roundUp(wholeLength(header), ALIGN);

export const storedLength = (header: Uint8Array): number => viewOf(header).getUint32(32, true);
export const codecOf = (header: Uint8Array): number => header[5]!;
export const plainLength = (header: Uint8Array): number => viewOf(header).getUint32(36, true);

const CIPHER_FLAGS: Readonly<Record<Cipher, number>> = { none: 0, 'aes-256-gcm': ENCRYPTED, 'aes-256-xts': SECTORS };

/** Flags of a data record. */
export const dataFlags = (cipher: Cipher, short: boolean): number => CIPHER_FLAGS[cipher] + (short ? SHORT : 0);

/** Data records of the cipher have a counter before the ciphertext and a tag behind it. */
export const hasTag = (cipher: Cipher): boolean => cipher === 'aes-256-gcm';

/** What the entry of a data record has to say of it, as far as that can be told without a key; null: nothing can. */
export function storedTag(record: Uint8Array, cipher: Cipher): Uint8Array | null {
  if (cipher === 'none') return null;
  if (cipher === 'aes-256-xts') return sectorsTag(record.subarray(RECORD_HEADER));
  return record.subarray(record.length - GCM_TAG, record.length - GCM_TAG + TAG);
}
