/** Everything of a written VHDX but its block table and its data. Nothing in it depends on the content of the disk. */
import type { Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { roundUp } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import {
  chunkRatio,
  ENTRY_SIZE,
  entryCount,
  FILE_FLAG,
  FileParameters,
  guid,
  guidFor,
  HEADERS_AT,
  Header,
  ITEM,
  MAX_SIZE,
  METADATA_FLAG,
  METADATA_TABLE_SIZE,
  MetadataEntry,
  MetadataTable,
  MIB,
  NULL_GUID,
  putSum,
  REGION,
  REGION_TABLE_SIZE,
  REGION_TABLES_AT,
  RegionEntry,
  RegionTable,
  SIGNATURE,
  STATE,
} from './structs.ts';

const LOG_AT = MIB;
const METADATA_AT = 2 * MIB;
export const TABLE_AT = 3 * MIB;
const CREATOR = 'bootmount';
const PHYSICAL_SECTOR = 4096;

/** Where things lie when block `i` has its place at `dataAt + i * blockSize`. */
export interface Plan {
  /** Of the disk, in whole sectors. */
  readonly size: Bytes;
  readonly sectorSize: 512 | 4096;
  readonly blockSize: Bytes;
  readonly blocks: number;
  readonly ratio: number;
  readonly entries: number;
  /** Length of the table's region. */
  readonly tableLength: Bytes;
  readonly dataAt: Bytes;
}

/** 'too-big' beyond 64 TiB. Blocks of 2 MiB up to 4 TiB, of 32 MiB above: the table has at most 16 MiB. */
export function planFor(disk: { readonly size: Bytes; readonly sectorSize: 512 | 4096 }): Plan {
  if (disk.size > MAX_SIZE) {
    throw new ImageError('too-big', `a VHDX holds at most 64 TiB, the disk has ${disk.size} bytes: use raw or qcow2`);
  }
  const { sectorSize } = disk;
  const size = roundUp(disk.size, sectorSize);
  const blockSize = size <= 4 * 2 ** 40 ? 2 * MIB : 32 * MIB;
  const ratio = chunkRatio(blockSize, sectorSize);
  const blocks = Math.ceil(size / blockSize);
  const entries = entryCount(blocks, ratio, false);
  const tableLength = roundUp(entries * ENTRY_SIZE, MIB);
  return { size, sectorSize, blockSize, blocks, ratio, entries, tableLength, dataAt: TABLE_AT + tableLength };
}

/** Writes the table's entry of a block whose data lies at `fileAt`, a multiple of 1 MiB. */
export function putPresent(view: DataView, at: number, fileAt: Bytes): void {
  const mib = fileAt / MIB;
  view.setUint32(at, (mib % 4096) * MIB + STATE.full, true);
  view.setUint32(at + 4, Math.floor(mib / 4096), true);
}

/** [MS-VHDX] section 2.2.1. */
function signature(): Uint8Array {
  return Buffer.concat([Buffer.from(SIGNATURE, 'latin1'), Buffer.from(CREATOR, 'utf16le')]);
}

/** Both headers, the second one current; `seed` decides the GUIDs. */
function headers(seed: string): readonly [Uint8Array, Uint8Array] {
  const build = (sequenceNumber: bigint): Uint8Array => {
    const raw = Header.build({
      signature: 'head',
      checksum: 0,
      sequenceNumber,
      fileWriteGuid: guidFor(`${seed}\nfile ${sequenceNumber}`),
      dataWriteGuid: guidFor(`${seed}\ndata`),
      logGuid: NULL_GUID,
      logVersion: 0,
      version: 1,
      logLength: MIB,
      logOffset: LOG_AT,
    });
    putSum(raw);
    return raw;
  };
  return [build(1n), build(2n)];
}

function regionTable(tableLength: Bytes): Uint8Array {
  const raw = new Uint8Array(REGION_TABLE_SIZE);
  const view = viewOf(raw);
  RegionTable.write(view, 0, { signature: 'regi', checksum: 0, entryCount: 2 });
  const entry = (i: number, id: string, fileOffset: Bytes, length: Bytes): void =>
    RegionEntry.write(view, RegionTable.size + i * RegionEntry.size, { guid: id, fileOffset, length, required: 1 });
  entry(0, REGION.bat, TABLE_AT, tableLength);
  entry(1, REGION.metadata, METADATA_AT, MIB);
  putSum(raw);
  return raw;
}

/** A metadata region without the zeros at its end. `fixed`: blocks keep their places. */
function metadata(plan: Plan, fixed: boolean, seed: string): Uint8Array {
  const { required, virtualDisk } = METADATA_FLAG;
  const number = (value: number): Uint8Array => {
    const raw = new Uint8Array(4);
    viewOf(raw).setUint32(0, value, true);
    return raw;
  };
  const size = new Uint8Array(8);
  viewOf(size).setBigUint64(0, BigInt(plan.size), true);
  const id = new Uint8Array(guid.size);
  guid.write(viewOf(id), 0, guidFor(`${seed}\ndisk`));
  const parameters = FileParameters.build({ blockSize: plan.blockSize, flags: fixed ? FILE_FLAG.leaveAllocated : 0 });
  const items = [
    [ITEM.fileParameters, parameters, required],
    [ITEM.virtualDiskSize, size, required + virtualDisk],
    [ITEM.virtualDiskId, id, required + virtualDisk],
    [ITEM.logicalSectorSize, number(plan.sectorSize), required + virtualDisk],
    [ITEM.physicalSectorSize, number(PHYSICAL_SECTOR), required + virtualDisk],
  ] as const;
  const raw = new Uint8Array(METADATA_TABLE_SIZE + items.reduce((sum, [, content]) => sum + content.length, 0));
  const view = viewOf(raw);
  MetadataTable.write(view, 0, { signature: 'metadata', entryCount: items.length });
  let offset = METADATA_TABLE_SIZE;
  for (const [i, [itemId, content, flags]] of items.entries()) {
    const entry = { itemId, offset, length: content.length, flags };
    MetadataEntry.write(view, MetadataTable.size + i * MetadataEntry.size, entry);
    raw.set(content, offset);
    offset += content.length;
  }
  return raw;
}

/** Every structure but the table with its place, in the order of the file. */
export function frame(
  plan: Plan,
  fixed: boolean,
  seed: string,
): readonly { readonly at: Bytes; readonly raw: Uint8Array }[] {
  const [first, second] = headers(seed);
  const regions = regionTable(plan.tableLength);
  return [
    { at: 0, raw: signature() },
    { at: HEADERS_AT[0]!, raw: first },
    { at: HEADERS_AT[1]!, raw: second },
    { at: REGION_TABLES_AT[0]!, raw: regions },
    { at: REGION_TABLES_AT[1]!, raw: regions },
    { at: METADATA_AT, raw: metadata(plan, fixed, seed) },
  ];
}
