/** Small AFF4 volumes for tests, with every member that Evimetry writes. */
import { createHash, hash } from 'node:crypto';
import { crc32, deflateRawSync, deflateSync } from 'node:zlib';
import { INDEX_ENTRY, MAP_ENTRY } from './structs.ts';

export type Compression = 'snappy' | 'lz4' | 'deflate' | 'zlib' | 'none';

export interface MapRange {
  readonly start: number;
  readonly length: number;
  readonly targetAt: number;
  readonly target: number;
}

export interface StreamSpec {
  readonly name: string;
  readonly content: Uint8Array;
  readonly chunkSize?: number;
  readonly perBevy?: number;
  readonly compression?: Compression;
  readonly hashes?: readonly ('md5' | 'sha1' | 'sha256' | 'sha512' | 'blake2b')[];
}

export interface VolumeSpec {
  readonly name: string;
  readonly image: string;
  readonly size: number;
  /** Without one the image is its first stream. */
  readonly map?: { readonly name: string; readonly ranges: readonly MapRange[]; readonly targets: readonly string[] };
  readonly streams: readonly StreamSpec[];
  /** Streams of the map that lie in another volume. */
  readonly elsewhere?: readonly { readonly name: string; readonly volume: string }[];
  /** Of the whole disk. */
  readonly linear?: { readonly sha1: string };
  /** Lines that are added to the description. */
  readonly more?: string;
  readonly version?: string;
  readonly changed?: (members: Record<string, Uint8Array>) => void;
}

const METHODS: Readonly<Record<Compression, string | null>> = {
  snappy: 'http://code.google.com/p/snappy/',
  lz4: 'https://code.google.com/p/lz4/',
  deflate: 'https://tools.ietf.org/html/rfc1951',
  zlib: 'https://www.ietf.org/rfc/rfc1950.txt',
  none: null,
};

/** Runs of one byte become copies, everything else literals. */
export function snappyEncode(content: Uint8Array): Uint8Array {
  const out: number[] = [];
  for (let left = content.length, more = true; more; ) {
    more = left >= 128;
    out.push((left % 128) + (more ? 128 : 0));
    left = Math.floor(left / 128);
  }
  let literal: number[] = [];
  const flush = (): void => {
    if (literal.length > 60) out.push(61 << 2, (literal.length - 1) & 255, (literal.length - 1) >> 8, ...literal);
    else if (literal.length > 0) out.push((literal.length - 1) << 2, ...literal);
    literal = [];
  };
  for (let at = 0; at < content.length; ) {
    let run = 1;
    while (run < 65 && content[at + run] === content[at]) run++;
    literal.push(content[at]!);
    if (run > 8) {
      flush();
      out.push(((run - 2) << 2) | 2, 1, 0);
      at += run;
    } else at++;
    if (literal.length === 60_000) flush();
  }
  flush();
  return Uint8Array.from(out);
}

/** One run of literals, as a block may have. */
function lz4Encode(content: Uint8Array): Uint8Array {
  const out = [0xf0];
  for (let left = content.length - 15; ; left -= 255) {
    out.push(Math.min(255, left));
    if (left < 255) break;
  }
  return Buffer.concat([Buffer.from(out), content]);
}

function packChunk(chunk: Uint8Array, compression: Compression): Uint8Array {
  const packed = {
    snappy: () => snappyEncode(chunk),
    lz4: () => lz4Encode(chunk),
    deflate: () => deflateRawSync(chunk),
    zlib: () => deflateSync(chunk),
    none: () => chunk,
  }[compression]();
  return packed.length < chunk.length ? packed : chunk;
}

const escaped = (name: string): string => name.replace('aff4://', 'aff4%3A%2F%2F');

function pathOf(volume: string, object: string): string {
  return object.startsWith(`${volume}/`) ? object.slice(volume.length + 1) : escaped(object);
}

function addStream(members: Record<string, Uint8Array>, volume: string, spec: StreamSpec): string {
  const { name, content, chunkSize = 4096, perBevy = 4, compression = 'snappy', hashes = ['sha1', 'md5'] } = spec;
  const digests: Record<string, Buffer[]> = {};
  for (let number = 0, at = 0; at < content.length; number++) {
    const bevy: Uint8Array[] = [];
    const index: Buffer[] = [];
    const of: Record<string, Buffer[]> = {};
    let offset = 0;
    for (let i = 0; i < perBevy && at < content.length; i++, at += chunkSize) {
      const chunk = new Uint8Array(chunkSize);
      chunk.set(content.subarray(at, at + chunkSize));
      const packed = packChunk(chunk, compression);
      const entry = Buffer.alloc(INDEX_ENTRY);
      entry.writeBigUInt64LE(BigInt(offset), 0);
      entry.writeUInt32LE(packed.length, 8);
      index.push(entry);
      bevy.push(packed);
      offset += packed.length;
      for (const kind of hashes) {
        const algorithm = kind === 'blake2b' ? 'blake2b512' : kind;
        of[kind] = [...(of[kind] ?? []), createHash(algorithm).update(chunk).digest()];
      }
    }
    const base = `${pathOf(volume, name)}/${String(number).padStart(8, '0')}`;
    members[base] = Buffer.concat(bevy);
    members[`${base}.index`] = Buffer.concat(index);
    for (const kind of hashes) {
      members[`${base}.blockHash.${kind}`] = Buffer.concat(of[kind]!);
      digests[kind] = [...(digests[kind] ?? []), ...of[kind]!];
    }
  }
  const method = METHODS[compression];
  const sums = hashes.map(kind => {
    const of = hash('sha512', Buffer.concat(digests[kind] ?? []), 'hex');
    return `<${name}/blockhash.${kind}> a aff4:BlockHashes ; aff4:hash "${of}"^^aff4:SHA512 .\n`;
  });
  return `<${name}>
        a aff4:ImageStream ;
        aff4:chunkSize "${chunkSize}"^^xsd:int ;
        aff4:chunksInSegment "${perBevy}"^^xsd:int ;${method === null ? '' : `\n        aff4:compressionMethod <${method}> ;`}
        aff4:hash "${hash('md5', content)}"^^aff4:MD5 , "${hash('sha1', content)}"^^aff4:SHA1 ;
        aff4:size "${content.length}"^^xsd:long ;
        aff4:stored : .
${sums.join('')}`;
}

function addMap(members: Record<string, Uint8Array>, spec: VolumeSpec): string {
  const { name, ranges, targets } = spec.map!;
  const points = Buffer.alloc(ranges.length * MAP_ENTRY);
  for (const [i, { start, length, targetAt, target }] of ranges.entries()) {
    points.writeBigUInt64LE(BigInt(start), i * MAP_ENTRY);
    points.writeBigUInt64LE(BigInt(length), i * MAP_ENTRY + 8);
    points.writeBigUInt64LE(BigInt(targetAt), i * MAP_ENTRY + 16);
    points.writeUInt32LE(target, i * MAP_ENTRY + 24);
  }
  const list = Buffer.from(`${targets.join('\n')}\n`);
  const base = pathOf(spec.name, name);
  members[`${base}/map`] = points;
  members[`${base}/idx`] = list;
  return `<${name}>
        a aff4:Map ;
        aff4:mapGapDefaultStream aff4:Zero ;
        aff4:mapPointHash "${hash('sha512', points, 'hex')}"^^aff4:SHA512 ;
        aff4:mapIdxHash "${hash('sha512', list, 'hex')}"^^aff4:SHA512 ;
        aff4:mapHash "${hash('sha512', Buffer.concat([points, list]), 'hex')}"^^aff4:SHA512 ;
        aff4:size "${spec.size}"^^xsd:long ;
        aff4:stored : .
`;
}

function field64(...values: readonly number[]): Buffer {
  const extra = Buffer.alloc(4 + values.length * 8);
  extra.writeUInt16LE(1, 0);
  extra.writeUInt16LE(values.length * 8, 2);
  for (const [i, value] of values.entries()) extra.writeBigUInt64LE(BigInt(value), 4 + i * 8);
  return extra;
}

/** An archive of stored members whose sizes and places stand in 64 bits. */
export function zipFile(members: Readonly<Record<string, Uint8Array>>, comment: string): Uint8Array {
  const parts: Uint8Array[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const [name, content] of Object.entries(members)) {
    const extra = field64(content.length, content.length);
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x0403_4b50, 0);
    local.writeUInt16LE(45, 4);
    local.writeUInt32LE(crc32(content), 14);
    local.fill(0xff, 18, 26);
    local.writeUInt16LE(name.length, 26);
    local.writeUInt16LE(extra.length, 28);
    const wide = field64(content.length, content.length, at);
    const entry = Buffer.alloc(46);
    entry.writeUInt32LE(0x0201_4b50, 0);
    entry.writeUInt32LE(crc32(content), 16);
    entry.fill(0xff, 20, 28);
    entry.writeUInt16LE(name.length, 28);
    entry.writeUInt16LE(wide.length, 30);
    entry.fill(0xff, 42, 46);
    directory.push(entry, Buffer.from(name), wide);
    parts.push(local, Buffer.from(name), extra, content);
    at += 30 + name.length + extra.length + content.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end64 = Buffer.alloc(56);
  end64.writeUInt32LE(0x0606_4b50, 0);
  end64.writeBigUInt64LE(44n, 4);
  for (const [i, value] of [Object.keys(members).length, Object.keys(members).length, size, at].entries()) {
    end64.writeBigUInt64LE(BigInt(value), 24 + i * 8);
  }
  const locator = Buffer.alloc(20);
  locator.writeUInt32LE(0x0706_4b50, 0);
  locator.writeBigUInt64LE(BigInt(at + size), 8);
  locator.writeUInt32LE(1, 16);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x0605_4b50, 0);
  end.fill(0xff, 8, 20);
  end.writeUInt16LE(comment.length, 20);
  return Buffer.concat([...parts, ...directory, end64, locator, end, Buffer.from(comment)]);
}

/** One volume. */
export function volumeFile(spec: VolumeSpec): Uint8Array {
  const { name, image, size, map, streams, elsewhere = [], linear, more = '', version } = spec;
  const members: Record<string, Uint8Array> = {
    'container.description': Buffer.from(name),
    'version.txt': Buffer.from(version ?? 'major=1\nminor=0\ntool=Evimetry 2.2.0\n'),
  };
  const described = streams.map(stream => addStream(members, name, stream)).join('');
  const mapped = map === undefined ? '' : addMap(members, spec);
  const stubs = elsewhere.map(other => `<${other.name}> a aff4:ImageStream ; aff4:stored <${other.volume}> .\n`);
  const turtle = `@prefix :      <${name}> .
@prefix rdf:   <http://www.w3.org/1999/02/22-rdf-syntax-ns#> .
@prefix xsd:   <http://www.w3.org/2001/XMLSchema#> .
@prefix aff4:  <http://aff4.org/Schema#> .

:       a aff4:ZipVolume ; aff4:creationTime "2026-11-20T10:00:00.5Z"^^xsd:dateTime .
${described}${mapped}${stubs.join('')}
<${image}>
        a aff4:ContiguousImage , aff4:DiskImage , aff4:Image ;
        aff4:blockSize "512"^^xsd:int ;
        aff4:dataStream <${map?.name ?? streams[0]!.name}> ;${linear === undefined ? '' : `\n        aff4:hash "${linear.sha1}"^^aff4:SHA1 ;`}
        aff4:diskSerial "S\\"1\\u0032" ;
        aff4:size "${size}"^^xsd:long ;
        aff4:stored : .
${more}`;
  members['information.turtle'] = Buffer.from(turtle);
  spec.changed?.(members);
  return zipFile(members, `${name}\0`);
}
