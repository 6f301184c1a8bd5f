/** One NTFS volume: its records, and whole attributes put together from several records. */
import { struct, u8, u16le, u64le } from '../../base/struct.ts';
import { bytesContent, runsContent, wholeOf } from '../content.ts';
import type { FileContent } from '../contracts.ts';
import type { VolumeSource } from '../source.ts';
import { type Attribute, parseRecord, type Record, referenceAt, runsOf, TYPE } from './records.ts';

const BootSector = struct('NTFS boot sector', 512, {
  sectorSize: [11, u16le],
  clusterSectors: [13, u8],
  mftCluster: [0x30, u64le],
  recordSize: [0x40, u8],
});

/** An attribute whose parts were put together, first part first. */
export interface WholeAttribute extends Attribute {
  readonly parts: readonly Attribute[];
}

export interface Ntfs {
  readonly source: VolumeSource;
  readonly clusterSize: number;
  record(number: number): Promise<Record>;
  attribute(record: Record, type: number, name: string): Promise<WholeAttribute | null>;
  /** The attribute's bytes as they are stored: compression and encryption are not undone. */
  content(attribute: WholeAttribute): FileContent;
  /** All of a small attribute. */
  value(attribute: WholeAttribute, most: number): Promise<Buffer>;
  /** What each unit of UTF-16 is in capitals, for the order of names. */
  capitals(): Promise<Uint16Array>;
  /** Names of the alternate streams. */
  streams(record: Record): Promise<readonly string[]>;
}

const LONGEST_LIST = 1_048_576;
const CAPITALS_RECORD = 10;
const CAPITALS_SIZE = 131_072;
const MOST_PARTS = 16_384;

/** Negative numbers are powers of two in bytes, others count clusters. */
function sizeFrom(byte: number, clusterSize: number): number {
  return byte >= 0x80 ? 2 ** (256 - byte) : byte * clusterSize;
}

interface ListEntry {
  readonly type: number;
  readonly name: string;
  readonly record: number;
}

function parseList(source: VolumeSource, list: Buffer): readonly ListEntry[] {
  const entries: ListEntry[] = [];
  for (let at = 0; at + 26 <= list.length; ) {
    const length = list.readUInt16LE(at + 4);
    source.check(length >= 26 && at + length <= list.length, 'an attribute list is damaged');
    const nameAt = at + list[at + 7]!;
    const name = list.toString('utf16le', nameAt, nameAt + list[at + 6]! * 2);
    entries.push({ type: list.readUInt32LE(at), name, record: referenceAt(list, at + 16) });
    at += length;
  }
  return entries;
}

/** Parsed records that stay in memory. */
const RECORDS_KEPT = 128;

interface Open {
  readonly source: VolumeSource;
  readonly clusterSize: number;
  readonly recordSize: number;
  /** Replaced once: what the first record says at first, all of the table then. */
  mft: FileContent;
}

function ntfsOver(open: Open): Ntfs {
  const { source, clusterSize, recordSize } = open;
  const kept = new Map<number, Promise<Record>>();
  const readRecord = async (number: number): Promise<Record> => {
    const at = number * recordSize;
    source.check(at + recordSize <= open.mft.size, `there is no file record ${number}`);
    const where = open.mft.range(at, recordSize);
    // Through the metadata cache wherever a record lies in one piece.
    if (where.kind === 'disk' && where.length === recordSize) {
      const place = where.at - source.start;
      return parseRecord(source, number, await source.bytes(place, recordSize), place);
    }
    const raw = Buffer.allocUnsafe(recordSize);
    await open.mft.read(raw, at);
    return parseRecord(source, number, raw);
  };
  const record: Ntfs['record'] = number => {
    const known = kept.get(number);
    if (known !== undefined) return known;
    const reading = readRecord(number);
    reading.catch(() => kept.delete(number));
    kept.set(number, reading);
    if (kept.size > RECORDS_KEPT) kept.delete(kept.keys().next().value!);
    return reading;
  };
  const content: Ntfs['content'] = ({ resident, parts, size, valid }) =>
    resident === null ? runsContent(source, runsOf(source, parts, clusterSize), size, valid) : bytesContent(resident);
  const listOf = async (its: Record): Promise<readonly ListEntry[] | null> => {
    const list = its.attributes.find(({ type }) => type === TYPE.list);
    if (list === undefined) return null;
    return parseList(source, await wholeOf(source, content({ ...list, parts: [list] }), LONGEST_LIST));
  };
  const attribute: Ntfs['attribute'] = async (its, type, name) => {
    const same = (a: { readonly type: number; readonly name: string }): boolean => a.type === type && a.name === name;
    const list = await listOf(its);
    if (list === null) {
      const found = its.attributes.find(same);
      return found === undefined ? null : { ...found, parts: [found] };
    }
    const numbers = new Set(list.filter(same).map(entry => entry.record));
    source.check(numbers.size <= MOST_PARTS, 'an attribute is in too many parts');
    const parts: Attribute[] = [];
    for (const number of numbers) {
      const holder = number === its.number ? its : await record(number);
      source.check(holder === its || holder.base === its.number, `record ${number} belongs to another file`);
      parts.push(...holder.attributes.filter(same));
    }
    if (parts.length === 0) return null;
    parts.sort((a, b) => a.firstCluster - b.firstCluster);
    source.check(parts[0]!.firstCluster === 0, 'the first part of an attribute is missing');
    return { ...parts[0]!, parts };
  };
  const readCapitals = async (): Promise<Uint16Array> => {
    const data = await attribute(await record(CAPITALS_RECORD), TYPE.data, '');
    const bytes = await wholeOf(source, content(source.need(data, 'there is no table of capitals')), CAPITALS_SIZE);
    source.check(bytes.length === CAPITALS_SIZE, 'the table of capitals is too short');
    return new Uint16Array(Uint8Array.from(bytes).buffer);
  };
  let capitals: Promise<Uint16Array> | null = null;
  return {
    source,
    clusterSize,
    record,
    attribute,
    content,
    capitals() {
      capitals ??= readCapitals().catch(error => {
        capitals = null;
        throw error;
      });
      return capitals;
    },
    value: (whole, most) => wholeOf(source, content(whole), most),
    async streams(its) {
      const list = await listOf(its);
      const all = list ?? its.attributes;
      return [...new Set(all.filter(({ type, name }) => type === TYPE.data && name !== '').map(({ name }) => name))];
    },
  };
}

/** null: no NTFS volume. */
export async function openFileSystem(source: VolumeSource): Promise<Ntfs | null> {
  if (source.size < 512) return null;
  const sector = await source.bytes(0, 512);
  if (sector.toString('latin1', 3, 11) !== 'NTFS    ') return null;
  const boot = BootSector.parse(sector, 0, source.name);
  const { sectorSize, mftCluster } = boot;
  // Clusters above 64 KiB are written as a negative power of two.
  const sectors = boot.clusterSectors > 128 ? 2 ** (256 - boot.clusterSectors) : boot.clusterSectors;
  const clusterSize = sectorSize * sectors;
  const powerOfTwo = clusterSize > 0 && 2 ** Math.round(Math.log2(clusterSize)) === clusterSize;
  const sound = [256, 512, 1024, 2048, 4096].includes(sectorSize) && powerOfTwo && clusterSize <= 2_097_152;
  source.check(sound, `clusters of ${clusterSize} bytes`, 13);
  const recordSize = sizeFrom(boot.recordSize, clusterSize);
  source.check(recordSize >= 512 && recordSize <= 65_536, `file records of ${recordSize} bytes`, 0x40);
  const mftAt = mftCluster * clusterSize;
  const first = parseRecord(source, 0, await source.bytes(mftAt, recordSize), mftAt);
  const found = first.attributes.find(({ type, name }) => type === TYPE.data && name === '');
  const data = source.need(found, 'the master file table has no content', mftAt);
  // The table's own list of parts lies in records that its first part holds.
  const open: Open = { source, clusterSize, recordSize, mft: bytesContent(Buffer.alloc(0)) };
  const its = ntfsOver(open);
  open.mft = its.content({ ...data, parts: [data] });
  const whole = await its.attribute(first, TYPE.data, '');
  open.mft = its.content(source.need(whole, 'the master file table has no content', mftAt));
  return its;
}
