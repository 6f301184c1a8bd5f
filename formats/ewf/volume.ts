/** What the first segment says about the disk and about the acquisition. */
import { promisify } from 'node:util';
import { inflate } from 'node:zlib';
import type { Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { bodyOf, corrupt, type Section, sectionsOf, sumAt } from './sections.ts';
import type { Segments } from './segments.ts';
import { ShortVolume, Volume } from './structs.ts';

const unzip = promisify<Uint8Array, object, Buffer>(inflate);

/** Sections before the one that describes the disk. */
const MOST_BEFORE = 64;
const LONGEST_HEADER = 1_048_576;
/** So many characters of it are looked at. */
const LONGEST_CASE = 65_536;
const LARGEST_CHUNK = 16 * 1_048_576;

export interface Geometry {
  readonly size: Bytes;
  readonly bytesPerSector: number;
  readonly chunkSize: Bytes;
  /** Identity of the set of segments, in hexadecimal digits; zeros when the writer gives none. */
  readonly setId: string;
}

export interface FirstSegment {
  readonly geometry: Geometry;
  readonly time: Date | null;
  readonly notes: readonly string[];
  /** Content of the section that describes the disk. */
  readonly raw: Uint8Array;
  readonly warnings: readonly string[];
}

/** The description of the disk in a `volume`, `disk` or `data` section. Refused by name: sizes that no writer makes. */
export function parseGeometry(
  raw: Uint8Array,
  section: Section,
  file: string,
): { geometry: Geometry; summed: boolean } {
  const long = raw.length >= Volume.size;
  const form = long ? Volume : ShortVolume;
  const { bodyAt } = section;
  if (raw.length < form.size)
    throw corrupt(`a "${section.type}" section of ${raw.length} bytes`, file, section.at, 'size');
  const sum = sumAt(raw, form.size - 4);
  if (sum === 'wrong') throw corrupt('the checksum of the disk description does not hold', file, bodyAt, 'checksum');
  const { sectorsPerChunk, bytesPerSector, sectors } = form.parse(raw, 0, file);
  if (![512, 1024, 2048, 4096].includes(bytesPerSector)) {
    const message = `sectors of ${bytesPerSector} bytes are not known`;
    throw new ImageError('unsupported', message, { file, at: bodyAt + 12, field: 'bytesPerSector' });
  }
  const chunkSize = sectorsPerChunk * bytesPerSector;
  if (sectorsPerChunk < 1 || chunkSize > LARGEST_CHUNK) {
    const message = `chunks of ${sectorsPerChunk} sectors are not known`;
    throw new ImageError('unsupported', message, { file, at: bodyAt + 8, field: 'sectorsPerChunk' });
  }
  const size = sectors * bytesPerSector;
  if (sectors < 1 || !Number.isSafeInteger(size)) {
    throw corrupt(`a disk of ${sectors} sectors`, file, bodyAt + 16, 'sectors');
  }
  const setId = long ? Buffer.from(Volume.parse(raw, 0, file).setId).toString('hex') : '0'.repeat(32);
  return { geometry: { size, bytesPerSector, chunkSize, setId }, summed: sum === 'holds' };
}

/** What the line of keys in a `header` section names, by key. */
function caseFields(text: string): ReadonlyMap<string, string> {
  const lines = text.slice(0, LONGEST_CASE).split(/\r?\n/);
  const main = lines.findIndex(line => line.endsWith('main'));
  const keys = main < 0 ? [] : (lines[main + 1]?.split('\t') ?? []);
  const values = lines[main + 2]?.split('\t') ?? [];
  return new Map(keys.map((key, i) => [key, values[i]?.trim() ?? '']));
}

/** `m`: seconds since 1970, or a date without a zone, which is taken as UTC. */
function acquiredAt(fields: ReadonlyMap<string, string>): Date | null {
  const value = fields.get('m') ?? '';
  const parts = value.split(' ').map(Number);
  const [year, month = 1, day = 1, hour = 0, minute = 0, second = 0] = parts;
  if (year === undefined || value === '' || parts.some(part => !Number.isSafeInteger(part) || part < 0)) return null;
  const time = new Date(parts.length === 1 ? year * 1000 : Date.UTC(year, month - 1, day, hour, minute, second));
  return Number.isNaN(time.getTime()) || time.getTime() === 0 ? null : time;
}

/** The case in a `header` or `header2` section. Throws what zlib throws. */
async function readCase(segments: Segments, section: Section): Promise<ReadonlyMap<string, string>> {
  const packed = await bodyOf(segments, section, LONGEST_HEADER);
  const raw = await unzip(packed, { maxOutputLength: 4 * LONGEST_HEADER });
  return caseFields(new TextDecoder(section.type === 'header2' ? 'utf-16le' : 'latin1').decode(raw));
}

const LABELS = [
  ['c', 'case'],
  ['n', 'evidence'],
  ['a', 'description'],
  ['e', 'examiner'],
  ['t', 'notes'],
  ['md', 'drive'],
  ['sn', 'serial number'],
] as const;
const LONGEST_NOTE = 200;

/** Case, evidence and drive, as the examiner's tool names them; one line each. */
const notesOf = (fields: ReadonlyMap<string, string>): readonly string[] =>
  LABELS.flatMap(([key, label]) => {
    const value = (fields.get(key) ?? '').replaceAll(/\p{Cc}+/gu, ' ').slice(0, LONGEST_NOTE);
    return value === '' ? [] : [`${label}: ${value}`];
  });

/** Reads the first sections, up to the one that describes the disk. */
export async function readFirst(segments: Segments): Promise<FirstSegment> {
  const file = segments.name(0);
  const warnings: string[] = [];
  let time: Date | null = null;
  let notes: readonly string[] = [];
  let before = 0;
  for await (const section of sectionsOf(segments, 0)) {
    if (section.type === 'volume' || section.type === 'disk') {
      const raw = await bodyOf(segments, section, Volume.size);
      const { geometry, summed } = parseGeometry(raw, section, file);
      if (!summed) warnings.push('the description of the disk carries no checksum');
      return { geometry, time, notes, raw, warnings };
    }
    if (++before > MOST_BEFORE || section.type === 'table') break;
    if (section.type !== 'header' && section.type !== 'header2') continue;
    try {
      const fields = await readCase(segments, section);
      time ??= acquiredAt(fields);
      if (notes.length === 0) notes = notesOf(fields);
    } catch (error) {
      if (error instanceof ImageError) throw error;
      warnings.push(`section "${section.type}" at ${section.at} with the description of the case cannot be read`);
    }
  }
  throw corrupt('no section describes the disk', file, 0);
}
