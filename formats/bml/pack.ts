/** Blocks to data records, many at a time: compressed, encrypted, checked. Runs in the writer's thread and in others. */
import type { KeyObject } from 'node:crypto';
import { hash } from 'node:crypto';
import type { Bytes } from '../../src/base/contracts.ts';
import { roundUp } from '../../src/base/range.ts';
import { compressInto } from './codec.ts';
import { associatedData, COUNTER, GCM_TAG, type Place, sealInto } from './crypto.ts';
import { TAG } from './node.ts';
import { dataFlags, sealRecord } from './record.ts';
import { encipherSectors, sectorsTag } from './sectors.ts';
import { ALIGN, type Cipher, RECORD_HEADER } from './structs.ts';

export interface PackSpec {
  readonly setId: Uint8Array;
  readonly layer: Uint8Array;
  /** Number of the session within the layer. */
  readonly session: number;
  readonly cipher: Cipher;
  /** Of the session or, for AES-256-XTS, of the set. */
  readonly key: KeyObject | null;
  readonly blockSize: Bytes;
  /** zstd level; 0: stored as it is. */
  readonly level: number;
}

/** Blocks of a batch, one after another, and room for their records. Shared between threads. */
export interface Batch {
  readonly plain: Uint8Array<ArrayBufferLike>;
  readonly packed: Uint8Array<ArrayBufferLike>;
  /** `JOB` numbers for each block. */
  readonly jobs: Float64Array<ArrayBufferLike>;
  /** `DONE` numbers for each record. */
  readonly done: Float64Array<ArrayBufferLike>;
  /** TAG bytes for each record. */
  readonly tags: Uint8Array<ArrayBufferLike>;
}

/** A job: disk, block, plain length, counter (when encrypted). Plain bytes lie one block after another. */
export const JOB = 4;
/** A result: length of the record with padding, stored length, codec. Records lie one after another. */
export const DONE = 3;

const recordRoom = (blockSize: Bytes): number => roundUp(RECORD_HEADER + COUNTER + blockSize + GCM_TAG, ALIGN);

export function newBatch(blocks: number, blockSize: Bytes): Batch {
  const shared = (bytes: number): SharedArrayBuffer => new SharedArrayBuffer(bytes);
  return {
    plain: new Uint8Array(shared(blocks * blockSize)),
    packed: new Uint8Array(shared(blocks * recordRoom(blockSize))),
    jobs: new Float64Array(shared(blocks * JOB * 8)),
    done: new Float64Array(shared(blocks * DONE * 8)),
    tags: new Uint8Array(shared(blocks * TAG)),
  };
}

/** Packs the first `count` blocks of the batch. */
export function packBatch(spec: PackSpec, batch: Batch, count: number): void {
  let from = 0;
  let to = 0;
  for (let i = 0; i < count; i++) {
    const length = batch.jobs[i * JOB + 2]!;
    to += packBlock(spec, batch, i, batch.plain.subarray(from, from + length), to);
    from += spec.blockSize;
  }
}

/** Memory for one compressed block: a thread packs one at a time. */
let scratch = new Uint8Array(0);

function scratchOf(length: number): Uint8Array {
  if (scratch.length < length) scratch = new Uint8Array(length);
  return scratch.subarray(0, length);
}

/** Writes the record of block `i` at `at` of the room for records; its length with padding. */
function packBlock(spec: PackSpec, batch: Batch, i: number, plain: Uint8Array, at: number): number {
  const { key, setId, layer, session } = spec;
  const disk = batch.jobs[i * JOB]!;
  const index = batch.jobs[i * JOB + 1]!;
  const counter = batch.jobs[i * JOB + 3]!;
  const place: Place = { setId, layer, kind: 'data', disk, index, level: 0 };
  const flags = dataFlags(spec.cipher, plain.length < spec.blockSize);
  const room = batch.packed.subarray(at, at + recordRoom(spec.blockSize));
  if (spec.cipher === 'aes-256-xts') {
    const packed = encipherInto(room, key!, plain, index * spec.blockSize);
    batch.tags.set(sectorsTag(packed.subarray(RECORD_HEADER, RECORD_HEADER + plain.length)), i * TAG);
    sealRecord(packed, place, session, 0, flags, plain.length, plain.length);
    batch.done.set([packed.length, plain.length, 0], i * DONE);
    return packed.length;
  }
  // Encrypted blocks are compressed somewhere else first.
  const into = key === null ? room.subarray(RECORD_HEADER, RECORD_HEADER + plain.length) : scratchOf(plain.length);
  const packed = spec.level === 0 ? 0 : compressInto(into, plain, spec.level);
  const codec = packed === 0 ? 0 : 1;
  const body = packed === 0 ? plain : into.subarray(0, packed);
  const stored = body.length + (key === null ? 0 : COUNTER);
  const whole = RECORD_HEADER + stored + (key === null ? 0 : GCM_TAG);
  const padded = roundUp(whole, ALIGN);
  const record = room.subarray(0, padded);
  if (key === null) {
    if (packed === 0) record.set(plain, RECORD_HEADER);
    batch.tags.set(hash('sha256', plain, 'buffer').subarray(0, TAG), i * TAG);
  } else {
    const aad = associatedData(place, codec, plain.length, flags);
    sealInto(record.subarray(RECORD_HEADER, whole), key, counter, aad, body);
    batch.tags.set(record.subarray(whole - GCM_TAG, whole - GCM_TAG + TAG), i * TAG);
  }
  record.fill(0, whole);
  sealRecord(record, place, session, codec, flags, plain.length, whole - RECORD_HEADER);
  batch.done.set([padded, stored, codec], i * DONE);
  return padded;
}

/** Writes the sectors of a block behind the room for its header, uncompressed; the record with its padding. */
function encipherInto(room: Uint8Array, key: KeyObject, plain: Uint8Array, at: Bytes): Uint8Array {
  const whole = RECORD_HEADER + plain.length;
  const record = room.subarray(0, roundUp(whole, ALIGN));
  record.set(plain, RECORD_HEADER);
  encipherSectors(key, record.subarray(RECORD_HEADER, whole), at);
  record.fill(0, whole);
  return record;
}
