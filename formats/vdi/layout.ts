/** A disk as a VDI file that exists only as arithmetic: guest byte x lies at `dataAt + x`. */
import { createHash } from 'node:crypto';
import type { Bytes, DiskFormat, Done, Extents } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { constant, diskPiece, table, virtualFile, zeroPiece } from '../../src/base/pieces.ts';
import { roundUp } from '../../src/base/range.ts';
import { FREE, HEADER_LENGTH, HEADER_SIZE, Header, IMAGE_TYPE, SECTOR, VERSION } from './structs.ts';

/** The block length of VirtualBox, and the only one that QEMU takes. */
export const BLOCK = 1_048_576;
const MOST_BLOCKS = 0x1fff_ffff;
/** 512 TiB less one block: QEMU takes no longer map. */
export const MAX_SIZE = MOST_BLOCKS * BLOCK;
export const MAP_AT = HEADER_SIZE;
const TEXT = '<<< VirtualBox Disk Image >>>\n';

export interface Plan {
  readonly size: Bytes;
  readonly blocks: number;
  readonly dataAt: Bytes;
}

/** Rounded up to whole sectors; 'too-big' beyond the format's limit. */
export function planFor(diskSize: Bytes): Plan {
  const size = roundUp(diskSize, SECTOR);
  if (size > MAX_SIZE) {
    const message = `a VDI holds at most ${MOST_BLOCKS} MiB, the disk has ${diskSize} bytes: use raw or qcow2`;
    throw new ImageError('too-big', message);
  }
  const blocks = Math.ceil(size / BLOCK);
  return { size, blocks, dataAt: roundUp(MAP_AT + blocks * 4, BLOCK) };
}

/** A version 4 shaped UUID made from text: the same text gives the same one. */
function uuidFor(text: string): Uint8Array {
  const raw = new Uint8Array(createHash('sha256').update(text).digest().subarray(0, 16));
  // Version and variant, where the first three fields stand in little-endian order.
  raw[7] = (raw[7]! % 16) + 0x40;
  raw[8] = (raw[8]! % 64) + 0x80;
  return raw;
}

/** `name` tells apart the UUIDs of several files of one disk. `places`: how many the file has. */
export function headerFor(plan: Plan, type: 'dynamic' | 'static', name: string, places: number): Uint8Array {
  const text = new Uint8Array(64);
  text.set(new TextEncoder().encode(TEXT));
  return Header.build({
    text,
    signature: '\x7f\x10\xda\xbe',
    version: VERSION,
    headerLength: HEADER_LENGTH,
    imageType: IMAGE_TYPE[type],
    flags: 0,
    description: new Uint8Array(256),
    mapOffset: MAP_AT,
    dataOffset: plan.dataAt,
    sectorSize: SECTOR,
    diskSize: plan.size,
    blockSize: BLOCK,
    blockExtra: 0,
    blocks: plan.blocks,
    blocksAllocated: places,
    imageUuid: uuidFor(`vdi image\n${name}`),
    lastSnapUuid: uuidFor(`vdi state\n${name}`),
    // QEMU refuses an image with a link or a parent.
    linkUuid: new Uint8Array(16),
    parentUuid: new Uint8Array(16),
    geometrySector: SECTOR,
  });
}

/** So far is looked ahead for more empty blocks: an answer about a whole disk may take long. */
const LOOK_AHEAD = 256 * BLOCK;

/**
 * How many blocks from `block` on are known to hold nothing but zeros; 0 when this one has data, and null when the
 * disk's metadata has to be loaded first.
 */
function emptyBlocks(disk: Extents, block: number): number | null {
  const end = Math.min((block + 1) * BLOCK, disk.size);
  for (let at = block * BLOCK; at < end; ) {
    const extent = disk.extent(at, end - at);
    if (extent === null) return null;
    if (extent.kind === 'data') return 0;
    at += extent.length;
  }
  if (end === disk.size) return 1;
  const ahead = disk.extent(end, Math.min(LOOK_AHEAD, disk.size - end));
  if (ahead?.kind !== 'zero') return 1;
  const reach = end + ahead.length;
  return reach === disk.size ? Math.ceil(reach / BLOCK) - block : Math.floor(reach / BLOCK) - block;
}

/** Loads what the answer about a block is missing. */
async function emptyBlocksLoaded(disk: Extents, block: number): Promise<number> {
  const end = Math.min((block + 1) * BLOCK, disk.size);
  for (;;) {
    const known = emptyBlocks(disk, block);
    if (known !== null) return known;
    for (let at = block * BLOCK; at < end; ) {
      const extent = disk.extent(at, end - at);
      if (extent === null) await disk.load(at, end - at);
      else at += extent.length;
    }
  }
}

/** Entries [first, last) of the map: every block has a place of its own, and the empty ones do without. */
function fillMap(disk: Extents, view: DataView, first: number, last: number): Done {
  const put = (block: number, empty: number): number => {
    if (empty === 0) {
      view.setUint32((block - first) * 4, block, true);
      return block + 1;
    }
    const end = Math.min(last, block + empty);
    for (let i = block; i < end; i++) view.setUint32((i - first) * 4, FREE, true);
    return end;
  };
  const later = async (from: number): Promise<void> => {
    for (let block = from; block < last; ) block = put(block, await emptyBlocksLoaded(disk, block));
  };
  for (let block = first; block < last; ) {
    const known = emptyBlocks(disk, block);
    if (known === null) return later(block);
    block = put(block, known);
  }
}

/** Every block in its place, whatever it holds. */
function fillFullMap(view: DataView, first: number, last: number): void {
  for (let block = first; block < last; block++) view.setUint32((block - first) * 4, block, true);
}

/**
 * Read-only views are dynamic: empty blocks are left out of the map, and their places are holes. Writable ones are
 * static, with everything mapped, where guest writes change guest data only. Either way the header counts every place
 * as allocated, so that software that writes would append behind all of them.
 */
export const vdiFormat: DiskFormat = {
  name: 'vdi',
  title: 'Virtual Disk Image (VirtualBox)',
  layout(disk, { writable, name }) {
    const plan = planFor(disk.size);
    const { blocks, dataAt } = plan;
    const type = writable ? 'static' : 'dynamic';
    return [
      virtualFile('.vdi', [
        constant(headerFor(plan, type, `view\n${disk.id}\n${name}\n${type}`, blocks)),
        table(4, blocks * 4, (view, first, last) =>
          writable ? fillFullMap(view, first, last) : fillMap(disk, view, first, last),
        ),
        zeroPiece(dataAt - MAP_AT - blocks * 4),
        diskPiece(blocks * BLOCK),
      ]),
    ];
  },
};
