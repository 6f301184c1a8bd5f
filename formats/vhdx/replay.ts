/** A file as it would be after its log was replayed, without changing it. */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { inParts } from '../../src/base/done.ts';
import { ImageError } from '../../src/base/errors.ts';
import { lastAtOrBefore } from '../../src/base/range.ts';
import type { Change, Entry } from './log.ts';

const NOBODY = -1;

/** Who the bytes between neighbouring bounds belong to: the last change that touches them. */
interface Owners {
  readonly bounds: Float64Array;
  readonly owner: Int32Array;
}

/** Painted from the last change back to the first; what is painted already is jumped over. */
function ownersOf(changes: readonly Change[]): Owners {
  const edges = new Float64Array(changes.length * 2);
  for (const [n, { at, length }] of changes.entries()) {
    edges[n * 2] = at;
    edges[n * 2 + 1] = at + length;
  }
  edges.sort();
  const bounds = edges.filter((edge, i) => i === 0 || edge !== edges[i - 1]);
  const owner = new Int32Array(bounds.length).fill(NOBODY);
  const free = Int32Array.from(bounds, (_, i) => i);
  const nextFree = (from: number): number => {
    let end = from;
    while (free[end] !== end) end = free[end]!;
    for (let i = from; i !== end; ) {
      const next = free[i]!;
      free[i] = end;
      i = next;
    }
    return end;
  };
  for (let n = changes.length - 1; n >= 0; n--) {
    const { at, length } = changes[n]!;
    const last = lastAtOrBefore(bounds, at + length);
    for (let i = nextFree(lastAtOrBefore(bounds, at)); i < last; i = nextFree(i)) {
      owner[i] = n;
      free[i] = i + 1;
    }
  }
  return { bounds, owner };
}

/**
 * The source with the changes of the log over it. It is as long as the log says that the file becomes; what the file
 * itself does not have of that reads as zeros, as it would after the replay. Closing it closes the source.
 */
export function replayed(source: ByteSource, entries: readonly Entry[]): ByteSource {
  if (entries.length === 0) return source;
  const changes = entries.flatMap(entry => entry.changes);
  const { bounds, owner } = ownersOf(changes);
  const reach = Math.max(entries.at(-1)!.last, bounds.at(-1) ?? 0);
  const size = Math.max(source.size, reach);

  const readFile = (part: Uint8Array, at: Bytes) => {
    const there = Math.max(0, Math.min(part.length, source.size - at));
    part.fill(0, there);
    if (there > 0) return source.read(part.subarray(0, there), at);
  };
  return {
    name: source.name,
    size,
    read(into, at) {
      if (at + into.length > size) {
        const message = `the file ends early: ${Math.max(0, size - at)} of ${into.length} bytes`;
        throw new ImageError('corrupt', message, { file: source.name, at });
      }
      return inParts(into.length, (done, wait) => {
        const fileAt = at + done;
        const i = lastAtOrBefore(bounds, fileAt);
        const change = i < 0 ? undefined : changes[owner[i]!];
        const end = i + 1 < bounds.length ? bounds[i + 1]! : size;
        const part = into.subarray(done, done + Math.min(into.length - done, end - fileAt));
        if (change === undefined) wait(readFile(part, fileAt));
        else if (change.page === null) part.fill(0);
        else part.set(change.page.subarray(fileAt - change.at, fileAt - change.at + part.length));
        return done + part.length;
      });
    },
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  };
}
