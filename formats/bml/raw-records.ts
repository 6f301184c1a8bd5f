/** For tests: the records of a file as bytes, and checksums made right again after a change. */
import { crc32c } from '../../src/base/checksum.ts';
import type { Bytes } from '../../src/base/contracts.ts';
import { viewOf } from '../../src/base/struct.ts';
import { COUNTER, GCM_TAG } from './crypto.ts';
import { headerFits, paddedLength, storedHeaderCrc, wholeLength } from './record.ts';
import { RecordSum } from './record-sum.ts';
import {
  ALIGN,
  ENCRYPTED,
  FIRST_RECORD,
  hex,
  KINDS,
  PAGE,
  RECORD_HEADER,
  recordHeader,
  sealCrc,
  sessionRecord,
  trailer,
} from './structs.ts';

export interface RawRecord {
  readonly kind: number;
  readonly at: Bytes;
  /** Header and body, a tag included. */
  readonly length: Bytes;
  /** With the padding. */
  readonly padded: Bytes;
}

export function recordsOf(file: Uint8Array): readonly RawRecord[] {
  const found: RawRecord[] = [];
  for (let at = FIRST_RECORD; at + RECORD_HEADER < file.length; ) {
    const header = file.subarray(at, at + RECORD_HEADER);
    if (header[0] !== 0x42 || header[1] !== 0x52 || !headerFits(header)) {
      at += ALIGN;
      continue;
    }
    const padded = paddedLength(header);
    found.push({ kind: header[4]!, at, length: wholeLength(header), padded });
    at += padded;
  }
  return found;
}

/**
 * Nonces of the file under which something else was encrypted before, with the same key. `seen`: what was encrypted under
 * each, in all files so far; a session's salt stands for its key.
 */
export function noncesOf(file: Uint8Array, seen: Map<string, string>): readonly string[] {
  const whole = recordsOf(file).filter(({ at, length }) => at + length <= file.length);
  const salts: string[] = [];
  const sessionAt = (at: Bytes): number => viewOf(file).getUint16(at + 6, true);
  for (const { kind, at } of whole) {
    if (kind === KINDS.session) salts[sessionAt(at)] = hex(sessionRecord.parse(file, at + RECORD_HEADER).salt);
  }
  const twice: string[] = [];
  for (const { at, length } of whole) {
    if ((viewOf(file).getUint32(at + 12, true) & ENCRYPTED) === 0) continue;
    const body = file.subarray(at + RECORD_HEADER, at + length - GCM_TAG);
    const nonce = `${salts[sessionAt(at)]}:${hex(body.subarray(0, COUNTER))}`;
    const what = hex(body.subarray(COUNTER, COUNTER + 32)) + body.length;
    if (seen.has(nonce) && seen.get(nonce) !== what) twice.push(nonce);
    seen.set(nonce, what);
  }
  return twice;
}

/** `record` is header and body without padding. */
export function sealChecksums(record: Uint8Array): void {
  const view = viewOf(record);
  const body = recordHeader.offsetOf('bodyCrc');
  const header = recordHeader.offsetOf('headerCrc');
  view.setUint32(body, crc32c(record.subarray(RECORD_HEADER)), true);
  view.setUint32(header, crc32c(new Uint8Array(4), crc32c(record.subarray(0, header))), true);
}

/** The record sum in the trailer of a whole file. */
export function sealSum(file: Uint8Array): void {
  const sum = new RecordSum();
  for (const { at } of recordsOf(file)) sum.add(at, storedHeaderCrc(file.subarray(at, at + RECORD_HEADER)));
  const page = file.subarray(file.length - PAGE);
  viewOf(page).setUint32(trailer.offsetOf('sumLow'), sum.low, true);
  viewOf(page).setUint32(trailer.offsetOf('sumHigh'), sum.high, true);
  sealCrc(page);
}
