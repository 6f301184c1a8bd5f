/** Small EWF images for tests, laid out as EnCase 6 does. */
import { createHash } from 'node:crypto';
import { deflateSync } from 'node:zlib';
import { adler32 } from '../../src/base/checksum.ts';
import { viewOf } from '../../src/base/struct.ts';
import { segmentNames } from './names.ts';
import { Descriptor, Digest, ErrorHeader, FILE_HEADER, FileHeader, SIGNATURE, TableHeader, Volume } from './structs.ts';

export interface EwfSpec {
  readonly content: Uint8Array;
  readonly sectorsPerChunk?: number;
  readonly compressed?: boolean;
  /** Chunks in each table, and tables in each segment. */
  readonly perTable?: number;
  readonly perSegment?: number;
  /** First sector and count of what could not be read. */
  readonly errors?: readonly (readonly [number, number])[];
  /** Stored in the place of the MD5. */
  readonly md5?: Uint8Array;
  readonly copies?: boolean;
}

/** Puts the Adler-32 of what stands before it at `at`. */
export function summed<T extends Uint8Array>(raw: T, at: number, from = 0): T {
  viewOf(raw).setUint32(at, adler32(raw.subarray(from, at)), true);
  return raw;
}

export function section(type: string, at: number, body: Uint8Array, next = at + Descriptor.size + body.length): Buffer {
  const name = new Uint8Array(16);
  name.set(Buffer.from(type));
  const head = Descriptor.build({ type: name, next, size: Descriptor.size + body.length, checksum: 0 });
  return Buffer.concat([summed(head, Descriptor.offsetOf('checksum')), body]);
}

export function volumeBody(size: number, sectorsPerChunk: number): Uint8Array {
  const sectors = size / 512;
  const setId = new Uint8Array(16).fill(7);
  const chunks = 0;
  return summed(Volume.build({ chunks, sectorsPerChunk, bytesPerSector: 512, sectors, setId, checksum: 0 }), 1048);
}

export function tableBody(entries: readonly number[], base: number): Uint8Array {
  const head = summed(TableHeader.build({ entries: entries.length, base, checksum: 0 }), 20);
  const array = new Uint8Array(entries.length * 4 + 4);
  for (const [i, entry] of entries.entries()) viewOf(array).setUint32(i * 4, entry, true);
  return Buffer.concat([head, summed(array, entries.length * 4)]);
}

export const fileHeader = (segment: number): Uint8Array =>
  FileHeader.build({ signature: SIGNATURE, fieldsStart: new Uint8Array([1]), segment });

function plainChunk(chunk: Uint8Array): Uint8Array {
  const raw = new Uint8Array(chunk.length + 4);
  raw.set(chunk);
  return summed(raw, chunk.length);
}

/** One group of chunks: `sectors`, `table` and `table2`. */
function group(at: number, chunks: readonly Uint8Array[], spec: EwfSpec): readonly Buffer[] {
  const compressed = spec.compressed ?? false;
  const stored = chunks.map(chunk => (compressed ? deflateSync(chunk) : plainChunk(chunk)));
  const entries: number[] = [];
  let offset = Descriptor.size;
  for (const each of stored) {
    entries.push(compressed ? offset + 0x8000_0000 : offset);
    offset += each.length;
  }
  const sectors = section('sectors', at, Buffer.concat(stored));
  const body = tableBody(entries, at);
  const table = section('table', at + sectors.length, body);
  if (spec.copies === false) return [sectors, table];
  return [sectors, table, section('table2', at + sectors.length + table.length, body)];
}

function closing(at: number, spec: EwfSpec): Buffer {
  const parts: Buffer[] = [];
  const end = (): number => parts.reduce((sum, { length }) => sum + length, at);
  if (spec.errors !== undefined) {
    const head = summed(ErrorHeader.build({ entries: spec.errors.length, checksum: 0 }), 516);
    const list = new Uint8Array(spec.errors.length * 8 + 4);
    for (const [i, [first, count]] of spec.errors.entries()) {
      viewOf(list).setUint32(i * 8, first, true);
      viewOf(list).setUint32(i * 8 + 4, count, true);
    }
    parts.push(section('error2', end(), Buffer.concat([head, summed(list, list.length - 4)])));
  }
  const md5 = spec.md5 ?? createHash('md5').update(spec.content).digest();
  const sha1 = createHash('sha1').update(spec.content).digest();
  parts.push(section('digest', end(), summed(Digest.build({ md5, sha1, checksum: 0 }), 76)));
  parts.push(section('done', end(), new Uint8Array(0), end()));
  return Buffer.concat(parts);
}

/** The files of an image, by name from `made.E01` on. */
export function ewfFiles(spec: EwfSpec): Record<string, Uint8Array> {
  const { content, sectorsPerChunk = 8, perTable = 5, perSegment = 1000 } = spec;
  const names = segmentNames('made.E01', 1)!;
  const files: Record<string, Uint8Array> = {};
  const chunkSize = sectorsPerChunk * 512;
  const chunks: Uint8Array[] = [];
  for (let at = 0; at < content.length; at += chunkSize) chunks.push(content.subarray(at, at + chunkSize));
  const volume = volumeBody(content.length, sectorsPerChunk);
  for (let first = 0, number = 1; first < chunks.length; number++) {
    const head = section(number === 1 ? 'volume' : 'data', FILE_HEADER, volume);
    let file = Buffer.concat([fileHeader(number), head]);
    for (let tables = 0; tables < perSegment && first < chunks.length; tables++, first += perTable) {
      file = Buffer.concat([file, ...group(file.length, chunks.slice(first, first + perTable), spec)]);
    }
    const last = first >= chunks.length;
    const end = last ? closing(file.length, spec) : section('next', file.length, new Uint8Array(0), file.length);
    files[names.nameOf(number)!] = Buffer.concat([file, end]);
  }
  return files;
}
