/** What the disk is: [MS-VHDX] section 2.6. */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { isPowerOfTwo } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import type { Area } from './header.ts';
import {
  FILE_FLAG,
  FileParameters,
  ITEM,
  MAX_ENTRIES,
  MAX_SIZE,
  METADATA_FLAG,
  METADATA_TABLE_SIZE,
  MetadataEntry,
  MetadataTable,
  MIB,
  parseAt,
} from './structs.ts';

const LARGEST_BLOCK = 256 * MIB;
/** Section 2.6.1.2: an item has at most 1 MiB. */
const LONGEST_ITEM = MIB;

export interface DiskFacts {
  readonly size: Bytes;
  readonly blockSize: Bytes;
  readonly sectorSize: 512 | 4096;
  /** Where the names of the parent lie; null: the disk is complete by itself. */
  readonly locator: Area | null;
  /** Every item that counts, for the identity of the image. */
  readonly witness: readonly Uint8Array[];
}

type Items = ReadonlyMap<string, Area>;

const KNOWN: ReadonlySet<string> = new Set(Object.values(ITEM));

/** Places of the known items; a required one that is not known is refused. */
async function findItems(source: ByteSource, region: Area): Promise<Items> {
  const file = source.name;
  const head = new Uint8Array(MetadataTable.size);
  await source.read(head, region.at);
  const { entryCount } = parseAt(MetadataTable, head, 0, region.at, file);
  if (entryCount > MAX_ENTRIES) {
    const where = { file, at: region.at + MetadataTable.offsetOf('entryCount'), field: 'entryCount' };
    throw new ImageError('corrupt', `a metadata table cannot have ${entryCount} entries`, where);
  }
  const raw = new Uint8Array(entryCount * MetadataEntry.size);
  const tableAt = region.at + MetadataTable.size;
  await source.read(raw, tableAt);
  const items = new Map<string, Area>();
  for (let i = 0; i < entryCount; i++) {
    const within = i * MetadataEntry.size;
    const { itemId, offset, length, flags } = parseAt(MetadataEntry, raw, within, tableAt, file);
    const where = { file, at: tableAt + within, field: 'itemId' };
    const user = flags % 2 === METADATA_FLAG.user;
    if (user || !KNOWN.has(itemId)) {
      if (Math.floor(flags / METADATA_FLAG.required) % 2 === 0) continue;
      throw new ImageError('unsupported', `metadata item ${itemId} is required and not known`, where);
    }
    if (items.has(itemId)) throw new ImageError('corrupt', `metadata item ${itemId} is there twice`, where);
    if (offset < METADATA_TABLE_SIZE || length > LONGEST_ITEM || offset + length > region.length) {
      throw new ImageError('corrupt', `metadata item ${itemId} lies outside the metadata region`, where);
    }
    items.set(itemId, { at: region.at + offset, length });
  }
  return items;
}

/** Content of an item of fixed length. */
async function itemOf(source: ByteSource, items: Items, name: keyof typeof ITEM, length: number, region: Area) {
  const area = items.get(ITEM[name]);
  const where = { file: source.name, at: area?.at ?? region.at, field: name };
  if (area === undefined) throw new ImageError('corrupt', `metadata item ${name} is missing`, where);
  if (area.length !== length) {
    throw new ImageError('corrupt', `metadata item ${name} has ${area.length} bytes instead of ${length}`, where);
  }
  const raw = new Uint8Array(length);
  await source.read(raw, area.at);
  return { raw, view: viewOf(raw), where };
}

function checkBlockSize(blockSize: number, where: object): void {
  if (isPowerOfTwo(blockSize) && blockSize >= MIB && blockSize <= LARGEST_BLOCK) return;
  throw new ImageError('unsupported', `a block size of ${blockSize} bytes is not known`, where);
}

function checkedSize(view: DataView, sectorSize: number, where: object): Bytes {
  const size = view.getBigUint64(0, true);
  if (size > BigInt(MAX_SIZE)) {
    throw new ImageError('unsupported', `a disk of ${size} bytes is larger than a VHDX can be`, where);
  }
  if (size === 0n || size % BigInt(sectorSize) !== 0n) {
    throw new ImageError('corrupt', `the disk's size ${size} is not a number of sectors`, where);
  }
  return Number(size);
}

/** Reads the metadata region. Unknown required items, flags and sizes are refused by name. */
export async function readMetadata(source: ByteSource, region: Area): Promise<DiskFacts> {
  const items = await findItems(source, region);
  const parameters = await itemOf(source, items, 'fileParameters', FileParameters.size, region);
  const { blockSize, flags } = FileParameters.parse(parameters.raw, 0, source.name);
  checkBlockSize(blockSize, parameters.where);
  if (flags > FILE_FLAG.leaveAllocated + FILE_FLAG.hasParent) {
    throw new ImageError('unsupported', `VHDX file flags 0x${flags.toString(16)} are not known`, parameters.where);
  }
  const sector = await itemOf(source, items, 'logicalSectorSize', 4, region);
  const sectorSize = sector.view.getUint32(0, true);
  if (sectorSize !== 512 && sectorSize !== 4096) {
    throw new ImageError('unsupported', `sectors of ${sectorSize} bytes are not known`, sector.where);
  }
  const length = await itemOf(source, items, 'virtualDiskSize', 8, region);
  const size = checkedSize(length.view, sectorSize, length.where);
  const locator = flags >= FILE_FLAG.hasParent ? items.get(ITEM.parentLocator) : null;
  if (locator === undefined) {
    const where = { file: source.name, at: region.at, field: 'parentLocator' };
    throw new ImageError('corrupt', 'the disk has a parent, but nothing says which', where);
  }
  return { size, blockSize, sectorSize, locator, witness: [parameters.raw, sector.raw, length.raw] };
}
