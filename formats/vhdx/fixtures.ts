/** VHDX files built field by field from the specification, for tests: shapes that the programs at hand do not write. */
import type { Bytes } from '../../src/base/contracts.ts';
import { viewOf } from '../../src/base/struct.ts';
import { DATA_SECTOR, DESCRIPTOR, LogEntry } from './log.ts';
import {
  chunkRatio,
  entryCount,
  FileParameters,
  guid,
  guidFor,
  HEADERS_AT,
  Header,
  ITEM,
  LOCATOR_TYPE,
  LocatorEntry,
  MetadataEntry,
  MetadataTable,
  MIB,
  NULL_GUID,
  PAGE,
  ParentLocator,
  putSum,
  REGION,
  REGION_TABLES_AT,
  RegionEntry,
  RegionTable,
  slotOf,
} from './structs.ts';

export const LOG_AT = MIB;
export const METADATA_AT = 2 * MIB;
export const TABLE_AT = 3 * MIB;

export interface Block {
  readonly state: number;
  /** Content, up to a whole block; the place is taken in full. */
  readonly data?: Uint8Array;
  /** Per sector whether it is in this file. */
  readonly bits?: readonly boolean[];
}

export interface FixtureSpec {
  readonly size: Bytes;
  readonly blockSize?: Bytes;
  readonly sectorSize?: number;
  readonly blocks: Readonly<Record<number, Block>>;
  /** Distinguishes the GUIDs of one file from those of another. */
  readonly name: string;
  /** Keys and values of the parent locator. */
  readonly parent?: readonly (readonly [string, string])[];
  readonly logGuid?: string;
  readonly flags?: number;
}

/** Stretches of a file; everything between them is zero. */
export interface Fixture {
  readonly size: Bytes;
  readonly parts: readonly { readonly at: Bytes; readonly raw: Uint8Array }[];
}

export const dataGuid = (name: string): string => guidFor(`data of ${name}`);

export function headerOf(spec: Pick<FixtureSpec, 'name' | 'logGuid'>, sequenceNumber: bigint): Uint8Array {
  const raw = Header.build({
    signature: 'head',
    checksum: 0,
    sequenceNumber,
    fileWriteGuid: guidFor(`file ${spec.name} ${sequenceNumber}`),
    dataWriteGuid: dataGuid(spec.name),
    logGuid: spec.logGuid ?? NULL_GUID,
    logVersion: 0,
    version: 1,
    logLength: MIB,
    logOffset: LOG_AT,
  });
  putSum(raw);
  return raw;
}

export function regionsOf(
  regions: readonly { readonly id: string; readonly at: Bytes; readonly length: Bytes; readonly required?: number }[],
): Uint8Array {
  const raw = new Uint8Array(65_536);
  const view = viewOf(raw);
  RegionTable.write(view, 0, { signature: 'regi', checksum: 0, entryCount: regions.length });
  for (const [i, { id, at, length, required = 1 }] of regions.entries()) {
    const entry = { guid: id, fileOffset: at, length, required };
    RegionEntry.write(view, RegionTable.size + i * RegionEntry.size, entry);
  }
  putSum(raw);
  return raw;
}

function locatorOf(pairs: readonly (readonly [string, string])[]): Uint8Array {
  const texts = pairs.flat().map(text => Buffer.from(text, 'utf16le'));
  const start = ParentLocator.size + pairs.length * LocatorEntry.size;
  const raw = new Uint8Array(start + texts.reduce((sum, text) => sum + text.length, 0));
  const view = viewOf(raw);
  ParentLocator.write(view, 0, { type: LOCATOR_TYPE, keyValueCount: pairs.length });
  let at = start;
  for (const i of pairs.keys()) {
    const [key, value] = [texts[i * 2]!, texts[i * 2 + 1]!];
    raw.set(key, at);
    raw.set(value, at + key.length);
    const lengths = { keyLength: key.length, valueLength: value.length };
    const entry = { keyOffset: at, valueOffset: at + key.length, ...lengths };
    LocatorEntry.write(view, ParentLocator.size + i * LocatorEntry.size, entry);
    at += key.length + value.length;
  }
  return raw;
}

export type Item = readonly [id: string, content: Uint8Array, flags: number];

const little = (value: Bytes, length: 4 | 8): Uint8Array => {
  const raw = new Uint8Array(length);
  if (length === 8) viewOf(raw).setBigUint64(0, BigInt(value), true);
  else viewOf(raw).setUint32(0, value, true);
  return raw;
};

export function itemsOf(spec: FixtureSpec): readonly Item[] {
  const id = new Uint8Array(16);
  guid.write(viewOf(id), 0, guidFor('disk'));
  const flags = spec.flags ?? (spec.parent === undefined ? 0 : 2);
  return [
    [ITEM.fileParameters, FileParameters.build({ blockSize: spec.blockSize ?? MIB, flags }), 4],
    [ITEM.virtualDiskSize, little(spec.size, 8), 6],
    [ITEM.virtualDiskId, id, 6],
    [ITEM.logicalSectorSize, little(spec.sectorSize ?? 512, 4), 6],
    [ITEM.physicalSectorSize, little(4096, 4), 6],
    ...(spec.parent === undefined ? [] : [[ITEM.parentLocator, locatorOf(spec.parent), 4] as const]),
  ];
}

export function metadataOf(items: readonly Item[]): Uint8Array {
  let offset = 65_536;
  const raw = new Uint8Array(offset + items.reduce((sum, [, content]) => sum + content.length, 0));
  const view = viewOf(raw);
  MetadataTable.write(view, 0, { signature: 'metadata', entryCount: items.length });
  for (const [i, [itemId, content, flags]] of items.entries()) {
    const entry = { itemId, offset, length: content.length, flags };
    MetadataEntry.write(view, MetadataTable.size + i * MetadataEntry.size, entry);
    raw.set(content, offset);
    offset += content.length;
  }
  return raw;
}

/** Bits of a block's sectors in their chunk's bitmap, the first sector lowest. */
function putBits(bitmap: Uint8Array, from: number, bits: readonly boolean[]): void {
  for (const [i, bit] of bits.entries()) {
    const at = Math.floor((from + i) / 8);
    if (bit) bitmap[at] = bitmap[at]! | (1 << ((from + i) % 8));
  }
}

/** The whole file; blocks lie in the order opposite to their numbers, the bitmaps behind them. */
export function fixture(spec: FixtureSpec): Fixture {
  const { size, blockSize = MIB, sectorSize = 512 } = spec;
  const ratio = chunkRatio(blockSize, sectorSize);
  const entries = entryCount(Math.ceil(size / blockSize), ratio, spec.parent !== undefined);
  const tableLength = Math.ceil((entries * 8) / MIB) * MIB;
  const table = new Uint8Array(entries * 8);
  const put = (slot: number, state: number, at: Bytes): void =>
    viewOf(table).setBigUint64(slot * 8, BigInt(at) + BigInt(state), true);
  const parts: { at: Bytes; raw: Uint8Array }[] = [];
  const bitmaps = new Map<number, Uint8Array>();
  let end = TABLE_AT + tableLength;
  for (const [key, { state, data, bits }] of Object.entries(spec.blocks).toReversed()) {
    const block = Number(key);
    put(slotOf(block, ratio), state, data === undefined ? 0 : end);
    if (data !== undefined) {
      parts.push({ at: end, raw: data });
      end += blockSize;
    }
    if (bits === undefined) continue;
    const chunk = Math.floor(block / ratio);
    const bitmap = bitmaps.get(chunk) ?? new Uint8Array(MIB);
    bitmaps.set(chunk, bitmap);
    putBits(bitmap, ((block % ratio) * blockSize) / sectorSize, bits);
  }
  for (const [chunk, raw] of bitmaps) {
    put(chunk * (ratio + 1) + ratio, 6, end);
    parts.push({ at: end, raw });
    end += MIB;
  }
  const regions = regionsOf([
    { id: REGION.bat, at: TABLE_AT, length: tableLength },
    { id: REGION.metadata, at: METADATA_AT, length: MIB },
  ]);
  parts.push(
    { at: 0, raw: Buffer.from('vhdxfile') },
    { at: HEADERS_AT[0]!, raw: headerOf(spec, 4n) },
    { at: HEADERS_AT[1]!, raw: headerOf(spec, 5n) },
    ...REGION_TABLES_AT.map(at => ({ at, raw: regions })),
    { at: METADATA_AT, raw: metadataOf(itemsOf(spec)) },
    { at: TABLE_AT, raw: table },
  );
  return { size: end, parts: parts.toSorted((a, b) => a.at - b.at) };
}

export function bytesOf({ size, parts }: Fixture): Uint8Array {
  const file = new Uint8Array(size);
  for (const { at, raw } of parts) file.set(raw, at);
  return file;
}

export type LogChange =
  | { readonly at: Bytes; readonly page: Uint8Array }
  | { readonly at: Bytes; readonly zeros: Bytes };

export interface LogSpec {
  readonly guid: string;
  readonly sequence: bigint;
  readonly tail: number;
  readonly changes: readonly LogChange[];
  readonly flushed?: Bytes;
  readonly last?: Bytes;
}

/** One entry of the log. */
export function logEntry({ guid: logGuid, sequence, tail, changes, flushed = 0, last = 0 }: LogSpec): Uint8Array {
  const area = Math.ceil((LogEntry.size + changes.length * DESCRIPTOR.size) / PAGE) * PAGE;
  const pages = changes.filter(change => 'page' in change);
  const raw = new Uint8Array(area + pages.length * PAGE);
  const view = viewOf(raw);
  LogEntry.write(view, 0, {
    signature: 'loge',
    checksum: 0,
    entryLength: raw.length,
    tail,
    sequenceNumber: sequence,
    descriptorCount: changes.length,
    logGuid,
    flushedFileOffset: BigInt(flushed),
    lastFileOffset: BigInt(last),
  });
  let sector = area;
  for (const [i, change] of changes.entries()) {
    const at = LogEntry.size + i * DESCRIPTOR.size;
    raw.set(Buffer.from('page' in change ? 'desc' : 'zero'), at);
    view.setBigUint64(at + DESCRIPTOR.fileOffset, BigInt(change.at), true);
    view.setBigUint64(at + DESCRIPTOR.sequence, sequence, true);
    if ('zeros' in change) {
      view.setBigUint64(at + DESCRIPTOR.length, BigInt(change.zeros), true);
      continue;
    }
    raw.set(change.page.subarray(0, 8), at + DESCRIPTOR.leading);
    raw.set(change.page.subarray(4092), at + DESCRIPTOR.trailing);
    raw.set(Buffer.from('data'), sector);
    view.setUint32(sector + DATA_SECTOR.sequenceHigh, Number(sequence >> 32n), true);
    raw.set(change.page.subarray(8, 4092), sector + DATA_SECTOR.content);
    view.setUint32(sector + DATA_SECTOR.sequenceLow, Number(sequence & 0xffff_ffffn), true);
    sector += PAGE;
  }
  putSum(raw);
  return raw;
}
