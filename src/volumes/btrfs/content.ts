/** Contents of btrfs files: extents that are plain, compressed, inline, or holes. */
import type { Bytes } from '../../base/contracts.ts';
import { lastAtOrBefore } from '../../base/range.ts';
import type { FileContent, FileRange } from '../contracts.ts';
import { u64 } from '../source.ts';
import { type Btrfs, ITEM, type TreeRoot } from './filesystem.ts';
import { unpack } from './unpack.ts';

const INLINE = 0;
const PREALLOCATED = 2;
/** Extents of one file; 1 TiB in the smallest compressed ones has eight times as many and is refused. */
const MOST_EXTENTS = 1_048_576;
/** No writer compresses more at once. */
const LARGEST_PACKED = 1_048_576;
const UNITS_KEPT = 4;

interface Extent {
  readonly kind: 'plain' | 'packed' | 'inline';
  readonly fileAt: Bytes;
  readonly length: Bytes;
  /** Offset in the volume of what is stored. */
  readonly at: Bytes;
  readonly stored: Bytes;
  readonly compression: number;
  /** Unpacked length, and where in it this part begins. */
  readonly size: Bytes;
  readonly within: Bytes;
  /** What lies in the tree itself. */
  readonly inline: Buffer | null;
}

/** null: a hole, or space that was never written. */
function extentOf({ source, place }: Btrfs, fileAt: Bytes, data: Buffer): Extent | null {
  source.check(data.length >= 21 && data[17] === 0, 'a file extent is damaged or encrypted');
  const type = data[20]!;
  const size = u64(data, 8);
  const compression = data[16]!;
  if (type === INLINE) {
    source.check(size <= LARGEST_PACKED, 'an inline extent is too large');
    const inline = Buffer.from(data.subarray(21));
    return { kind: 'inline', fileAt, length: size, at: 0, stored: inline.length, compression, size, within: 0, inline };
  }
  const [logical, stored, within, length] = [u64(data, 21), u64(data, 29), u64(data, 37), u64(data, 45)];
  if (type === PREALLOCATED || logical === 0) return null;
  const sound = length > 0 && stored > 0 && Number.isSafeInteger(fileAt + length) && within + length <= size;
  source.check(sound, 'a file extent has no sound size');
  const packed = compression !== 0;
  source.check(!packed || (size <= LARGEST_PACKED && stored <= LARGEST_PACKED), 'a compressed extent is too large');
  const at = packed ? place(logical, stored) : place(logical + within, length);
  return { kind: packed ? 'packed' : 'plain', fileAt, length, at, stored, compression, size, within, inline: null };
}

/** Extents of a file in order. */
async function extentsOf(btrfs: Btrfs, root: TreeRoot, inode: number): Promise<readonly Extent[]> {
  const extents: Extent[] = [];
  const keys = { object: inode, type: ITEM.extent };
  const last = { ...keys, offset: Number.MAX_SAFE_INTEGER };
  let end = 0;
  for await (const { key, data } of btrfs.items(root, { ...keys, offset: 0 }, last)) {
    const extent = extentOf(btrfs, key.offset, data);
    if (extent === null) continue;
    btrfs.source.check(extent.fileAt >= end, 'two extents of a file overlap');
    end = extent.fileAt + extent.length;
    if (extents.length === MOST_EXTENTS) throw btrfs.source.unsupported(`a file in more than ${MOST_EXTENTS} pieces`);
    extents.push(extent);
  }
  return extents;
}

export async function openContent(btrfs: Btrfs, root: TreeRoot, inode: number, size: Bytes): Promise<FileContent> {
  const { source, superblock } = btrfs;
  const extents = await extentsOf(btrfs, root, inode);
  const starts = Float64Array.from(extents, extent => extent.fileAt);
  const kept = new Map<Extent, Promise<Buffer>>();

  const unpacked = async (extent: Extent): Promise<Buffer> => {
    const packed = extent.inline ?? (await source.bytes(extent.at, extent.stored));
    if (extent.compression === 0) return packed;
    return unpack(source, extent.compression, packed, extent.size, superblock.sectorSize, extent.inline !== null);
  };
  const bytesOf = (extent: Extent): Promise<Buffer> => {
    const known = kept.get(extent);
    if (known !== undefined) return known;
    const made = unpacked(extent);
    made.catch(() => kept.delete(extent));
    kept.set(extent, made);
    if (kept.size > UNITS_KEPT) kept.delete(kept.keys().next().value!);
    return made;
  };
  const part = (at: Bytes, limit: Bytes): { readonly range: FileRange; readonly extent: Extent | null } => {
    const index = lastAtOrBefore(starts, at);
    const extent = index < 0 ? undefined : extents[index];
    if (extent === undefined || at >= extent.fileAt + extent.length) {
      const next = starts[index + 1] ?? Number.MAX_SAFE_INTEGER;
      return { range: { kind: 'zero', length: Math.min(limit, next - at) }, extent: null };
    }
    const within = at - extent.fileAt;
    const length = Math.min(limit, extent.length - within);
    if (extent.kind !== 'plain') return { range: { kind: 'packed', length }, extent };
    return { range: { kind: 'disk', length, at: source.start + extent.at + within }, extent };
  };
  return {
    size,
    range: (at, limit) => part(at, limit).range,
    async read(into, at) {
      for (let done = 0; done < into.length; ) {
        const { range, extent } = part(at + done, into.length - done);
        const target = into.subarray(done, done + range.length);
        if (range.kind === 'zero') target.fill(0);
        else if (range.kind === 'disk') await source.disk.read(target, range.at);
        else {
          const from = extent!.within + at + done - extent!.fileAt;
          const data = await bytesOf(extent!);
          source.check(from + target.length <= data.length, 'an extent is shorter than the file says');
          target.set(data.subarray(from, from + target.length));
        }
        done += range.length;
      }
    },
  };
}
