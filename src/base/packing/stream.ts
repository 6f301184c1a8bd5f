import type { ByteSource, Bytes } from '../contracts.ts';
import { ImageError } from '../errors.ts';

const PART: Bytes = 2 ** 20;
/** What a decoder gives at once: each time costs turns of the event loop. */
export const COMES_OUT: Bytes = 2 ** 18;

/** The whole file, front to back. */
export async function* partsOf(source: ByteSource): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < source.size; at += PART) {
    const part = new Uint8Array(Math.min(PART, source.size - at));
    await source.read(part, at);
    yield part;
  }
}

/** What comes out of a decoder that is being fed. An error of the decoder is 'corrupt'; it is destroyed at the end. */
export async function* decoded(
  source: ByteSource,
  decoder: AsyncIterable<unknown> & { destroy(): void },
): AsyncGenerator<Uint8Array> {
  try {
    for await (const part of decoder) yield part as Uint8Array;
  } catch (cause) {
    if (cause instanceof ImageError) throw cause;
    const message = `the file cannot be decompressed: ${cause instanceof Error ? cause.message : 'damaged'}`;
    throw new ImageError('corrupt', message, { file: source.name }, { cause });
  } finally {
    decoder.destroy();
  }
}
