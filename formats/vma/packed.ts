/** Compressed archives, `.vma.zst`, `.vma.gz`, `.vma.lzo`: read from the front only, or unpacked into a scratch store. */
import { createHash, randomUUID } from 'node:crypto';
import { pipeline, Readable } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import type { ByteSource, Bytes, WritableStore } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { type ArchiveHeader, headerLength } from './header.ts';
import { LZOP_MAGIC, lzopContent } from './lzo.ts';
import { CLUSTER, EXTENT_HEADER, HEADER } from './structs.ts';

const PART: Bytes = 2 ** 20;
const WITNESS: Bytes = 65_536;

export interface Packing {
  readonly extension: string;
  readonly magic: readonly number[];
  /** What a person can unpack it with. */
  readonly command: string;
  content(source: ByteSource): AsyncGenerator<Uint8Array>;
}

async function* partsOf(source: ByteSource): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < source.size; at += PART) {
    const part = new Uint8Array(Math.min(PART, source.size - at));
    await source.read(part, at);
    yield part;
  }
}

async function* streamed(
  source: ByteSource,
  decoder: NodeJS.ReadWriteStream & { destroy(): void },
): AsyncGenerator<Uint8Array> {
  // Its errors, and those of the file, come out of the decoder.
  pipeline(Readable.from(partsOf(source)), decoder, () => {});
  try {
    for await (const part of decoder) yield part as unknown as Uint8Array;
  } catch (cause) {
    if (cause instanceof ImageError) throw cause;
    const message = `the file cannot be decompressed: ${cause instanceof Error ? cause.message : 'damaged'}`;
    throw new ImageError('corrupt', message, { file: source.name }, { cause });
  } finally {
    decoder.destroy();
  }
}

const PACKINGS: readonly Packing[] = [
  {
    extension: '.vma.zst',
    magic: [0x28, 0xb5, 0x2f, 0xfd],
    command: 'zstd -d',
    content: source => streamed(source, createZstdDecompress()),
  },
  {
    extension: '.vma.gz',
    magic: [0x1f, 0x8b],
    command: 'gunzip -k',
    content: source => streamed(source, createGunzip()),
  },
  { extension: '.vma.lzo', magic: LZOP_MAGIC, command: 'lzop -d', content: lzopContent },
];

/** How the file is compressed, by its name and magic; null when it is not. */
export function packingOf(head: Uint8Array, name: string): Packing | null {
  const lower = name.toLowerCase();
  const found = PACKINGS.find(({ extension, magic }) => {
    return lower.endsWith(extension) && magic.every((byte, i) => head[i] === byte);
  });
  return found ?? null;
}

/** The archive's header, from the front of the compressed file. */
export async function packedHeader(source: ByteSource, packing: Packing): Promise<Uint8Array> {
  let got = new Uint8Array(0);
  let wanted: Bytes = HEADER;
  for await (const part of packing.content(source)) {
    const longer = new Uint8Array(got.length + part.length);
    longer.set(got);
    longer.set(part, got.length);
    got = longer;
    if (got.length >= HEADER) wanted = headerLength(got, source.name);
    if (got.length >= wanted) return got.subarray(0, wanted);
  }
  throw new ImageError('corrupt', 'the archive ends inside its header', { file: source.name, at: source.size });
}

/** A name that changes with the compressed file, from its size, its start and its end. */
async function scratchName(source: ByteSource): Promise<string> {
  const hash = createHash('sha256').update(`vma ${source.size}`);
  const part = new Uint8Array(Math.min(WITNESS, source.size));
  for (const at of [0, source.size - part.length]) {
    await source.read(part, at);
    hash.update(part);
  }
  return `${hash.digest('hex').slice(0, 40)}.vma`;
}

/** More than this an archive with these devices cannot hold, even with an extent for each cluster. */
const longest = (header: ArchiveHeader): Bytes =>
  header.devices.reduce(
    (sum, { size }) => sum + Math.ceil(size / CLUSTER) * (CLUSTER + EXTENT_HEADER),
    header.size + EXTENT_HEADER,
  );

async function unpackInto(
  source: ByteSource,
  packing: Packing,
  header: ArchiveHeader,
  scratch: WritableStore,
  name: string,
): Promise<void> {
  const most = longest(header);
  const partial = `${name}.${randomUUID()}.part`;
  const file = await scratch.create(partial);
  try {
    let at = 0;
    for await (const part of packing.content(source)) {
      if (at + part.length > most) {
        throw new ImageError('corrupt', 'more comes out than an archive of these disks can hold', {
          file: source.name,
        });
      }
      await file.write(part, at);
      at += part.length;
    }
    await file.sync();
  } catch (error) {
    await file[Symbol.asyncDispose]();
    await scratch.remove(partial);
    throw error;
  }
  await file[Symbol.asyncDispose]();
  await scratch.rename(partial, name);
}

/** The unpacked archive in the scratch store; unpacked there the first time. */
export async function unpacked(
  source: ByteSource,
  packing: Packing,
  header: ArchiveHeader,
  scratch: WritableStore,
): Promise<ByteSource> {
  const name = await scratchName(source);
  try {
    return await scratch.open(name);
  } catch (error) {
    if (!(error instanceof ImageError) || error.fault !== 'not-found') throw error;
  }
  await unpackInto(source, packing, header, scratch, name);
  return scratch.open(name);
}
