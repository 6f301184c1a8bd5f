/** What a map leads to: streams of chunks, and streams without end that are known by their names (section 4.4). */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import type { ImageStream } from './stream.ts';
import { AFF4 } from './volume.ts';

export type Target =
  | { readonly kind: 'stream'; readonly stream: ImageStream; readonly firstUnit: number }
  | { readonly kind: 'zero' }
  /** `lost`: what could not be read when the image was made; reading it is an error. */
  | { readonly kind: 'pattern' | 'lost'; readonly name: string; readonly source: ByteSource };

/** The name of a stream without the schema before it: `Zero`, `UnknownData`. null where it is none of these. */
export const symbolOf = (name: string): string | null =>
  name.startsWith(AFF4) ? name.slice(AFF4.length) : /^aff4:[^/]/.test(name) ? name.slice('aff4:'.length) : null;

/** Repeated texts begin anew with every MiB. */
const TILE: Bytes = 2 ** 20;

function endless(name: string, fill: (into: Uint8Array, at: Bytes) => void): ByteSource {
  return {
    name,
    size: Number.MAX_SAFE_INTEGER,
    read: fill,
    async [Symbol.asyncDispose]() {},
  };
}

function repeated(name: string, text: string): ByteSource {
  const tile = Buffer.alloc(TILE, text);
  return endless(name, (into, at) => {
    for (let done = 0; done < into.length; ) {
      const from = (at + done) % TILE;
      const part = tile.subarray(from, from + into.length - done);
      into.set(part, done);
      done += part.length;
    }
  });
}

/** null: the name is of no such stream. `file`: of the image, for messages. */
export function symbolicTarget(name: string, file: string): Target | null {
  const symbol = symbolOf(name);
  if (symbol === 'Zero' || symbol === 'SymbolicStream00') return { kind: 'zero' };
  if (symbol === 'UnknownData') return { kind: 'pattern', name: symbol, source: repeated(file, 'UNKNOWN') };
  if (symbol === 'UnreadableData') {
    const lost = endless(file, (_into, at) => {
      throw new ImageError('io', `the disk could not be read at ${at} when the image was made`, { file });
    });
    return { kind: 'lost', name: symbol, source: lost };
  }
  const byte = /^SymbolicStream([0-9A-Fa-f]{2})$/.exec(symbol ?? '')?.[1];
  if (byte === undefined) return null;
  const value = Number.parseInt(byte, 16);
  return { kind: 'pattern', name: symbol!, source: endless(file, into => void into.fill(value)) };
}

/** What stands in the place of what could not be read, for digests of the whole disk: the standard says so. */
export const unreadable: ByteSource = repeated('UnreadableData', 'UNREADABLEDATA');
