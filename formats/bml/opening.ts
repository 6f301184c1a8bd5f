/** From the body of a data record to its block: authenticated, decompressed, compared with its digest. */
import type { KeyObject } from 'node:crypto';
import { hash } from 'node:crypto';
import { decompressNow } from './codec.ts';
import { COUNTER, unsealNow } from './crypto.ts';
import { TAG } from './node.ts';

/** What is known of a record before it is opened. */
export interface Opening {
  /** null: not encrypted. */
  readonly key: KeyObject | null;
  /** Associated data of an encrypted record. */
  readonly aad: Uint8Array<ArrayBuffer>;
  /** First bytes of the digest of a block that is not encrypted. */
  readonly digest: Uint8Array;
  readonly codec: number;
  /** Plain length. */
  readonly length: number;
}

/** Fills the start of `into` with the block, which may be where `body` is. A string says why not; null: it is there. */
export function openInto(into: Uint8Array, body: Uint8Array, opening: Opening): string | null {
  const opened = openBody(body, opening);
  if (typeof opened === 'string') return opened;
  into.set(opened);
  return null;
}

/** What follows the record's header becomes the block. A string says why it does not; nothing is handed out then. */
function openBody(body: Uint8Array, opening: Opening): Uint8Array | string {
  const { key, aad, codec, length, digest } = opening;
  let packed = body;
  if (key !== null) {
    const opened = unsealNow(key, body.subarray(0, COUNTER), aad, body.subarray(COUNTER));
    if (opened === null) return 'the record fails its authentication';
    packed = opened;
  }
  let plain = packed;
  if (codec === 1) {
    try {
      plain = decompressNow(packed, length);
    } catch (error) {
      return `the block cannot be decompressed (${error instanceof Error ? error.message : String(error)})`;
    }
  }
  if (plain.length !== length) return `${plain.length} bytes instead of ${length}`;
  if (key === null && Buffer.compare(hash('sha256', plain, 'buffer').subarray(0, TAG), digest) !== 0) {
    return 'the block fails its digest';
  }
  return plain;
}
