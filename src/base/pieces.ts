/** Building a virtual file from pieces one after another; disk formats are made of these. */
import type { Bytes, Done, Piece, VirtualFile } from './contracts.ts';
import { inRow, lastAtOrBefore } from './range.ts';

export const diskPiece = (length: Bytes, at: Bytes = 0): Piece => ({ kind: 'disk', length, at });
export const zeroPiece = (length: Bytes): Piece => ({ kind: 'zero', length });

/** Fixed bytes, padded with zeros to `length`. */
export const constant = (bytes: Uint8Array, length: Bytes = bytes.length): Piece => ({
  kind: 'made',
  length,
  fill(into, at) {
    const part =
      at < bytes.length ? bytes.subarray(at, Math.min(bytes.length, at + into.length)) : bytes.subarray(0, 0);
    into.set(part);
    into.fill(0, part.length);
  },
});

/**
 * A table of `entrySize`-byte entries computed on demand (a BAT, an L2 table, a refcount block). `entries` writes the
 * entries [first, last) into `view`, the first one at 0; bytes it leaves alone are zero.
 */
export const table = (
  entrySize: number,
  length: Bytes,
  entries: (view: DataView, first: number, last: number) => Done,
): Piece => ({
  kind: 'made',
  length,
  fill(into, at) {
    const first = Math.floor(at / entrySize);
    const last = Math.ceil((at + into.length) / entrySize);
    const skip = at - first * entrySize;
    const whole = new Uint8Array((last - first) * entrySize);
    const done = entries(new DataView(whole.buffer), first, last);
    const copy = (): void => into.set(whole.subarray(skip, skip + into.length));
    if (done === undefined) copy();
    else return done.then(copy);
  },
});

/** Pieces in file order; empty ones are left out. */
export function virtualFile(suffix: string, pieces: readonly Piece[]): VirtualFile {
  const kept = pieces.filter(piece => piece.length > 0);
  const { starts, size } = inRow(kept.map(piece => piece.length));
  return {
    suffix,
    size,
    pieceAt(at) {
      const i = lastAtOrBefore(starts, at);
      return { ...kept[i]!, from: starts[i]! };
    },
  };
}
