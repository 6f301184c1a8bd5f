/** From the body of a data record to its block: authenticated, decompressed, compared with its digest. */
import type { KeyObject } from 'node:crypto';
import { hash } from 'node:crypto';
import type { Bytes } from '../../src/base/contracts.ts';
import type { Faults, Known, Numbers, Ordered, Orders } from '../../src/base/threads/orders.ts';
import { decompressInto } from './codec.ts';
import { AAD, COUNTER, unsealNow } from './crypto.ts';
import { TAG } from './node.ts';
import { decipherSectors, sectorsTag } from './sectors.ts';

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
  /** AES-256-XTS: where the block lies on its disk; absent: any other cipher. */
  readonly sectorsAt?: Bytes;
}

/** Fills `into`, which has the plain length and no byte in common with `body`. A string says why not; what is in it then is not to be used. */
export function openInto(into: Uint8Array, body: Uint8Array, opening: Opening): string | null {
  const { key, aad, codec, length, digest, sectorsAt } = opening;
  if (sectorsAt !== undefined) {
    if (body.length !== length) return `${body.length} bytes instead of ${length}`;
    if (Buffer.compare(sectorsTag(body), digest) !== 0) return 'the block fails its digest';
    into.set(body);
    decipherSectors(key!, into, sectorsAt);
    return null;
  }
  let packed = body;
  if (key !== null) {
    const opened = unsealNow(key, body.subarray(0, COUNTER), aad, body.subarray(COUNTER));
    if (opened === null) return 'the record fails its authentication';
    packed = opened;
  }
  if (codec === 1) {
    try {
      decompressInto(into, packed);
    } catch (error) {
      return `the block cannot be decompressed (${error instanceof Error ? error.message : String(error)})`;
    }
  } else {
    if (packed.length !== length) return `${packed.length} bytes instead of ${length}`;
    into.set(packed);
  }
  if (key === null && Buffer.compare(hash('sha256', into, 'buffer').subarray(0, TAG), digest) !== 0) {
    return 'the block fails its digest';
  }
  return null;
}

/** An order: memory, place and length of the body; memory and place of the block, plain length; codec; key, 0: none; place of its sectors, -1: none. */
export const ORDER = 9;
const ABOUT = AAD + TAG;

export function ordersOf(all: readonly Ordered<Opening>[], of: Numbers): Pick<Orders, 'numbers' | 'about'> {
  const numbers = new Float64Array(all.length * ORDER);
  const about = new Uint8Array(all.length * ABOUT);
  for (const [i, { body, into, opening }] of all.entries()) {
    const { aad, digest, codec, length, key, sectorsAt = -1 } = opening;
    const from = [of.memory(body.buffer), body.byteOffset, body.length];
    const to = [of.memory(into.buffer), into.byteOffset, length];
    numbers.set([...from, ...to, codec, key === null ? 0 : of.key(key), sectorsAt], i * ORDER);
    about.set(aad, i * ABOUT);
    about.set(digest.subarray(0, TAG), i * ABOUT + AAD);
  }
  return { numbers, about };
}

/** The work of a thread. */
export function openAll(known: Known, orders: Orders): Faults {
  const { numbers, about } = orders;
  known.learn(orders);
  return Array.from({ length: numbers.length / ORDER }, (_, i) => {
    const [from, bodyAt, body, to, at, length, codec, key, sectorsAt] = [
      ...numbers.subarray(i * ORDER, (i + 1) * ORDER),
    ] as [number, number, number, number, number, number, number, number, number];
    const aad = about.slice(i * ABOUT, i * ABOUT + AAD);
    const digest = about.subarray(i * ABOUT + AAD, (i + 1) * ABOUT);
    const opening: Opening = {
      key: key === 0 ? null : known.key(key),
      aad,
      digest,
      codec,
      length,
      ...(sectorsAt < 0 ? {} : { sectorsAt }),
    };
    return openInto(known.bytes(to, at, length), known.bytes(from, bodyAt, body), opening);
  });
}
