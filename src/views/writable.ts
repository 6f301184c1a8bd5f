/**
 * A view that a hypervisor writes to. Guest data goes to the disk; what it writes over computed bytes (headers, tables)
 * goes to a patch, and only where it differs, so that the disk below never holds anything but guest data.
 */
import type { Bytes, Disk, Done, OpenFile, VirtualFile, WritableDisk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { eachPiece, insideDisk, readPiece, readView, seekView } from './view.ts';

/** Lets a view become longer than its layout. The owner keeps the size with the patch. */
export interface Growth {
  /** Largest size; the patch reaches as far. */
  readonly limit: Bytes;
  size(): Bytes;
  /** Makes the file longer; durable with the next flush. */
  extend(size: Bytes): Done;
}

/** The unit in which written metadata is compared with what is there. */
const UNIT = 512;

/**
 * The computed bytes of a view as a disk in file offsets, for the patch to lie over; zeros where the view shows the disk
 * and, up to `size`, beyond the view's end.
 */
export function computedDisk(file: VirtualFile, disk: Disk, id: string, size: Bytes = file.size): Disk {
  const inside = (at: Bytes, length: Bytes): Bytes => Math.max(0, Math.min(length, file.size - at));
  return {
    id,
    size,
    sectorSize: UNIT,
    read(into, at) {
      const there = inside(at, into.length);
      into.fill(0, there);
      return eachPiece(file, at, there, (piece, within, offset, length) => {
        const part = into.subarray(offset, offset + length);
        if (piece.kind === 'disk') part.fill(0);
        else return readPiece(piece, disk, part, within);
      });
    },
    extent(at, limit) {
      if (at >= file.size) return { kind: 'zero', length: limit };
      const piece = file.pieceAt(at);
      return {
        kind: piece.kind === 'made' ? 'data' : 'zero',
        length: Math.min(limit, piece.from + piece.length - at),
      };
    },
    async load() {},
    async [Symbol.asyncDispose]() {},
  };
}

/** Length of the stretch from `from` on whose units are all equal (or all different) in `a` and `b`. */
function runOf(a: Uint8Array, b: Uint8Array, from: number): { readonly same: boolean; readonly end: number } {
  const sameAt = (at: number): boolean => {
    const end = Math.min(at + UNIT, a.length);
    return Buffer.compare(a.subarray(at, end), b.subarray(at, end)) === 0;
  };
  const same = sameAt(from);
  let end = Math.min(from + UNIT, a.length);
  while (end < a.length && sameAt(end) === same) end = Math.min(end + UNIT, a.length);
  return { same, end };
}

/** Puts bytes into the patch where they differ from what a read gives now. */
async function writePatch(patch: WritableDisk, from: Uint8Array, at: Bytes): Promise<void> {
  const now = new Uint8Array(from.length);
  await patch.read(now, at);
  for (let pos = 0; pos < from.length; ) {
    const { same, end } = runOf(from, now, pos);
    if (!same) await patch.write(from.subarray(pos, end), at + pos);
    pos = end;
  }
}

/** Zeros into the patch where it does not read as zeros already. */
async function zeroPatch(patch: WritableDisk, at: Bytes, length: Bytes): Promise<void> {
  for (let done = 0; done < length; ) {
    const extent = patch.extent(at + done, length - done);
    if (extent === null) {
      await patch.load(at + done, length - done);
      continue;
    }
    if (extent.kind === 'data') await patch.zero(at + done, extent.length);
    done += extent.length;
  }
}

interface Parts {
  readonly file: VirtualFile;
  readonly disk: WritableDisk;
  readonly patch: WritableDisk | null;
}

/** Writes over computed bytes. Without a patch only what changes nothing is taken. */
function writeMetadata({ file, disk, patch }: Parts, from: Uint8Array, at: Bytes): Done {
  if (patch !== null) return writePatch(patch, from, at);
  const now = new Uint8Array(from.length);
  return then(computedDisk(file, disk, '').read(now, at), () => {
    if (Buffer.compare(now, from) === 0) return;
    throw new ImageError('read-only', 'this view keeps no writes to its own headers and tables, only to the disk');
  });
}

const zeroMetadata = (parts: Parts, at: Bytes, length: Bytes): Done =>
  parts.patch === null ? writeMetadata(parts, new Uint8Array(length), at) : zeroPatch(parts.patch, at, length);

/** Runs one and then the other, at once when both are. */
const then = (first: Done, second: () => Done): Done => (first === undefined ? second() : first.then(second));

/** A stretch of one piece: bytes that the disk has, from `guestAt`, and after them bytes of the file. */
type Stretch = (guestAt: Bytes, guest: Bytes, offset: Bytes, length: Bytes) => Done;

/** Runs `step` over the pieces of a range; a part behind the layout's end is one stretch of the file. */
function eachStretch({ file, disk }: Parts, at: Bytes, length: Bytes, step: Stretch): Done {
  const laidOut = Math.max(0, Math.min(length, file.size - at));
  const inside = eachPiece(file, at, laidOut, (piece, within, offset, part) =>
    piece.kind === 'disk'
      ? step(piece.at + within, insideDisk(disk, piece.at + within, part), offset, part)
      : step(0, 0, offset, part),
  );
  return laidOut === length ? inside : then(inside, () => step(0, 0, laidOut, length - laidOut));
}

function readPatched(parts: Parts, into: Uint8Array, at: Bytes): Done {
  const { file, disk, patch } = parts;
  if (patch === null) return readView(file, disk, into, at);
  return eachStretch(parts, at, into.length, (guestAt, guest, offset, length) => {
    const part = length === into.length ? into : into.subarray(offset, offset + length);
    if (guest === length) return disk.read(part, guestAt);
    return then(guest > 0 ? disk.read(part.subarray(0, guest), guestAt) : undefined, () =>
      patch.read(part.subarray(guest), at + offset + guest),
    );
  });
}

const writeParts = (parts: Parts, from: Uint8Array, at: Bytes): Done =>
  eachStretch(parts, at, from.length, (guestAt, guest, offset, length) => {
    const part = from.subarray(offset, offset + length);
    const written = guest > 0 ? parts.disk.write(part.subarray(0, guest), guestAt) : undefined;
    if (guest === length) return written;
    return then(written, () => writeMetadata(parts, part.subarray(guest), at + offset + guest));
  });

const zeroParts = (parts: Parts, at: Bytes, length: Bytes): Done =>
  eachStretch(parts, at, length, (guestAt, guest, offset, part) => {
    const zeroed = guest > 0 ? parts.disk.zero(guestAt, guest) : undefined;
    if (guest === part) return zeroed;
    return then(zeroed, () => zeroMetadata(parts, at + offset + guest, part - guest));
  });

/**
 * A writable open file over an identity layout. `patch` lies over `computedDisk(file, …)`; null: metadata cannot be
 * changed. Writes past the end are refused with 'no-space' without `growth`, with 'too-big' past its limit.
 * Disk and patch stay their owner's.
 */
export function openWritableView(
  file: VirtualFile,
  disk: WritableDisk,
  patch: WritableDisk | null,
  growth: Growth | null = null,
): OpenFile {
  if (patch !== null && patch.size < Math.max(file.size, growth?.limit ?? 0)) {
    throw new ImageError('usage', `the patch holds ${patch.size} bytes, the view has ${file.size}`);
  }
  const parts: Parts = { file, disk, patch };
  const size = (): Bytes => Math.max(file.size, growth?.size() ?? 0);
  const grow = (to: Bytes): Done => {
    if (to <= size()) return;
    if (growth === null || patch === null) {
      throw new ImageError('no-space', `the view ends at ${size()} and cannot grow`);
    }
    if (to > growth.limit) throw new ImageError('too-big', `the view cannot grow beyond ${growth.limit} bytes`);
    return growth.extend(to);
  };
  return {
    size,
    read: (into, at) => readPatched(parts, into, at),
    write: (from, at) => then(grow(at + from.length), () => writeParts(parts, from, at)),
    zero: (at, length) => then(grow(at + length), () => zeroParts(parts, at, length)),
    resize(to) {
      if (to < size()) throw new ImageError('out-of-range', `the view has ${size()} bytes and cannot become smaller`);
      return grow(to);
    },
    async flush() {
      await disk.flush();
      await patch?.flush();
    },
    seek: (at, want) => seekView(file, disk, at, want, patch, size()),
    async [Symbol.asyncDispose]() {},
  };
}
