/** Reading a virtual file: its pieces one after another, over the disk that they show. */
import type {
  Bytes,
  Disk,
  Done,
  Extent,
  Extents,
  OpenFile,
  Place,
  PlacedPiece,
  VirtualFile,
} from '../base/contracts.ts';

/** What is done to one stretch of a file that lies within one piece. `offset`: from the start of the whole range. */
export type PieceStep = (piece: PlacedPiece, within: Bytes, offset: Bytes, length: Bytes) => Done;

/** Runs `step` over the pieces of a range in order, each one after the other is done; at once while they answer at once. */
export function eachPiece(file: VirtualFile, at: Bytes, length: Bytes, step: PieceStep): Done {
  let done = 0;
  const next = (): Done => {
    const piece = file.pieceAt(at + done);
    const within = at + done - piece.from;
    const offset = done;
    const part = Math.min(piece.length - within, length - done);
    done += part;
    return step(piece, within, offset, part);
  };
  const rest = async (first: Promise<void>): Promise<void> => {
    await first;
    while (done < length) {
      const pending = next();
      if (pending !== undefined) await pending;
    }
  };
  while (done < length) {
    const pending = next();
    if (pending !== undefined) return rest(pending);
  }
}

/** Bytes of a 'disk' piece's stretch that the disk has; what follows reads as zeros. */
export const insideDisk = (disk: { readonly size: Bytes }, guestAt: Bytes, length: Bytes): Bytes =>
  Math.max(0, Math.min(length, disk.size - guestAt));

/** Fills `into` with a stretch of one piece. */
export function readPiece(piece: PlacedPiece, disk: Disk, into: Uint8Array, within: Bytes): Done {
  switch (piece.kind) {
    case 'zero':
      into.fill(0);
      return;
    case 'made':
      return piece.fill(into, within);
    case 'disk': {
      const guestAt = piece.at + within;
      const there = insideDisk(disk, guestAt, into.length);
      if (there === into.length) return disk.read(into, guestAt);
      into.fill(0, there);
      if (there > 0) return disk.read(into.subarray(0, there), guestAt);
    }
  }
}

/** Fills `into` with the file's bytes from `at`; the range lies inside the file. On an error `into` is not to be used. */
export function readView(file: VirtualFile, disk: Disk, into: Uint8Array, at: Bytes): Done {
  return eachPiece(file, at, into.length, (piece, within, offset, length) =>
    readPiece(piece, disk, length === into.length ? into : into.subarray(offset, offset + length), within),
  );
}

/** What lies at an offset of a view, or what has to be loaded before that can be said. */
export type ViewExtent = Extent | { readonly kind: 'unknown'; readonly load: () => Promise<void> };

/** So far an answer reaches at once: over a large disk it would hold up all other work. */
const REACH = 268_435_456;

function ask(extents: Extents, from: Bytes, length: Bytes): ViewExtent {
  const limit = Math.min(length, REACH);
  return extents.extent(from, limit) ?? { kind: 'unknown', load: () => extents.load(from, limit) };
}

/** Data or hole at `at`, and for how long, or for how long at least. `others`: who knows about the file's bytes outside the disk, in file offsets. */
export function viewExtent(file: VirtualFile, disk: Extents, at: Bytes, others: Extents | null = null): ViewExtent {
  const piece = file.pieceAt(at);
  const within = at - piece.from;
  const left = piece.length - within;
  if (piece.kind === 'disk') {
    const there = insideDisk(disk, piece.at + within, left);
    if (there > 0) return ask(disk, piece.at + within, there);
  }
  if (others !== null) return ask(others, at, left);
  return { kind: piece.kind === 'made' ? 'data' : 'zero', length: left };
}

/** So many answers are put together before other work gets its turn. */
const STEPS_AT_ONCE = 4096;

const otherWork = (): Promise<void> => new Promise(resolve => setImmediate(resolve));

/**
 * First data, or first hole, at or after `at`; null when there is none until the end. The end of the file counts as a
 * hole. Answers at once while the disk's metadata is in memory and the answer is near.
 */
export function seekView(
  file: VirtualFile,
  disk: Extents,
  at: Bytes,
  want: 'data' | 'hole',
  others: Extents | null = null,
  size: Bytes = file.size,
): Bytes | null | Promise<Bytes | null> {
  const wanted = want === 'data' ? 'data' : 'zero';
  const search = (from: Bytes): Bytes | null | Promise<Bytes | null> => {
    for (let pos = from, steps = 0; pos < size; steps++) {
      if (steps === STEPS_AT_ONCE) return otherWork().then(() => search(pos));
      const extent = pos < file.size ? viewExtent(file, disk, pos, others) : beyond(others, pos, size);
      if (extent.kind === 'unknown') return extent.load().then(() => search(pos));
      if (extent.kind === wanted) return pos;
      pos += extent.length;
    }
    return want === 'hole' && at < size ? size : null;
  };
  return at < size ? search(at) : null;
}

/** What lies in the part that a file has grown by. */
const beyond = (others: Extents | null, at: Bytes, size: Bytes): ViewExtent =>
  others === null ? { kind: 'zero', length: size - at } : ask(others, at, size - at);

/**
 * Bytes of the file that are not holes. At most `budget` answers are put together; from there on the rest is taken to
 * be as full as what was seen.
 */
export function allocatedOf(
  file: VirtualFile,
  disk: Extents,
  budget = 100_000,
  others: Extents | null = null,
): Bytes | Promise<Bytes> {
  let pos = 0;
  let data = 0;
  let steps = 0;
  const count = (): Bytes | Promise<Bytes> => {
    for (; pos < file.size && steps < budget; steps++) {
      const extent = viewExtent(file, disk, pos, others);
      if (extent.kind === 'unknown') {
        // A load is worth many answers that are there already.
        steps += 64;
        return extent.load().then(count);
      }
      if (extent.kind === 'data') data += extent.length;
      pos += extent.length;
      if (steps % STEPS_AT_ONCE === STEPS_AT_ONCE - 1) {
        steps++;
        return otherWork().then(count);
      }
    }
    return pos === 0 ? file.size : data + Math.round((file.size - pos) * (data / pos));
  };
  return count();
}

/** Where all of a range lies as it is; null: not in one place, or not known without waiting. */
function plainIn(file: VirtualFile, disk: Disk, at: Bytes, length: Bytes): Place | null {
  const piece = file.pieceAt(at);
  const within = at - piece.from;
  if (piece.kind !== 'disk' || piece.length - within < length) return null;
  const guestAt = piece.at + within;
  return insideDisk(disk, guestAt, length) === length ? (disk.plain?.(guestAt, length) ?? null) : null;
}

/** A read-only open file over a view. The disk stays its owner's. */
export function viewFile(file: VirtualFile, disk: Disk): OpenFile {
  return {
    size: () => file.size,
    read: (into, at) => readView(file, disk, into, at),
    plain: (at, length) => plainIn(file, disk, at, length),
    seek: (at, want) => seekView(file, disk, at, want),
    async [Symbol.asyncDispose]() {},
  };
}
