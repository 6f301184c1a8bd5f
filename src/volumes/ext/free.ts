/** Free blocks of ext2, ext3 and ext4. Kernel documentation, "Block and inode Bitmaps", "Block Group Descriptors". */
import { addClearBits, type FoundFree, freeRuns } from '../free.ts';
import type { Ext } from './filesystem.ts';
import {
  COMPAT_SPARSE_SUPER2,
  RO_BIGALLOC,
  RO_GDT_CSUM,
  RO_METADATA_CSUM,
  STATE_ERROR,
  STATE_VALID,
} from './structs.ts';

/** The group's bitmap was never written: nothing of it is in use but what all groups keep there. */
const BITMAP_UNWRITTEN = 2;

/** CRC-16 with the polynomial 0xa001. */
function crc16(crc: number, data: Uint8Array): number {
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc % 2 === 1 ? (crc >>> 1) ^ 0xa001 : crc >>> 1;
  }
  return crc;
}

function isSoundDescriptor({ superblock, checksum }: Ext, group: number, descriptor: Buffer): boolean {
  const kept = descriptor.readUInt16LE(0x1e);
  const number = Buffer.alloc(4);
  number.writeUInt32LE(group);
  const blank = Buffer.from(descriptor);
  blank.writeUInt16LE(0, 0x1e);
  const crc = checksum([number, blank]);
  if (crc !== null) return crc % 0x1_0000 === kept;
  if ((superblock.readOnlyCompatible & RO_GDT_CSUM) === 0) return true;
  const parts = [superblock.uuid, number, descriptor.subarray(0, 0x1e), descriptor.subarray(0x20)];
  return parts.reduce(crc16, 0xffff) === kept;
}

interface Group {
  readonly bitmapAt: number;
  readonly unwritten: boolean;
  readonly descriptor: Buffer;
}

const wide = (descriptor: Buffer, low: number, high: number): number =>
  descriptor.readUInt32LE(low) + (descriptor.length >= 64 ? descriptor.readUInt32LE(high) * 0x1_0000_0000 : 0);

type Blocks = readonly [first: number, count: number];

/** Bitmaps and inode tables of all groups, by the group in which they lie. */
function ownBlocks({ superblock, blockSize, inodeSize }: Ext, groups: readonly Group[]): readonly Blocks[][] {
  const { firstDataBlock, blocksPerGroup, inodesPerGroup } = superblock;
  const inodeBlocks = Math.ceil((inodesPerGroup * inodeSize) / blockSize);
  const own: Blocks[][] = groups.map(() => []);
  for (const its of groups) {
    for (const [block, count] of [
      [its.bitmapAt, 1],
      [wide(its.descriptor, 4, 0x24), 1],
      [wide(its.descriptor, 8, 0x28), inodeBlocks],
    ] as const) {
      const last = Math.floor((block + count - 1 - firstDataBlock) / blocksPerGroup);
      for (let group = Math.floor((block - firstDataBlock) / blocksPerGroup); group <= last; group++) {
        own[group]?.push([block, count]);
      }
    }
  }
  return own;
}

/** The bitmap of a group that has none: the file system's own blocks are in use. */
function unwrittenBitmap(
  ext: Ext,
  groups: number,
  group: number,
  own: readonly Blocks[],
  perCluster: number,
): Uint8Array {
  const { superblock, blockSize, descriptorSize } = ext;
  const bits = new Uint8Array(blockSize);
  const first = superblock.firstDataBlock + group * superblock.blocksPerGroup;
  const take = ([block, count]: Blocks): void => {
    for (let b = Math.max(block, first); b < Math.min(block + count, first + superblock.blocksPerGroup); b++) {
      const bit = Math.floor((b - first) / perCluster);
      bits[bit >> 3]! |= 1 << (bit % 8);
    }
  };
  // Superblock, descriptors and the room for more: at the start, in groups that have a copy.
  const tables = Math.ceil(groups / Math.floor(blockSize / descriptorSize)) + superblock.reservedDescriptors;
  const boot = first === 0 && blockSize === 1024 ? 1 : 0;
  if (ext.hasSuperblock(group) || ext.has('meta_bg')) take([first, boot + 1 + tables]);
  own.forEach(take);
  return bits;
}

async function groupsOf(ext: Ext, count: number): Promise<readonly Group[]> {
  const groups: Group[] = [];
  const checked = (ext.superblock.readOnlyCompatible & (RO_GDT_CSUM | RO_METADATA_CSUM)) !== 0;
  for (let group = 0; group < count; group++) {
    const descriptor = await ext.descriptor(group);
    ext.source.check(isSoundDescriptor(ext, group, descriptor), `the descriptor of group ${group} is damaged`);
    const unwritten = checked && (descriptor.readUInt16LE(0x12) & BITMAP_UNWRITTEN) !== 0;
    groups.push({ bitmapAt: wide(descriptor, 0, 0x20), unwritten, descriptor });
  }
  return groups;
}

async function bitmapOf(ext: Ext, { bitmapAt, descriptor }: Group, clusters: number): Promise<Uint8Array> {
  const bits = await ext.block(bitmapAt);
  const crc = ext.checksum([bits.subarray(0, clusters / 8)]);
  if (crc !== null) {
    const both = descriptor.length >= 64;
    const kept = descriptor.readUInt16LE(0x18) + (both ? descriptor.readUInt16LE(0x38) * 0x1_0000 : 0);
    const sound = kept === (both ? crc : crc % 0x1_0000);
    ext.source.check(sound, 'the checksum of a map of blocks does not match', bitmapAt * ext.blockSize);
  }
  return bits;
}

/** Whether the maps are as the file system last left them, with nothing that would still change them. */
function checkState({ source, superblock, has }: Ext): void {
  const { state, compatible } = superblock;
  source.check(!has('needs_recovery'), 'it was in use when the backup was made: its journal has something to replay');
  source.check((state & STATE_VALID) !== 0, 'it was in use when the backup was made');
  source.check((state & STATE_ERROR) === 0, 'it says that errors were found in it');
  if ((compatible & COMPAT_SPARSE_SUPER2) !== 0) throw source.unsupported('the place of its second superblock varies');
}

export async function free(ext: Ext, found: FoundFree): Promise<void> {
  checkState(ext);
  const { superblock, blockSize, source } = ext;
  const { blocksPerGroup, firstDataBlock, readOnlyCompatible } = superblock;
  const bigalloc = (readOnlyCompatible & RO_BIGALLOC) !== 0;
  const perCluster = bigalloc ? 2 ** (superblock.logClusterSize - superblock.logBlockSize) : 1;
  const large = ext.has('64bit') ? 0x1_0000_0000 : 0;
  const blocks = superblock.blocksLow + superblock.blocksHigh * large;
  const clusters = blocksPerGroup / perCluster;
  const sound = Number.isInteger(clusters) && clusters % 8 === 0 && clusters / 8 <= blockSize;
  source.check(sound && blocks * blockSize <= source.size, 'the block groups have no sound size', 0x20);
  const count = Math.ceil((blocks - firstDataBlock) / blocksPerGroup);
  const groups = await groupsOf(ext, count);
  const own = ownBlocks(ext, groups);
  let total = 0;
  const runs = freeRuns((at, length) => {
    total += length;
    found(at, length);
  });
  for (const [group, its] of groups.entries()) {
    const first = firstDataBlock + group * blocksPerGroup;
    const bits = its.unwritten
      ? unwrittenBitmap(ext, count, group, own[group]!, perCluster)
      : await bitmapOf(ext, its, clusters);
    const whole = Math.floor(Math.min(blocksPerGroup, blocks - first) / perCluster);
    addClearBits(runs, bits, whole, first * blockSize, perCluster * blockSize);
  }
  runs.end();
  // Without checksums this is all that tells a damaged map.
  const counted = superblock.freeLow + superblock.freeHigh * large;
  source.check(
    total === counted * blockSize,
    `its maps have ${total / blockSize} blocks free, and it counts ${counted}`,
  );
}
