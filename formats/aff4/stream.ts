/** A stream of chunks, in bevies of many: a bevy, an index of where its chunks lie, and digests of the chunks. */

import type { Bytes, Done } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import {
  type Chunk,
  type ChunkDigest,
  chunkOpeners,
  digestHolds,
  type Method,
  OTHER_DIGEST,
} from '../../src/base/packing/chunk.ts';
import { RecentPages } from '../../src/base/pages.ts';
import { viewOf } from '../../src/base/struct.ts';
import type { MemberTable } from './members.ts';
import { INDEX_ENTRY } from './structs.ts';
import { AFF4, factOf, numberOf, type Volume } from './volume.ts';
import { contentAt, corrupt, type Member, readMember } from './zip.ts';

const LARGEST_CHUNK: Bytes = 16 * 2 ** 20;
/** Of the index of one bevy: 2,048 chunks are usual. */
const LONGEST_INDEX: Bytes = 8 * 2 ** 20;
const MOST_BEVIES = 64;

/** Algorithms of block hashes, the ones that are computed fastest first, and the lengths of their digests. */
export const BLOCK_HASHES: Readonly<Record<string, readonly [algorithm: ChunkDigest, length: Bytes]>> = {
  sha1: ['sha1', 20],
  sha256: ['sha256', 32],
  blake2b: ['blake2b512', 64],
  sha512: ['sha512', 64],
  md5: ['md5', 16],
};

/** null: stored as it is. */
const METHODS: ReadonlyMap<string, Method | null> = new Map([
  ['http://code.google.com/p/snappy/', 'snappy'],
  ['https://github.com/google/snappy', 'snappy'],
  ['https://code.google.com/p/lz4/', 'lz4'],
  ['https://tools.ietf.org/html/rfc1951', 'deflate'],
  ['http://tools.ietf.org/html/rfc1951', 'deflate'],
  ['https://www.ietf.org/rfc/rfc1950.txt', 'zlib'],
  [`${AFF4}compression/stored`, null],
  [`${AFF4}NullCompressor`, null],
]);

/** What is known about a bevy once it was needed. */
export interface Bevy {
  readonly byteLength: Bytes;
  readonly number: number;
  readonly chunks: number;
  readonly contentAt: Bytes;
  readonly size: Bytes;
  readonly index: DataView;
  readonly digests: Uint8Array | null;
}

export class ImageStream {
  readonly name: string;
  readonly volume: Volume;
  readonly size: Bytes;
  readonly chunkSize: Bytes;
  readonly perBevy: number;
  readonly chunks: number;
  /** Algorithms that block hashes are stored of. */
  readonly hashes: readonly string[];
  readonly #method: Method | null;
  /** The one of them that is compared whenever a chunk is read. */
  readonly #hash: string | null;
  readonly #recent = new RecentPages<Bevy>(MOST_BEVIES);
  readonly #coming = new Map<number, Promise<Bevy>>();

  constructor(volume: Volume, name: string) {
    const { file, graph } = volume;
    this.name = name;
    this.volume = volume;
    const need = (property: string): number => {
      const number = numberOf(volume, name, property);
      if (number === null) throw new ImageError('corrupt', `${name} has no ${property}`, { file, field: property });
      return number;
    };
    this.size = need('size');
    this.chunkSize = need('chunkSize');
    this.perBevy = numberOf(volume, name, 'chunksInSegment') ?? 2048;
    if (this.chunkSize < 512 || this.chunkSize > LARGEST_CHUNK) {
      const message = `chunks of ${this.chunkSize} bytes are not known`;
      throw new ImageError('unsupported', message, { file, field: 'chunkSize' });
    }
    if (this.perBevy < 1 || this.perBevy * INDEX_ENTRY > LONGEST_INDEX) {
      const message = `${this.perBevy} chunks in a bevy are not known`;
      throw new ImageError('unsupported', message, { file, field: 'chunksInSegment' });
    }
    this.chunks = Math.ceil(this.size / this.chunkSize);
    const told = factOf(graph, name, 'compressionMethod');
    const method = told === null ? null : METHODS.get(told);
    if (method === undefined) {
      const message = `the compression "${told!.slice(0, 100)}" is not known`;
      throw new ImageError('unsupported', message, { file, field: 'compressionMethod' });
    }
    this.#method = method;
    if (method !== null) chunkOpeners.prepare(method);
    this.hashes = Object.keys(BLOCK_HASHES).filter(kind => volume.bevies(name)?.has(kind) === true);
    this.#hash = this.hashes[0] ?? null;
  }

  #table(kind: string): MemberTable | null {
    return this.volume.bevies(this.name)?.get(kind) ?? null;
  }

  /** A member of a bevy: `''` itself, `index`, or digests by algorithm. 'corrupt' where it is missing. */
  member(number: number, kind: string): Member {
    const found = this.#table(kind)?.find(number) ?? null;
    if (found !== null) return found;
    const what = kind === '' ? 'itself' : kind;
    throw new ImageError('corrupt', `bevy ${number} of ${this.name} lacks ${what}`, { file: this.volume.file });
  }

  bevyNow(number: number): Bevy | null {
    return this.#recent.get(number);
  }

  /** Read unless it is in memory. Concurrent calls share one read. */
  bevy(number: number): Promise<Bevy> {
    const recent = this.bevyNow(number);
    if (recent !== null) return Promise.resolve(recent);
    const coming = this.#coming.get(number);
    if (coming !== undefined) return coming;
    const reading = this.#readBevy(number).finally(() => this.#coming.delete(number));
    this.#coming.set(number, reading);
    return reading;
  }

  async #readBevy(number: number): Promise<Bevy> {
    const { archive, file } = this.volume;
    const data = this.member(number, '');
    const place = await contentAt(archive, data);
    const index = await readMember(archive, this.member(number, 'index'), LONGEST_INDEX);
    const chunks = Math.min(this.perBevy, this.chunks - number * this.perBevy);
    if (index.length < chunks * INDEX_ENTRY) {
      throw corrupt(`the index of bevy ${number} of ${this.name} is too short`, file, data.headerAt);
    }
    const digests = this.#hash === null ? null : await this.digests(number, this.#hash, chunks);
    const byteLength = index.length + (digests?.length ?? 0);
    const view = viewOf(index);
    const bevy = { byteLength, number, chunks, contentAt: place, size: data.size, index: view, digests };
    this.#recent.put(number, bevy);
    return bevy;
  }

  /** Digests of a bevy's chunks, one behind the other. */
  async digests(number: number, kind: string, chunks: number): Promise<Uint8Array> {
    const { archive, file } = this.volume;
    const member = this.member(number, kind);
    const digests = await readMember(archive, member, LONGEST_INDEX * 6);
    if (digests.length >= chunks * BLOCK_HASHES[kind]![1]) return digests;
    throw corrupt(`the digests of bevy ${number} of ${this.name} are too short`, file, member.headerAt);
  }

  /** How much of a chunk belongs to the stream. */
  lengthOf(chunk: number): Bytes {
    return Math.min(this.chunkSize, this.size - chunk * this.chunkSize);
  }

  /** Fills the start of `into` with a chunk, and the rest with zeros. */
  async read(chunk: number, into: Uint8Array): Promise<void> {
    const number = Math.floor(chunk / this.perBevy);
    const bevy = this.bevyNow(number) ?? (await this.bevy(number));
    const place = this.place(bevy, chunk);
    const { source, file } = this.volume;
    const whole = into.subarray(0, this.chunkSize);
    const needed = this.lengthOf(chunk);
    const digest = this.#digestOf(bevy, chunk);
    const read = (raw: Uint8Array): Done => source.read(raw, place.at);
    let fault: string | null;
    if (place.length === this.chunkSize || this.#method === null) {
      // A chunk that does not shrink is stored as it is.
      const raw = whole.subarray(0, place.length);
      await read(raw);
      fault = place.length < needed ? `has ${place.length} bytes` : null;
      if (fault === null && digest !== null && !digestHolds(digest.algorithm, digest.stands, raw, needed))
        fault = OTHER_DIGEST;
    } else {
      const wanted = { method: this.#method, length: this.chunkSize, needed, digest };
      fault = await chunkOpeners.fetch(place.length, read, wanted, whole);
    }
    if (fault === OTHER_DIGEST)
      throw corrupt(`the ${this.#hash} of chunk ${chunk} of ${this.name} does not hold`, file, place.at);
    if (fault !== null) throw corrupt(`chunk ${chunk} of ${this.name} ${fault}`, file, place.at);
    into.fill(0, needed);
  }

  /** What is compared whenever a chunk is read. */
  #digestOf({ digests }: Bevy, chunk: number): Chunk['digest'] {
    return digests === null ? null : this.#standing(this.#hash!, digests, chunk);
  }

  /** What the digest of a chunk has to be. */
  #standing(kind: string, digests: Uint8Array, chunk: number): NonNullable<Chunk['digest']> {
    const [algorithm, length] = BLOCK_HASHES[kind]!;
    const at = (chunk % this.perBevy) * length;
    return { algorithm, stands: digests.subarray(at, at + length) };
  }

  /** Where a chunk lies in the file. 'corrupt' where that is not inside its bevy. */
  place({ index, size, contentAt: from, number }: Bevy, chunk: number): { readonly at: Bytes; readonly length: Bytes } {
    const entry = (chunk - number * this.perBevy) * INDEX_ENTRY;
    const offset = index.getUint32(entry + 4, true) * 2 ** 32 + index.getUint32(entry, true);
    const length = index.getUint32(entry + 8, true);
    if (length > 0 && length <= this.chunkSize && offset + length <= size) return { at: from + offset, length };
    throw corrupt(`chunk ${chunk} of ${this.name} does not lie in its bevy`, this.volume.file, from);
  }

  /** Whether a chunk has the digest that is stored of it: of all of it, or as far as the stream goes. */
  holds(kind: string, digests: Uint8Array, chunk: number, content: Uint8Array): boolean {
    const { algorithm, stands } = this.#standing(kind, digests, chunk);
    return digestHolds(algorithm, stands, content, this.lengthOf(chunk));
  }
}
