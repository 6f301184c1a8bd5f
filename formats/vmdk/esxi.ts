/** Sparse extents of ESX and ESXi: "COWD" redo logs, and seSparse. */
import { ABSENT, BAD, ZERO } from '../../src/base/block-layer.ts';
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { isPowerOfTwo } from '../../src/base/range.ts';
import { MOST_GRAIN_SECTORS } from './hosted.ts';
import {
  CowdHeader,
  refusal,
  SECTOR,
  SESPARSE_VERSION,
  SeSparseHeader,
  SeSparseVolatile,
  VOLATILE_MAGIC,
} from './structs.ts';
import type { GrainTables } from './tables.ts';

const COWD_ENTRIES = 4096;
const SESPARSE_GRAIN = 8;
const SESPARSE_TABLE = 64;
const SESPARSE_ENTRIES = (SESPARSE_TABLE * SECTOR) / 8;
const MOST_SECTORS = Number.MAX_SAFE_INTEGER / SECTOR;

/** What both kinds tell: how long the extent is, and its tables for so much of it as is wanted. */
export interface EsxExtent {
  readonly size: Bytes;
  tables(size: Bytes): GrainTables;
}

const firstSector = async (source: ByteSource, at: Bytes): Promise<Uint8Array> => {
  const raw = new Uint8Array(SECTOR);
  await source.read(raw, at);
  return raw;
};

export async function openCowd(source: ByteSource): Promise<EsxExtent> {
  const fields = CowdHeader.parse(await firstSector(source, 0), 0, source.name);
  const { version, flags, numSectors, grainSize, gdOffset, numGDEntries } = fields;
  const refuse = refusal(CowdHeader, source.name, 0);
  if (version !== 1) refuse('unsupported', 'version', `version ${version} of a COWD extent is not known`);
  if (flags > 3) refuse('unsupported', 'flags', `flags 0x${flags.toString(16)} are not known`);
  if (numSectors === 0) refuse('corrupt', 'numSectors', 'an extent of no sectors cannot be');
  if (!isPowerOfTwo(grainSize) || grainSize > MOST_GRAIN_SECTORS) {
    refuse('unsupported', 'grainSize', `a grain of ${grainSize} sectors is not known`);
  }
  const needed = Math.ceil(numSectors / (grainSize * COWD_ENTRIES));
  if (needed > numGDEntries) {
    refuse('corrupt', 'numGDEntries', `a directory of ${numGDEntries} entries is too short for ${numSectors} sectors`);
  }
  if (gdOffset === 0 || gdOffset * SECTOR + needed * 4 > source.size) {
    refuse('corrupt', 'gdOffset', `a grain directory of ${needed} entries does not fit into the file`);
  }
  const sectorAt = (view: DataView, at: number): Bytes => {
    const sector = view.getUint32(at, true);
    return sector === 0 ? ABSENT : sector * SECTOR;
  };
  return {
    size: numSectors * SECTOR,
    tables: size => ({
      ...{ source, size, grain: grainSize * SECTOR, directoryAt: gdOffset * SECTOR, entrySize: 4 },
      ...{ perTable: COWD_ENTRIES, table: sectorAt, place: sectorAt, packed: false },
    }),
  };
}

/** Metadata that was not yet in its place when the machine stopped lies in a journal whose format is not public. */
async function checkJournal(source: ByteSource, at: Bytes): Promise<void> {
  if (at + SECTOR > source.size) {
    throw new ImageError('corrupt', 'the volatile header lies outside the file', { file: source.name, at });
  }
  const fields = SeSparseVolatile.parse(await firstSector(source, at), 0, source.name);
  const refuse = refusal(SeSparseVolatile, source.name, at);
  if (fields.magicNumber !== VOLATILE_MAGIC)
    refuse('corrupt', 'magicNumber', 'there is no volatile header at its place');
  if (fields.replayJournal !== 0n) {
    refuse(
      'unsupported',
      'replayJournal',
      'the disk was not closed cleanly, and its journal cannot be replayed: open it on ESXi once',
    );
  }
}

export async function openSeSparse(source: ByteSource): Promise<EsxExtent> {
  const fields = SeSparseHeader.parse(await firstSector(source, 0), 0, source.name);
  const refuse = refusal(SeSparseHeader, source.name, 0);
  if (fields.version !== SESPARSE_VERSION) {
    refuse('unsupported', 'version', `version 0x${fields.version.toString(16)} of seSparse is not known`);
  }
  if (fields.flags !== 0n) refuse('unsupported', 'flags', `flags 0x${fields.flags.toString(16)} are not known`);
  if (fields.reserved.some(word => word !== 0n))
    refuse('unsupported', 'reserved', 'reserved words of seSparse are in use');
  if (fields.grainSize !== SESPARSE_GRAIN)
    refuse('unsupported', 'grainSize', `a grain of ${fields.grainSize} sectors is not known`);
  if (fields.grainTableSize !== SESPARSE_TABLE) {
    refuse('unsupported', 'grainTableSize', `grain tables of ${fields.grainTableSize} sectors are not known`);
  }
  const { capacity, grainDirOffset, grainDirSize, grainTablesOffset, grainsOffset } = fields;
  if (capacity === 0 || capacity > MOST_SECTORS)
    refuse('corrupt', 'capacity', `an extent of ${capacity} sectors cannot be`);
  for (const field of ['volatileHeaderOffset', 'grainDirOffset', 'grainTablesOffset', 'grainsOffset'] as const) {
    if (fields[field] === 0 || fields[field] * SECTOR > source.size) {
      refuse('corrupt', field, `sector ${fields[field]} lies outside the file`);
    }
  }
  const needed = Math.ceil(capacity / (SESPARSE_GRAIN * SESPARSE_ENTRIES)) * 8;
  if (needed > grainDirSize * SECTOR || grainDirOffset * SECTOR + needed > source.size) {
    refuse('corrupt', 'grainDirSize', `a grain directory of ${needed / 8} entries does not fit`);
  }
  await checkJournal(source, fields.volatileHeaderOffset * SECTOR);
  return {
    size: capacity * SECTOR,
    tables: size => ({
      ...{ source, size, grain: SESPARSE_GRAIN * SECTOR, directoryAt: grainDirOffset * SECTOR, entrySize: 8 },
      perTable: SESPARSE_ENTRIES,
      table(view, at) {
        const high = view.getUint32(at + 4, true);
        const number = view.getUint32(at, true);
        if (high === 0 && number === 0) return ABSENT;
        return high === 0x1000_0000 ? (grainTablesOffset + number * SESPARSE_TABLE) * SECTOR : BAD;
      },
      place: (view, at) => seSparsePlace(view.getUint32(at + 4, true), view.getUint32(at, true), grainsOffset),
      packed: false,
    }),
  };
}

/** The top four bits are the kind; the number of an allocated grain is turned by twelve bits. */
function seSparsePlace(high: number, low: number, grainsOffset: number): Bytes {
  switch (high >>> 28) {
    case 0:
      return high === 0 && low === 0 ? ABSENT : BAD;
    case 1:
    case 2:
      return ZERO;
    case 3: {
      const grain = ((high >>> 16) & 0xfff) + ((high & 0xffff) * 0x1_0000_0000 + low) * 4096;
      const at = (grainsOffset + grain * SESPARSE_GRAIN) * SECTOR;
      return Number.isSafeInteger(at) ? at : BAD;
    }
    default:
      return BAD;
  }
}
