/** A compressed chunk made readable: unpacked, as long as it should be, compared with its digest where it has one. */
import { hash } from 'node:crypto';
import type { Bytes, Done } from '../contracts.ts';
import { inflateSync, prepareInflate } from '../inflate.ts';
import { Pace } from '../pace.ts';
import { Rooms } from '../rooms.ts';
import { Openers } from '../threads/openers.ts';
import type { Faults, Known, Numbers, Ordered, Orders } from '../threads/orders.ts';
import { lz4Block } from './lz4.ts';
import { snappyBlock } from './snappy.ts';

type Decode = (packed: Uint8Array, into: Uint8Array) => number;

const zlib: Decode = (packed, into) => inflateSync(packed, into, 'zlib');

const DECODE = {
  zlib,
  /** Some writers put the header of zlib before it. */
  deflate: (packed, into) => {
    let length = -1;
    try {
      length = inflateSync(packed, into, 'raw');
    } catch {
      return zlib(packed, into);
    }
    if (length === into.length) return length;
    // A header may pass for the start of data that are cut off.
    const whole = new Uint8Array(into.length);
    try {
      const got = zlib(packed, whole);
      into.set(whole);
      return got;
    } catch {
      return length;
    }
  },
  snappy: snappyBlock,
  lz4: (packed, into) => lz4Block(packed, into, 0, into.length),
} as const satisfies Readonly<Record<string, Decode>>;

export type Method = keyof typeof DECODE;
const METHODS = Object.keys(DECODE) as Method[];

/** Algorithms of digests, as OpenSSL calls them. */
const DIGESTS = { md5: 16, sha1: 20, sha256: 32, sha512: 64, blake2b512: 64 } as const;
export type ChunkDigest = keyof typeof DIGESTS;
const ALGORITHMS = Object.keys(DIGESTS) as ChunkDigest[];
const LONGEST_DIGEST = 64;

export interface Chunk {
  readonly method: Method;
  /** The most that may come out. */
  readonly length: Bytes;
  /** How much of that has to; what comes behind it is zeros. */
  readonly needed: Bytes;
  /** What the digest of all that comes out, or of what is needed, has to be. */
  readonly digest: { readonly algorithm: ChunkDigest; readonly stands: Uint8Array } | null;
}

type Read = (raw: Uint8Array) => Done;

/** The fault of a chunk with another digest. */
export const OTHER_DIGEST = 'digest';

/** Whether the digest of what came out, or of its first `needed` bytes, is this one. */
export function digestHolds(algorithm: ChunkDigest, stands: Uint8Array, content: Uint8Array, needed: Bytes): boolean {
  for (const part of new Set([content.length, needed])) {
    if (Buffer.compare(hash(algorithm, content.subarray(0, part), 'buffer'), stands) === 0) return true;
  }
  return false;
}

/** Fills `into`; a string says why not: what a message says of the chunk, or `OTHER_DIGEST`. */
export function openChunk(into: Uint8Array, body: Uint8Array, { method, needed, digest }: Chunk): string | null {
  let got: Bytes;
  try {
    got = DECODE[method](body, into);
  } catch (error) {
    return `cannot be unpacked (${error instanceof Error ? error.message : String(error)})`;
  }
  if (got < needed) return `has ${got} bytes and should have ${needed}`;
  if (digest !== null && !digestHolds(digest.algorithm, digest.stands, into.subarray(0, got), needed))
    return OTHER_DIGEST;
  into.fill(0, needed);
  return null;
}

/** An order: memory, place and length of the chunk as it is stored; memory and place of what comes out, its length; method; bytes needed; algorithm of the digest, -1: none. */
const ORDER = 9;

function ordersOf(all: readonly Ordered<Chunk>[], of: Numbers): Pick<Orders, 'numbers' | 'about'> {
  const numbers = new Float64Array(all.length * ORDER);
  const about = new Uint8Array(all.length * LONGEST_DIGEST);
  for (const [i, { body, into, opening }] of all.entries()) {
    const { method, length, needed, digest } = opening;
    const from = [of.memory(body.buffer), body.byteOffset, body.length];
    const to = [of.memory(into.buffer), into.byteOffset, length];
    const algorithm = digest === null ? -1 : ALGORITHMS.indexOf(digest.algorithm);
    numbers.set([...from, ...to, METHODS.indexOf(method), needed, algorithm], i * ORDER);
    if (digest !== null) about.set(digest.stands, i * LONGEST_DIGEST);
  }
  return { numbers, about };
}

/** The work of a thread. */
export function openChunks(known: Known, orders: Orders): Faults {
  const { numbers, about } = orders;
  known.learn(orders);
  return Array.from({ length: numbers.length / ORDER }, (_, i) => {
    const [from, bodyAt, body, to, at, length, method, needed, number] = [
      ...numbers.subarray(i * ORDER, (i + 1) * ORDER),
    ] as [number, number, number, number, number, number, number, number, number];
    const algorithm = ALGORITHMS[number];
    const digestAt = i * LONGEST_DIGEST;
    const digest =
      algorithm === undefined ? null : { algorithm, stands: about.subarray(digestAt, digestAt + DIGESTS[algorithm]) };
    const chunk: Chunk = { method: METHODS[method]!, length, needed, digest };
    return openChunk(known.bytes(to, at, length), known.bytes(from, bodyAt, body), chunk);
  });
}

/** Longer ones hold up whoever else waits. */
const MOST_AT_ONCE: Bytes = 2 ** 20;
/** For chunks as they are stored. */
const ROOMS = new Rooms();

export class ChunkOpeners extends Openers<Chunk> {
  readonly #pace: Pace;
  #fetching = 0;

  constructor(threads?: number, atHome?: number, pace = new Pace()) {
    const program = new URL('./chunk-worker.ts', import.meta.url);
    super({ program, openInto: openChunk, ordersOf }, threads, atHome);
    this.#pace = pace;
  }

  /** Whoever opens an image of such chunks does this, so that its first read does not. */
  prepare(method: Method): void {
    if (method === 'zlib' || method === 'deflate') prepareInflate();
  }

  /**
   * Fills `into` with a chunk of `stored` bytes, which `read` puts where it is told to. At once while chunks are quick, and
   * one that comes alone; else in a thread. The fault, as `openChunk` has it.
   */
  async fetch(stored: Bytes, read: Read, chunk: Chunk, into: Uint8Array): Promise<string | null> {
    const atOnce = chunk.length <= MOST_AT_ONCE && (this.#fetching === 0 || this.#pace.isQuick());
    this.#fetching++;
    try {
      return await (atOnce ? this.#atOnce(stored, read, chunk, into) : this.#beside(stored, read, chunk, into));
    } finally {
      this.#fetching--;
    }
  }

  async #beside(stored: Bytes, read: Read, chunk: Chunk, into: Uint8Array): Promise<string | null> {
    // In whole chunks, so that rooms are of few sizes.
    const whole = Math.ceil(stored / chunk.length) * chunk.length;
    const room = await this.room(whole + chunk.length);
    try {
      const raw = new Uint8Array(room, 0, stored);
      const reading = read(raw);
      if (reading !== undefined) await reading;
      return await this.open(raw, chunk, into, new Uint8Array(room, whole, chunk.length));
    } finally {
      this.giveBack(room);
    }
  }

  #atOnce(stored: Bytes, read: Read, chunk: Chunk, into: Uint8Array): Promise<string | null> {
    return ROOMS.lend(stored, async raw => {
      const reading = read(raw);
      if (reading !== undefined) await reading;
      const began = performance.now();
      const fault = openChunk(into, raw, chunk);
      this.#pace.took(performance.now() - began);
      return fault;
    });
  }
}

export const chunkOpeners = new ChunkOpeners();
