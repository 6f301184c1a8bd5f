import { createHash } from 'node:crypto';
import type { Bytes, DiskFormat, Extents, PlacedPiece, VirtualFile } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { constant, diskPiece, table, virtualFile, zeroPiece } from '../../src/base/pieces.ts';
import { roundUp } from '../../src/base/range.ts';
import {
  buildFooter,
  buildHeader,
  DISK_TYPE,
  FOOTER_SIZE,
  FORMAT_VERSION,
  geometryFor,
  HEADER_SIZE,
  NOWHERE,
  SECTOR,
  UNUSED,
} from '../../src/base/vhd.ts';
import { bitmapLength } from './layer.ts';

/** 2040 GiB: sectors are numbered with 32 bits, and QEMU and Windows end there. */
export const MAX_SIZE = 0xff00_0000 * SECTOR;
export const BLOCK = 2_097_152;
const TABLE_AT = FOOTER_SIZE + HEADER_SIZE;
/** Guest data starts at multiples of this, so that its pages are pages of the file. */
const PAGE = 4096;
/** "win ": one of the creators whose current size QEMU believes. 10.0, as Windows writes it. */
const CREATOR = new TextEncoder().encode('win ');
const CREATOR_VERSION = 0x000a_0000;
const HOST_WINDOWS = 0x5769_326b;

/** Rounded up to whole sectors; 'too-big' beyond the format's limit. */
export function checkedSize(size: Bytes): Bytes {
  if (size > MAX_SIZE) {
    throw new ImageError('too-big', `a VHD holds at most 2040 GiB, the disk has ${size} bytes: use vhdx, qcow2 or raw`);
  }
  return roundUp(size, SECTOR);
}

/** A version 4 shaped UUID made from text: the same text gives the same one. */
export function uuidFor(text: string): Uint8Array {
  const raw = new Uint8Array(createHash('sha256').update(text).digest().subarray(0, 16));
  raw[6] = (raw[6]! % 16) + 0x40;
  raw[8] = (raw[8]! % 64) + 0x80;
  return raw;
}

export function footerFor(size: Bytes, type: 'fixed' | 'dynamic', uuid: Uint8Array): Uint8Array<ArrayBuffer> {
  return buildFooter({
    features: 2,
    fileFormatVersion: FORMAT_VERSION,
    dataOffset: type === 'fixed' ? NOWHERE : BigInt(FOOTER_SIZE),
    timeStamp: 0,
    creatorApplication: CREATOR,
    creatorVersion: CREATOR_VERSION,
    creatorHostOs: HOST_WINDOWS,
    originalSize: size,
    currentSize: size,
    diskGeometry: geometryFor(size / SECTOR),
    diskType: DISK_TYPE[type],
    uniqueId: uuid,
    savedState: 0,
  });
}

/** Where things lie in a dynamic disk whose blocks have places of their own, `stride` apart. */
export interface DynamicPlan {
  readonly blocks: number;
  /** Length of the table, padded to sectors. */
  readonly tableLength: Bytes;
  readonly bitmapLength: Bytes;
  /** Offset of the first block's bitmap. */
  readonly first: Bytes;
  readonly stride: Bytes;
}

export function planFor(size: Bytes): DynamicPlan {
  const blocks = Math.ceil(size / BLOCK);
  const tableLength = roundUp(blocks * 4, SECTOR);
  const bitmap = bitmapLength(BLOCK);
  return {
    blocks,
    tableLength,
    bitmapLength: bitmap,
    first: roundUp(TABLE_AT + tableLength + bitmap, PAGE) - bitmap,
    stride: roundUp(bitmap + BLOCK, PAGE),
  };
}

/** Footer copy, header and nothing else: what lies before the table. */
export const leadFor = (footer: Uint8Array, blocks: number): Uint8Array =>
  Buffer.concat([footer, buildHeader(TABLE_AT, blocks, BLOCK)]);

/** So far is looked ahead for more empty blocks: an answer about a whole disk may take long. */
const LOOK_AHEAD = 128 * BLOCK;

/**
 * How many blocks from `block` on are known to hold nothing but zeros; 0 when this one has data. When the disk's
 * metadata has to be loaded first: where.
 */
function emptyBlocks(disk: Extents, block: number): { readonly empty: number } | { readonly blockedAt: Bytes } {
  const end = Math.min((block + 1) * BLOCK, disk.size);
  for (let at = block * BLOCK; at < end; ) {
    const extent = disk.extent(at, end - at);
    if (extent === null) return { blockedAt: at };
    if (extent.kind === 'data') return { empty: 0 };
    at += extent.length;
  }
  if (end === disk.size) return { empty: 1 };
  const ahead = disk.extent(end, Math.min(LOOK_AHEAD, disk.size - end));
  if (ahead?.kind !== 'zero') return { empty: 1 };
  const more = end + ahead.length === disk.size ? Math.ceil(ahead.length / BLOCK) : Math.floor(ahead.length / BLOCK);
  return { empty: 1 + more };
}

/** As `emptyBlocks`, loading what is missing. */
async function emptyBlocksLoaded(disk: Extents, block: number): Promise<number> {
  for (;;) {
    const known = emptyBlocks(disk, block);
    if ('empty' in known) return known.empty;
    await disk.load(known.blockedAt, Math.min(disk.size, (block + 1) * BLOCK) - known.blockedAt);
  }
}

/** Entries [first, last) of the table: a stretch of empty blocks is asked for once. */
function fillTable(
  disk: Extents,
  plan: DynamicPlan,
  view: DataView,
  first: number,
  last: number,
): void | Promise<void> {
  const later = async (from: number): Promise<void> => {
    for (let block = from; block < last; ) {
      const empty = block < plan.blocks ? await emptyBlocksLoaded(disk, block) : last - block;
      block = put(block, empty);
    }
  };
  const put = (block: number, empty: number): number => {
    if (empty === 0) {
      view.setUint32((block - first) * 4, (plan.first + block * plan.stride) / SECTOR);
      return block + 1;
    }
    const end = Math.min(last, block + empty);
    for (let i = block; i < end; i++) view.setUint32((i - first) * 4, UNUSED);
    return end;
  };
  for (let block = first; block < last; ) {
    const known = block < plan.blocks ? emptyBlocks(disk, block) : { empty: last - block };
    if (!('empty' in known)) return later(block);
    block = put(block, known.empty);
  }
}

function dynamicFile(disk: Extents, size: Bytes, uuid: Uint8Array): VirtualFile {
  const plan = planFor(size);
  const { blocks, tableLength, first, stride } = plan;
  const footer = footerFor(size, 'dynamic', uuid);
  const lead = virtualFile('', [
    constant(leadFor(footer, blocks)),
    table(4, tableLength, (view, from, to) => fillTable(disk, plan, view, from, to)),
    zeroPiece(first - TABLE_AT - tableLength),
  ]);
  const end = first + blocks * stride;
  const dataLength = plan.bitmapLength + BLOCK;
  // Not a hole: it is smaller than a page, and would only cut a long stretch of data into pieces.
  const padding = constant(new Uint8Array(0), stride - dataLength);

  /** Every sector of a block with data counts as written. Asked again here: the piece is the same whether or not the disk's metadata is in memory. */
  const bitmap = (block: number): PlacedPiece => ({
    kind: 'made',
    length: plan.bitmapLength,
    from: first + block * stride,
    fill(into) {
      const known = emptyBlocks(disk, block);
      if ('empty' in known) into.fill(known.empty > 0 ? 0 : 0xff);
      else
        return emptyBlocksLoaded(disk, block).then(empty => {
          into.fill(empty > 0 ? 0 : 0xff);
        });
    },
  });
  return {
    suffix: '.vhd',
    size: end + FOOTER_SIZE,
    pieceAt(at) {
      if (at < first) return lead.pieceAt(at);
      if (at >= end) return { ...constant(footer), from: end };
      const block = Math.floor((at - first) / stride);
      const from = first + block * stride;
      const known = emptyBlocks(disk, block);
      if ('empty' in known && known.empty > 0) return { ...zeroPiece(known.empty * stride), from };
      if (at < from + plan.bitmapLength) return bitmap(block);
      if (at < from + dataLength) return { ...diskPiece(BLOCK, block * BLOCK), from: from + plan.bitmapLength };
      return { ...padding, from: from + dataLength };
    },
  };
}

/** Read-only views are dynamic, with blocks of zeros left out of the table; writable ones are fixed, where only guest data changes. */
export const vhdFormat: DiskFormat = {
  name: 'vhd',
  title: 'Virtual Hard Disk (Hyper-V, Azure, Virtual PC)',
  layout(disk, { writable, name }) {
    const size = checkedSize(disk.size);
    const uuid = uuidFor(`vhd view\n${disk.id}\n${name}`);
    if (!writable) return [dynamicFile(disk, size, uuid)];
    return [virtualFile('.vhd', [diskPiece(size), constant(footerFor(size, 'fixed', uuid))])];
  },
};
