/** Finding the header and the regions that tell the truth: [MS-VHDX] sections 2.2.2 and 2.2.3. */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import {
  HEADERS_AT,
  Header,
  type HeaderFields,
  hasText,
  MAX_ENTRIES,
  MIB,
  NULL_GUID,
  PAGE,
  parseAt,
  REGION,
  REGION_TABLE_SIZE,
  REGION_TABLES_AT,
  RegionEntry,
  RegionTable,
  SIGNATURE,
  sumHolds,
} from './structs.ts';

export interface Area {
  readonly at: Bytes;
  readonly length: Bytes;
}

export const overlaps = (a: Area, b: Area): boolean => a.at < b.at + b.length && b.at < a.at + a.length;

/** The structure at `at` with its signature and checksum in order, or null. */
export async function soundAt(source: ByteSource, at: Bytes, length: number, text: string): Promise<Uint8Array | null> {
  if (at + length > source.size) return null;
  const raw = new Uint8Array(length);
  await source.read(raw, at);
  return hasText(raw, text) && sumHolds(raw) ? raw : null;
}

export interface FoundHeader {
  readonly fields: HeaderFields;
  /** Offset in the file of the one that is used. */
  readonly at: Bytes;
}

/** 'not-this-format' without the signature at the file's start. */
export async function checkSignature(source: ByteSource): Promise<void> {
  const raw = new Uint8Array(SIGNATURE.length);
  if (source.size >= raw.length) await source.read(raw, 0);
  if (hasText(raw, SIGNATURE)) return;
  throw new ImageError('not-this-format', 'there is no VHDX signature at the start', { file: source.name, at: 0 });
}

function newer(first: HeaderFields, second: HeaderFields, same: boolean, file: string): 0 | 1 {
  if (first.sequenceNumber !== second.sequenceNumber) return first.sequenceNumber > second.sequenceNumber ? 0 : 1;
  if (same) return 0;
  const where = { file, at: HEADERS_AT[0]! + Header.offsetOf('sequenceNumber'), field: 'sequenceNumber' };
  throw new ImageError('corrupt', 'both headers claim to be the current one, and they differ', where);
}

/** The sound header with the higher sequence number; one that is damaged is told in `warnings`. */
export async function findHeader(source: ByteSource, warnings: string[]): Promise<FoundHeader> {
  const file = source.name;
  const [first, second] = [
    await soundAt(source, HEADERS_AT[0]!, PAGE, 'head'),
    await soundAt(source, HEADERS_AT[1]!, PAGE, 'head'),
  ];
  const fieldsOf = (raw: Uint8Array, at: Bytes): HeaderFields => parseAt(Header, raw, 0, at, file);
  let index: 0 | 1;
  if (first !== null && second !== null) {
    const [a, b] = [fieldsOf(first, HEADERS_AT[0]!), fieldsOf(second, HEADERS_AT[1]!)];
    index = newer(a, b, Buffer.compare(first, second) === 0, file);
  } else if (first !== null || second !== null) {
    index = first !== null ? 0 : 1;
    warnings.push(`the ${index === 0 ? 'second' : 'first'} of the two headers is damaged; the other one is used`);
  } else {
    throw new ImageError('corrupt', 'both headers are damaged: no signature, or a checksum that does not hold', {
      file,
      at: HEADERS_AT[0]!,
      field: 'checksum',
    });
  }
  const at = HEADERS_AT[index]!;
  const fields = fieldsOf((index === 0 ? first : second)!, at);
  checkHeader(fields, at, file);
  return { fields, at };
}

function checkHeader(fields: HeaderFields, at: Bytes, file: string): void {
  const refuse = (fault: 'unsupported' | 'corrupt', message: string, field: keyof HeaderFields): never => {
    throw new ImageError(fault, message, { file, at: at + Header.offsetOf(field), field });
  };
  if (fields.version !== 1) refuse('unsupported', `VHDX version ${fields.version} is not known`, 'version');
  if (fields.logGuid === NULL_GUID) return;
  if (fields.logVersion !== 0) {
    refuse('unsupported', `version ${fields.logVersion} of the VHDX log is not known`, 'logVersion');
  }
  if (fields.logLength === 0 || fields.logLength % MIB !== 0) {
    refuse('corrupt', `a log of ${fields.logLength} bytes is not a number of MiB`, 'logLength');
  }
  if (fields.logOffset % MIB !== 0 || fields.logOffset < MIB) {
    refuse('corrupt', `the log cannot lie at ${fields.logOffset}`, 'logOffset');
  }
}

export interface Regions {
  readonly bat: Area;
  readonly metadata: Area;
}

const NAMES: ReadonlyMap<string, keyof Regions> = new Map([
  [REGION.bat, 'bat'],
  [REGION.metadata, 'metadata'],
]);
const TITLES = { bat: 'block allocation table', metadata: 'metadata region' } as const;

function checkRegion(area: Area, name: keyof Regions, source: ByteSource, entryAt: Bytes): void {
  const refuse = (message: string, field: 'fileOffset' | 'length'): never => {
    throw new ImageError('corrupt', `the ${TITLES[name]} ${message}`, {
      file: source.name,
      at: entryAt + RegionEntry.offsetOf(field),
      field,
    });
  };
  if (area.at % MIB !== 0 || area.at < MIB) refuse(`cannot lie at ${area.at}`, 'fileOffset');
  if (area.length % MIB !== 0 || area.length === 0) refuse(`cannot be ${area.length} bytes long`, 'length');
  if (area.at + area.length > source.size) refuse(`(${area.length} bytes at ${area.at}) leaves the file`, 'length');
}

function parseRegions(raw: Uint8Array, tableAt: Bytes, source: ByteSource, warnings: string[]): Regions {
  const file = source.name;
  const { entryCount } = parseAt(RegionTable, raw, 0, tableAt, file);
  if (entryCount > MAX_ENTRIES) {
    const where = { file, at: tableAt + RegionTable.offsetOf('entryCount'), field: 'entryCount' };
    throw new ImageError('corrupt', `a region table cannot have ${entryCount} entries`, where);
  }
  const found: { bat?: Area; metadata?: Area } = {};
  for (let i = 0; i < entryCount; i++) {
    const within = RegionTable.size + i * RegionEntry.size;
    const entry = parseAt(RegionEntry, raw, within, tableAt, file);
    const name = NAMES.get(entry.guid);
    const where = { file, at: tableAt + within, field: 'guid' };
    if (name === undefined) {
      if (entry.required % 2 === 1) throw new ImageError('unsupported', `region ${entry.guid} is not known`, where);
      warnings.push(`region ${entry.guid} is not known and left out`);
      continue;
    }
    if (found[name] !== undefined) throw new ImageError('corrupt', `there are two of the ${TITLES[name]}`, where);
    found[name] = { at: entry.fileOffset, length: entry.length };
    checkRegion(found[name], name, source, tableAt + within);
  }
  const { bat, metadata } = found;
  if (bat === undefined || metadata === undefined) {
    const missing = TITLES[bat === undefined ? 'bat' : 'metadata'];
    throw new ImageError('corrupt', `there is no ${missing}`, { file, at: tableAt });
  }
  if (overlaps(bat, metadata)) {
    throw new ImageError('corrupt', `the ${TITLES.bat} and the ${TITLES.metadata} overlap`, { file, at: tableAt });
  }
  return { bat, metadata };
}

/** Where the block allocation table and the metadata lie, from the first sound region table. */
export async function findRegions(source: ByteSource, warnings: string[]): Promise<Regions> {
  const [first, second] = [
    await soundAt(source, REGION_TABLES_AT[0]!, REGION_TABLE_SIZE, 'regi'),
    await soundAt(source, REGION_TABLES_AT[1]!, REGION_TABLE_SIZE, 'regi'),
  ];
  const raw = first ?? second;
  if (raw === null) {
    const where = { file: source.name, at: REGION_TABLES_AT[0]!, field: 'checksum' };
    throw new ImageError('corrupt', 'both region tables are damaged', where);
  }
  if (first === null || second === null) {
    const damaged = first === null ? 'first' : 'second';
    warnings.push(`the ${damaged} of the two region tables is damaged; the other one is used`);
  } else if (Buffer.compare(first, second) !== 0) {
    warnings.push('the two region tables differ; the first one is used');
  }
  return parseRegions(raw, REGION_TABLES_AT[first === null ? 1 : 0]!, source, warnings);
}
