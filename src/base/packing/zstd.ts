/** A zstd file, frame by frame (RFC 8878): the decoder of Node stops at the end of the first one, without an error. */
import { pipeline, Readable } from 'node:stream';
import { createZstdDecompress } from 'node:zlib';
import type { ByteSource, Bytes } from '../contracts.ts';
import { ImageError } from '../errors.ts';
import { viewOf } from '../struct.ts';
import { COMES_OUT, decoded } from './stream.ts';

export const ZSTD_MAGIC = [0x28, 0xb5, 0x2f, 0xfd] as const;
const MAGIC = 0xfd2f_b528;
const SKIPPABLE = 0x184d_2a5;
const WINDOW: Bytes = 2 ** 20;

const damaged = (message: string, { name }: ByteSource, at: Bytes): ImageError =>
  new ImageError('corrupt', `the file cannot be decompressed: ${message}`, { file: name, at });

/** Small reads out of a window that moves forward. */
function windowOf(source: ByteSource) {
  let window = new Uint8Array(0);
  let from = 0;
  return async (at: Bytes, length: Bytes): Promise<Uint8Array> => {
    if (at + length > source.size) throw damaged('it ends early', source, source.size);
    if (at < from || at + length > from + window.length) {
      window = new Uint8Array(Math.min(WINDOW, source.size - at));
      from = at;
      await source.read(window, at);
    }
    return window.subarray(at - from, at - from + length);
  };
}

type Read = ReturnType<typeof windowOf>;

/** Length of a frame's header, and whether a checksum ends the frame; section 3.1.1.1. */
function headerOf(descriptor: number): { readonly length: Bytes; readonly sum: boolean } {
  const single = (descriptor & 0x20) !== 0;
  const size = [single ? 1 : 0, 2, 4, 8][descriptor >> 6]!;
  const dictionary = [0, 1, 2, 4][descriptor & 3]!;
  return { length: 5 + (single ? 0 : 1) + dictionary + size, sum: (descriptor & 4) !== 0 };
}

/** The bytes of the frame at `start`, a window at a time, and where it ends; one that is cut off has no end. */
async function* frameAt(
  source: ByteSource,
  read: Read,
  start: Bytes,
  ended: (at: Bytes) => void,
): AsyncGenerator<Uint8Array> {
  const { length, sum } = headerOf((await read(start, 5))[4]!);
  let at = start + length;
  let given = start;
  const upTo = async (end: Bytes): Promise<Uint8Array> => {
    const part = new Uint8Array(end - given);
    await source.read(part, given);
    given = end;
    return part;
  };
  for (let last = false; !last; ) {
    // Block header, 3 bytes: last, type, size; a block of type 1 is one byte that is repeated.
    if (at + 3 > source.size) return yield await upTo(source.size);
    const [a, b, c] = (await read(at, 3)) as unknown as [number, number, number];
    last = (a & 1) === 1;
    const type = (a >> 1) & 3;
    if (type === 3) throw damaged('a block of an unknown type', source, at);
    at += 3 + (type === 1 ? 1 : (a >> 3) + b * 32 + c * 8192);
    if (at > source.size) return yield await upTo(source.size);
    if (at - given >= WINDOW) yield await upTo(at);
  }
  if (sum) at += 4;
  if (at > source.size) return yield await upTo(source.size);
  if (at > given) yield await upTo(at);
  ended(at);
}

/**
 * What the file holds, from the start or a frame on. 'corrupt' where it is damaged, cut off, or has something else than
 * frames behind a frame.
 */
export async function* zstdContent(
  source: ByteSource,
  from: Bytes = 0,
  restart: (packed: Bytes) => void = () => {},
): AsyncGenerator<Uint8Array> {
  const read = windowOf(source);
  for (let at = from, frames = 0; at < source.size || frames === 0; ) {
    const word = viewOf(await read(at, 4)).getUint32(0, true);
    if (Math.floor(word / 16) === SKIPPABLE) {
      at += 8 + viewOf(await read(at, 8)).getUint32(4, true);
      continue;
    }
    if (word !== MAGIC) throw damaged('what follows a frame is none', source, at);
    const start = at;
    restart(start);
    const decoder = createZstdDecompress({ chunkSize: COMES_OUT });
    const parts = frameAt(source, read, start, end => {
      at = end;
    });
    // Its errors, and those of the file, come out of the decoder.
    pipeline(Readable.from(parts), decoder, () => {});
    yield* decoded(source, decoder);
    if (at === start) throw damaged('a frame does not end', source, at);
    frames++;
  }
}
