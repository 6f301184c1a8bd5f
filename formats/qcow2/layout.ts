/** A disk as a QCOW2 version 3 file that exists only as arithmetic: guest byte x lies at `dataAt + x`. */
import type { Bytes, DiskFormat, Extents, LayoutSpec, Piece, VirtualFile } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { constant, diskPiece, table, virtualFile } from '../../src/base/pieces.ts';
import { roundUp } from '../../src/base/range.ts';
import { entriesPerTable, HeaderV3, tablesFor } from './header.ts';

/** Refcounts of 16 bits, the only width that version 2 readers know. */
const REFCOUNT_ORDER = 4;
const COPIED = 0x8000_0000;

/** The whole metadata of an ordinary image: version 3, no features. The header ends with an empty extension. */
export function plainHeader(fields: {
  readonly clusterBits: number;
  readonly size: Bytes;
  readonly l1Entries: number;
  readonly l1At: Bytes;
  readonly refcountsAt: Bytes;
  readonly refcountClusters: number;
  readonly incompatible?: bigint;
  readonly compressionType?: number;
}): Uint8Array {
  const header = HeaderV3.build({
    magic: 'QFI\xfb',
    version: 3,
    backingAt: 0,
    backingLength: 0,
    encryption: 0,
    snapshots: 0,
    snapshotsAt: 0,
    incompatible: 0n,
    compatible: 0n,
    autoclear: 0n,
    refcountOrder: REFCOUNT_ORDER,
    headerLength: HeaderV3.size,
    compressionType: 0,
    ...fields,
  });
  const padded = new Uint8Array(HeaderV3.size + 8);
  padded.set(header);
  return padded;
}

/** 64 KiB, QEMU's default, while the L2 tables stay below 512 MiB; larger clusters above. */
export const clusterBitsFor = (size: Bytes): number => (size <= 4 * 2 ** 40 ? 16 : size <= 64 * 2 ** 40 ? 20 : 21);

/** Offset of a cluster as the two halves of an L1 or L2 entry, with the bit that says its refcount is 1. */
export function putEntry(view: DataView, at: number, offset: Bytes, flags: number = COPIED): void {
  view.setUint32(at, (Math.floor(offset / 0x1_0000_0000) | flags) >>> 0);
  view.setUint32(at + 4, offset % 0x1_0000_0000);
}

interface Geometry {
  readonly clusterBits: number;
  readonly clusterSize: Bytes;
  /** Clusters of the disk, and of the whole file. */
  readonly blocks: number;
  readonly total: number;
  readonly l1Entries: number;
  readonly refcountBlocks: number;
  readonly refcountClusters: number;
  readonly l1At: Bytes;
  readonly l2At: Bytes;
  readonly refcountsAt: Bytes;
  readonly refcountBlocksAt: Bytes;
  readonly dataAt: Bytes;
}

/** header | L1 | L2 tables | refcount table | refcount blocks | data */
function geometry(size: Bytes): Geometry {
  const clusterBits = clusterBitsFor(size);
  const clusterSize = 2 ** clusterBits;
  const blocks = Math.ceil(size / clusterSize);
  const l1Entries = tablesFor({ clusterSize, extendedL2: false }, size);
  const l1Clusters = Math.ceil((l1Entries * 8) / clusterSize);
  const perBlock = clusterSize / 2;
  let refcountBlocks = 1;
  for (;;) {
    const refcountClusters = Math.ceil((refcountBlocks * 8) / clusterSize);
    const total = 1 + l1Clusters + l1Entries + refcountClusters + refcountBlocks + blocks;
    const needed = Math.ceil(total / perBlock);
    if (needed <= refcountBlocks) {
      const l1At = clusterSize;
      const l2At = l1At + l1Clusters * clusterSize;
      const refcountsAt = l2At + l1Entries * clusterSize;
      const refcountBlocksAt = refcountsAt + refcountClusters * clusterSize;
      const dataAt = refcountBlocksAt + refcountBlocks * clusterSize;
      return {
        ...{ clusterBits, clusterSize, blocks, total, l1Entries, refcountBlocks, refcountClusters },
        ...{ l1At, l2At, refcountsAt, refcountBlocksAt, dataAt },
      };
    }
    refcountBlocks = needed;
  }
}

type ForBlocks = (first: number, last: number, put: (from: number, to: number) => void) => void | Promise<void>;

/** Calls `put` for every run of clusters in [first, last) that hold data; a promise when metadata must be loaded first. */
function dataRuns(disk: Extents, clusterSize: Bytes): ForBlocks {
  return (first, last, put) => {
    const end = Math.min(last * clusterSize, disk.size);
    const walk = (at: Bytes): Promise<void> | undefined => {
      while (at < end) {
        const extent = disk.extent(at, end - at);
        if (extent === null) {
          const from = at;
          return disk.load(from, end - from).then(() => walk(from));
        }
        const reach = at + extent.length;
        if (extent.kind === 'zero') at = reach;
        else {
          // The rest of a cluster that holds any data needs no answer of its own.
          at = roundUp(reach, clusterSize);
          put(Math.floor((reach - extent.length) / clusterSize), Math.min(last, at / clusterSize));
        }
      }
      return undefined;
    };
    return walk(first * clusterSize);
  };
}

const everyBlock: ForBlocks = (first, last, put) => {
  if (first < last) put(first, last);
};

function pieces(disk: Extents, g: Geometry, size: Bytes, writable: boolean): Piece[] {
  const { clusterSize } = g;
  const runs = writable ? everyBlock : dataRuns(disk, clusterSize);
  const dataCluster = g.dataAt / clusterSize;
  const perTable = entriesPerTable({ clusterSize, extendedL2: false });
  const tables = table(8, perTable * 8 * g.l1Entries, (view, first, last) =>
    runs(Math.min(first, g.blocks), Math.min(last, g.blocks), (from, to) => {
      for (let i = from; i < to; i++) putEntry(view, (i - first) * 8, g.dataAt + i * clusterSize);
    }),
  );
  const counts = table(2, g.refcountBlocks * clusterSize, (view, first, last) => {
    for (let i = first; i < Math.min(last, dataCluster); i++) view.setUint16((i - first) * 2, 1);
    const block = (i: number): number => Math.min(Math.max(0, i - dataCluster), g.blocks);
    return runs(block(first), block(last), (from, to) => {
      for (let i = from; i < to; i++) view.setUint16((i + dataCluster - first) * 2, 1);
    });
  });
  return [
    constant(plainHeader({ ...g, size }), clusterSize),
    table(8, g.l2At - g.l1At, (view, first, last) => {
      for (let i = first; i < Math.min(last, g.l1Entries); i++)
        putEntry(view, (i - first) * 8, g.l2At + i * clusterSize);
    }),
    tables,
    table(8, g.refcountBlocksAt - g.refcountsAt, (view, first, last) => {
      for (let i = first; i < Math.min(last, g.refcountBlocks); i++)
        putEntry(view, (i - first) * 8, g.refcountBlocksAt + i * clusterSize, 0);
    }),
    counts,
    diskPiece(g.blocks * clusterSize),
  ];
}

/**
 * Read-only: clusters without data have L2 entry 0 and refcount 0, and stay holes of the file. Writable: every cluster is
 * allocated from the start, so that a guest's writes never change metadata, and none carries the ZERO flag, which QEMU
 * before the fix of April 2026 corrupts under parallel writes.
 */
export const qcow2Format: DiskFormat = {
  name: 'qcow2',
  title: 'QEMU copy-on-write 2',
  layout(disk: Extents & { readonly id: string }, spec: LayoutSpec): readonly VirtualFile[] {
    const size = roundUp(disk.size, 512);
    const g = geometry(size);
    if (!Number.isSafeInteger(g.total * g.clusterSize)) {
      throw new ImageError(
        'too-big',
        `a disk of ${disk.size} bytes is too large for QCOW2 here`,
        {},
        { hint: 'use raw' },
      );
    }
    return [virtualFile('.qcow2', pieces(disk, g, size, spec.writable))];
  },
};
