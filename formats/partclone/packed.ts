/** Compressed files have no random access: they are read from the front only, or unpacked into a scratch store. */
import { createHash, randomUUID } from 'node:crypto';
import { pipeline, Readable } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import type { ByteSource, Bytes, WritableStore } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';

export interface Packing {
  /** What a person can unpack it with, to standard output. */
  readonly command: string;
  /** null: nothing here can unpack it. */
  readonly decoder: (() => NodeJS.ReadWriteStream & { destroy(): void }) | null;
}

/** By Clonezilla's endings. */
export const PACKINGS: Readonly<Record<string, Packing>> = {
  gz: { command: 'gzip -dc', decoder: createGunzip },
  zst: { command: 'zstd -dc', decoder: createZstdDecompress },
  bz2: { command: 'bzip2 -dc', decoder: null },
  lzo: { command: 'lzop -dc', decoder: null },
  lzma: { command: 'xz --format=lzma -dc', decoder: null },
  xz: { command: 'xz -dc', decoder: null },
  lzip: { command: 'lzip -dc', decoder: null },
  lrz: { command: 'lrzip -d -o -', decoder: null },
  lz4: { command: 'lz4 -dc', decoder: null },
};

const PART: Bytes = 2 ** 20;
const WITNESS: Bytes = 65_536;

async function* partsOf(source: ByteSource): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < source.size; at += PART) {
    const part = new Uint8Array(Math.min(PART, source.size - at));
    await source.read(part, at);
    yield part;
  }
}

async function* content(source: ByteSource, open: NonNullable<Packing['decoder']>): AsyncGenerator<Uint8Array> {
  const decoder = open();
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

/** The first `length` bytes that come out, fewer where there are no more; null when nothing here can unpack it. */
export async function packedHead(source: ByteSource, { decoder }: Packing, length: number): Promise<Uint8Array | null> {
  if (decoder === null) return null;
  const head = new Uint8Array(length);
  let got = 0;
  for await (const part of content(source, decoder)) {
    const taken = part.subarray(0, length - got);
    head.set(taken, got);
    got += taken.length;
    if (got === length) break;
  }
  return head.subarray(0, got);
}

/** A name that changes with the compressed file, from its size, its start and its end. */
async function scratchName(source: ByteSource): Promise<string> {
  const hash = createHash('sha256').update(`partclone ${source.size}`);
  const part = new Uint8Array(Math.min(WITNESS, source.size));
  for (const at of [0, source.size - part.length]) {
    await source.read(part, at);
    hash.update(part);
  }
  return `${hash.digest('hex').slice(0, 40)}.partclone`;
}

async function unpackInto(
  source: ByteSource,
  open: NonNullable<Packing['decoder']>,
  most: Bytes,
  scratch: WritableStore,
  name: string,
): Promise<void> {
  const partial = `${name}.${randomUUID()}.part`;
  const file = await scratch.create(partial);
  try {
    let at = 0;
    for await (const part of content(source, open)) {
      if (at + part.length > most) {
        throw new ImageError('corrupt', `more comes out than the ${most} bytes that it can hold`, {
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

/** The unpacked file in the scratch store, `most` bytes long at most; unpacked there the first time. */
export async function unpacked(
  source: ByteSource,
  { decoder }: Packing,
  most: Bytes,
  scratch: WritableStore,
): Promise<ByteSource> {
  if (decoder === null) throw new ImageError('unsupported', 'this compression is not known', { file: source.name });
  const name = await scratchName(source);
  try {
    return await scratch.open(name);
  } catch (error) {
    if (!(error instanceof ImageError) || error.fault !== 'not-found') throw error;
  }
  await unpackInto(source, decoder, most, scratch, name);
  return scratch.open(name);
}
