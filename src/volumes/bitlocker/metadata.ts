/**
 * What a BitLocker volume says of itself: its boot sector, and three copies of its metadata. Sources: libbde, "BitLocker
 * Drive Encryption (BDE) format"; for the checksum behind the metadata, the structures that dislocker documents.
 */
import { crc32 } from 'node:zlib';
import type { Bytes } from '../../base/contracts.ts';
import { ImageError } from '../../base/errors.ts';
import { struct, u16le, u32le, u64le } from '../../base/struct.ts';
import type { Stretch } from '../stretch.ts';

/** `4967d63b-2e29-4ad8-8399-f6a339e3d001` and `92a84d3b-dd80-4d0e-9e4e-b1e3284eaed8`, as they are stored. */
const VOLUME_ID = '3bd66749292ed84a8399f6a339e3d001';
const CONVERTING_ID = '3b4da89280dd0e4d9e4eb1e3284eaed8';
/** Where the identifier stands on a disk, and on one that can be taken out. Three offsets of the metadata follow it. */
const ID_PLACES = [160, 424];
const SIGNATURES = new Set(['-FVE-FS-', 'MSWIN4.1']);
const METADATA_SIGNATURE = '-FVE-FS-';
/** What each copy of the metadata takes up on the volume. */
export const METADATA_AREA = 65_536;
const BLOCK_HEADER = 64;
const DATA_HEADER = 48;
const ENTRY_HEADER = 8;
const MOST_ENTRIES = 1024;
/** Values of `version` in the block header: Windows Vista, and all since. */
const VISTA = 1;
const CURRENT = 2;

const BlockHeader = struct('FVE metadata block', BLOCK_HEADER, {
  /** In units of 16 bytes; a checksum follows what it spans. */
  size: [8, u16le],
  version: [10, u16le],
  encryptedSize: [16, u64le],
  headerSectors: [28, u32le],
  headerAt: [56, u64le],
});
const DataHeader = struct('FVE metadata header', DATA_HEADER, {
  size: [0, u32le],
  version: [4, u32le],
  headerSize: [8, u32le],
  method: [36, u16le],
});

/** What follows the identifier in the boot sector. */
const Offsets = struct('BitLocker boot sector', 24, { first: [0, u64le], second: [8, u64le], third: [16, u64le] });

export interface Entry {
  readonly type: number;
  readonly value: number;
  readonly data: Buffer;
}

export interface Metadata {
  readonly sectorSize: 512 | 4096;
  readonly method: number;
  /** Bytes from the start that are enciphered; what follows is stored as it is. */
  readonly encryptedSize: Bytes;
  /** Where the first sectors of the volume lie, enciphered, and how long they are. */
  readonly headerAt: Bytes;
  readonly headerSize: Bytes;
  readonly areas: readonly Bytes[];
  readonly entries: readonly Entry[];
}

/** Entries one after the other. 'corrupt' where one leads outside. */
export function entriesOf(data: Buffer, its: string): Entry[] {
  const found: Entry[] = [];
  for (let at = 0; at + ENTRY_HEADER <= data.length; ) {
    const size = data.readUInt16LE(at);
    if (size === 0) break;
    if (size < ENTRY_HEADER || at + size > data.length || found.length === MOST_ENTRIES) {
      throw new ImageError('corrupt', 'an entry of the metadata of BitLocker is damaged', { file: its });
    }
    found.push({
      type: data.readUInt16LE(at + 2),
      value: data.readUInt16LE(at + 4),
      data: data.subarray(at + ENTRY_HEADER, at + size),
    });
    at += size;
  }
  return found;
}

async function bytesAt({ its, disk, start, size }: Stretch, at: Bytes, length: number): Promise<Buffer> {
  if (!(at >= 0 && at + length <= size)) {
    throw new ImageError('corrupt', 'metadata of BitLocker lies outside the volume', { file: its, at });
  }
  const into = Buffer.alloc(length);
  await disk.read(into, start + at);
  return into;
}

/** The boot sector of a BitLocker volume; null: it is none. */
export async function bootSector(stretch: Stretch): Promise<Buffer | null> {
  if (stretch.size < 512) return null;
  const sector = await bytesAt(stretch, 0, 512);
  const signature = sector.toString('latin1', 3, 11);
  return signature === METADATA_SIGNATURE || (SIGNATURES.has(signature) && idPlace(sector) !== null) ? sector : null;
}

const idPlace = (sector: Buffer): number | null =>
  ID_PLACES.find(at => [VOLUME_ID, CONVERTING_ID].includes(sector.toString('hex', at, at + 16))) ?? null;

/** One copy; null: its checksum does not match, or it is no metadata. */
async function copyAt(stretch: Stretch, at: Bytes): Promise<Buffer | null> {
  const head = await bytesAt(stretch, at, BLOCK_HEADER);
  if (head.toString('latin1', 0, 8) !== METADATA_SIGNATURE) return null;
  const { size, version } = BlockHeader.parse(head, 0, stretch.its);
  if (version === VISTA) {
    throw new ImageError('unsupported', 'BitLocker of Windows Vista is not read', { file: stretch.its, at });
  }
  if (version !== CURRENT) {
    throw new ImageError('unsupported', `BitLocker metadata of version ${version} is not known`, {
      file: stretch.its,
      at,
    });
  }
  const length = size * 16;
  if (length < BLOCK_HEADER + DATA_HEADER || length + 8 > METADATA_AREA) return null;
  const whole = await bytesAt(stretch, at, length + 8);
  return crc32(whole.subarray(0, length)) === whole.readUInt32LE(length + 4) ? whole.subarray(0, length) : null;
}

/** The first sound copy of the metadata. */
async function soundCopy(stretch: Stretch, areas: readonly Bytes[]): Promise<Buffer> {
  let first: unknown = null;
  for (const at of areas) {
    try {
      const copy = await copyAt(stretch, at);
      if (copy !== null) return copy;
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      first ??= error;
    }
  }
  throw first ?? new ImageError('corrupt', 'no copy of the metadata of BitLocker is sound', { file: stretch.its });
}

export async function readMetadata(stretch: Stretch, sector: Buffer): Promise<Metadata> {
  const { its, size } = stretch;
  const place = idPlace(sector);
  if (place === null) throw new ImageError('unsupported', 'BitLocker of Windows Vista is not read', { file: its });
  if (sector.toString('hex', place, place + 16) === CONVERTING_ID) {
    throw new ImageError('unsupported', 'the volume is encrypted with BitLocker while it is written to', { file: its });
  }
  const sectorSize = sector.readUInt16LE(11);
  if (sectorSize !== 512 && sectorSize !== 4096) {
    throw new ImageError('unsupported', `BitLocker with sectors of ${sectorSize} bytes`, { file: its, at: 11 });
  }
  const { first, second, third } = Offsets.parse(sector, place + 16, its);
  const areas = [first, second, third];
  const block = await soundCopy(stretch, areas);
  const { encryptedSize, headerSectors, headerAt } = BlockHeader.parse(block, 0, its);
  const header = DataHeader.parse(block, BLOCK_HEADER, its);
  const end = BLOCK_HEADER + header.size;
  const sound = header.version === 1 && header.headerSize === DATA_HEADER && end <= block.length;
  if (!sound) throw new ImageError('corrupt', 'the header of the metadata of BitLocker is damaged', { file: its });
  const headerSize = headerSectors * sectorSize;
  const inside =
    [headerAt, ...areas, encryptedSize].every(at => at % sectorSize === 0) && headerAt + headerSize <= size;
  if (!inside || headerSize === 0) {
    throw new ImageError('corrupt', 'the first sectors of the BitLocker volume lie nowhere', { file: its });
  }
  const entries = entriesOf(block.subarray(BLOCK_HEADER + DATA_HEADER, end), its);
  return { sectorSize, method: header.method, encryptedSize, headerAt, headerSize, areas, entries };
}
