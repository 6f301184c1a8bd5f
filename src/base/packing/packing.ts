/** Files that are compressed as a whole: read from the front only, or unpacked into scratch space. */
import { createHash } from 'node:crypto';
import { pipeline, Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import type { ByteSource, Bytes, Scratch, Unpacking } from '../contracts.ts';
import { ImageError } from '../errors.ts';
import { LZ4_MAGIC, lz4Content } from './lz4.ts';
import { LZOP_MAGIC, lzopContent } from './lzo.ts';
import { type Program, programContent } from './program.ts';
import { COMES_OUT, decoded, partsOf } from './stream.ts';
import { ZSTD_MAGIC, zstdContent } from './zstd.ts';

export interface Packing {
  /** As the usual program is called. */
  readonly name: string;
  /** First bytes of a file; null where it has none. */
  readonly magic: readonly number[] | null;
  /** What a person can unpack it with, from standard input to standard output. */
  readonly command: string;
  /**
   * What the file holds, part by part, from its start or from a place that `restart` was told. 'corrupt' where it is
   * damaged or cut off, 'unsupported' for what cannot be read.
   */
  content(source: ByteSource, from?: Bytes, restart?: (packed: Bytes) => void): AsyncIterable<Uint8Array>;
}

function gunzipped(source: ByteSource): AsyncIterable<Uint8Array> {
  const decoder = createGunzip({ chunkSize: COMES_OUT });
  // Its errors, and those of the file, come out of the decoder.
  pipeline(Readable.from(partsOf(source)), decoder, () => {});
  return decoded(source, decoder);
}

const byProgram = (program: Program, magic: readonly number[] | null): Packing => ({
  name: program.name,
  magic,
  command: `${program.name} -dc`,
  content: source => programContent(source, program),
});

/** So much memory is enough for every preset of xz, and no file can ask for more. */
const XZ_ARGS = ['--decompress', '--stdout', '--memlimit-decompress=256MiB'];

export const PACKINGS = {
  gz: { name: 'gzip', magic: [0x1f, 0x8b], command: 'gzip -dc', content: gunzipped },
  zst: { name: 'zstd', magic: ZSTD_MAGIC, command: 'zstd -dc', content: zstdContent },
  lzo: { name: 'lzop', magic: LZOP_MAGIC, command: 'lzop -dc', content: lzopContent },
  lz4: { name: 'lz4', magic: LZ4_MAGIC, command: 'lz4 -dc', content: lz4Content },
  bz2: byProgram({ name: 'bzip2', args: ['--decompress', '--stdout'], package: 'bzip2' }, [0x42, 0x5a, 0x68]),
  xz: byProgram({ name: 'xz', args: XZ_ARGS, package: 'xz-utils' }, [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]),
  lzma: byProgram({ name: 'xz', args: [...XZ_ARGS, '--format=lzma'], package: 'xz-utils' }, null),
  lzip: byProgram({ name: 'lzip', args: ['--decompress', '--stdout'], package: 'lzip' }, [0x4c, 0x5a, 0x49, 0x50]),
} as const satisfies Readonly<Record<string, Packing>>;

/** By the first bytes; null when they are of none. */
export function packingOf(head: Uint8Array, among: readonly Packing[] = Object.values(PACKINGS)): Packing | null {
  return among.find(({ magic }) => magic?.every((byte, i) => head[i] === byte) === true) ?? null;
}

/** The first bytes that come out: what `enough` asks for, more where parts are long, fewer where there are no more. */
export async function packedHead(
  source: ByteSource,
  packing: Packing,
  enough: (got: Uint8Array) => Bytes,
): Promise<Uint8Array> {
  let held = new Uint8Array(0);
  let length = 0;
  for await (const part of packing.content(source)) {
    if (length + part.length > held.length) {
      const longer = new Uint8Array(Math.max(2 * held.length, length + part.length));
      longer.set(held.subarray(0, length));
      held = longer;
    }
    held.set(part, length);
    length += part.length;
    const got = held.subarray(0, length);
    if (length >= enough(got)) return got;
  }
  return held.subarray(0, length);
}

/** Why `name` cannot be read where there is no scratch space, with the command that unpacks it to `plain`. */
export function mustUnpack(name: string, { command }: Packing, plain: string): ImageError {
  const message = 'a file that is compressed as a whole can be read only from its front: unpack it first';
  const hint = `${command} < ${JSON.stringify(name)} > ${JSON.stringify(plain)}`;
  return new ImageError('unsupported', message, { file: name }, { hint });
}

const WITNESS: Bytes = 65_536;

/** Changes with the file: what its store says about it, its size, its start and its end. */
async function versionOf(source: ByteSource, { name }: Packing): Promise<string> {
  const hash = createHash('sha256').update(`${name} ${source.size} ${source.version ?? ''}\n`);
  const part = new Uint8Array(Math.min(WITNESS, source.size));
  for (const at of [0, source.size - part.length]) {
    await source.read(part, at);
    hash.update(part);
  }
  return hash.digest('hex');
}

/** What is to be unpacked into scratch space. `most`: as in `Unpacking`. */
export async function unpacking(source: ByteSource, packing: Packing, most: Bytes | null): Promise<Unpacking> {
  return {
    name: source.name,
    version: await versionOf(source, packing),
    packed: source.size,
    most,
    content: ({ reached, restart }, from) => {
      let end = 0;
      const watched: ByteSource = {
        name: source.name,
        size: source.size,
        read(into, at) {
          end = Math.max(end, at + into.length);
          reached(end);
          return source.read(into, at);
        },
        [Symbol.asyncDispose]: async () => {},
      };
      return packing.content(watched, from, restart);
    },
  };
}

/** The unpacked file in the scratch space; unpacked there when no earlier run has. */
export const unpackedSource = async (
  source: ByteSource,
  packing: Packing,
  most: Bytes | null,
  scratch: Scratch,
): Promise<ByteSource> => scratch.unpacked(await unpacking(source, packing, most));
