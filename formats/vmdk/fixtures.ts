/** Images made by hand, for what no program at hand writes. */
import zlib from 'node:zlib';
import { viewOf } from '../../src/base/struct.ts';
import {
  AT_END,
  CowdHeader,
  FLAG,
  GrainMarker,
  NEW_LINES,
  SECTOR,
  SESPARSE_MAGIC,
  SESPARSE_VERSION,
  SeSparseHeader,
  SeSparseVolatile,
  type SparseFields,
  SparseHeader,
  VOLATILE_MAGIC,
} from './structs.ts';

export const descriptor = (lines: readonly string[], keys: Readonly<Record<string, string>> = {}): string => {
  const all = { version: '1', CID: '0badcafe', parentCID: 'ffffffff', createType: '"custom"', ...keys };
  const head = Object.entries(all).map(([key, value]) => `${key}=${value}`);
  return ['# Disk DescriptorFile', ...head, '', ...lines, '', '#DDB', ''].join('\n');
};

export type Grain = Uint8Array | 'zero' | null;

export interface HostedSpec {
  /** All of one length, a power of two. */
  readonly grains: readonly Grain[];
  readonly grainSize: number;
  /** In sectors; all grains unless told. */
  readonly capacity?: number;
  readonly perTable?: number;
  readonly text?: string;
  readonly stream?: boolean;
  /** The last packed grain ends with the disk. */
  readonly shortEnd?: boolean;
  readonly fields?: Partial<SparseFields>;
}

/** A hosted sparse extent, plain or stream-optimized with markers and a footer. */
export function hosted(spec: HostedSpec): Uint8Array {
  const { grains, grainSize, perTable = 512, text, stream = false } = spec;
  const parts: Uint8Array[] = [];
  let at = 0;
  const put = (part: Uint8Array): number => {
    const from = at / SECTOR;
    const padded = new Uint8Array(Math.ceil(part.length / SECTOR) * SECTOR);
    padded.set(part);
    parts.push(padded);
    at += padded.length;
    return from;
  };
  const marker = (value: number, type: number): void => {
    const raw = new Uint8Array(SECTOR);
    viewOf(raw).setBigUint64(0, BigInt(value), true);
    viewOf(raw).setUint32(12, type, true);
    if (stream) put(raw);
  };
  const fields: SparseFields = {
    magicNumber: 'KDMV',
    version: stream ? 3 : 1,
    flags: FLAG.newLineTest + FLAG.zeroedGrain + (stream ? FLAG.compressed + FLAG.markers : 0),
    capacity: spec.capacity ?? (grains.length * grainSize) / SECTOR,
    grainSize: grainSize / SECTOR,
    descriptorOffset: text === undefined ? 0 : 2,
    descriptorSize: text === undefined ? 0 : 20,
    numGTEsPerGT: perTable,
    rgdOffset: 0n,
    gdOffset: AT_END,
    overHead: 0,
    uncleanShutdown: 0,
    newLines: NEW_LINES,
    compressAlgorithm: stream ? 1 : 0,
    ...spec.fields,
  };
  // Sector 1 is no place for a grain: 1 stands for a zeroed one.
  put(new Uint8Array(2 * SECTOR));
  if (text !== undefined) put(Buffer.concat([Buffer.from(text), Buffer.alloc(20 * SECTOR - Buffer.byteLength(text))]));
  const lastLength = (n: number): number | undefined =>
    spec.shortEnd === true && n === grains.length - 1 ? (fields.capacity % (grainSize / SECTOR)) * SECTOR : undefined;
  const tables: number[] = [];
  for (let first = 0; first < grains.length; first += perTable) {
    const table = new Uint8Array(perTable * 4);
    for (const [i, grain] of grains.slice(first, first + perTable).entries()) {
      const lba = ((first + i) * grainSize) / SECTOR;
      const place =
        grain === null
          ? 0
          : grain === 'zero'
            ? 1
            : put(stream ? packed(grain.subarray(0, lastLength(first + i)), lba) : grain);
      viewOf(table).setUint32(i * 4, place, true);
    }
    marker(Math.ceil(table.length / SECTOR), 1);
    tables.push(grains.slice(first, first + perTable).some(grain => grain !== null) ? put(table) : 0);
  }
  marker(1, 2);
  const directory = new Uint8Array(tables.length * 4);
  for (const [i, table] of tables.entries()) viewOf(directory).setUint32(i * 4, table, true);
  const gdOffset = BigInt(put(directory));
  if (stream) {
    marker(1, 3);
    put(SparseHeader.build({ ...fields, gdOffset }));
    put(new Uint8Array(SECTOR));
  }
  const header = SparseHeader.build({ ...fields, gdOffset: spec.fields?.gdOffset ?? (stream ? AT_END : gdOffset) });
  parts[0]!.set(header);
  return new Uint8Array(Buffer.concat(parts));
}

const packed = (grain: Uint8Array, lba: number): Uint8Array => {
  const data = zlib.deflateSync(grain);
  return Buffer.concat([GrainMarker.build({ lba, size: data.length }), data]);
};

/** A redo log of ESX; its tables have 4,096 entries. */
export function cowd(grains: readonly (Uint8Array | null)[], grainSectors: number): Uint8Array {
  const tableAt = 5;
  const dataAt = tableAt + 32;
  const out = new Uint8Array((dataAt + grains.length * grainSectors) * SECTOR);
  const view = viewOf(out);
  out.set(
    CowdHeader.build({
      ...{
        magicNumber: 'COWD',
        version: 1,
        flags: 3,
        numSectors: grains.length * grainSectors,
        grainSize: grainSectors,
      },
      ...{ gdOffset: 4, numGDEntries: 1, freeSector: out.length / SECTOR },
    }),
  );
  view.setUint32(4 * SECTOR, tableAt, true);
  for (const [i, grain] of grains.entries()) {
    if (grain === null) continue;
    const sector = dataAt + i * grainSectors;
    view.setUint32(tableAt * SECTOR + i * 4, sector, true);
    out.set(grain, sector * SECTOR);
  }
  return out;
}

/** Grains of 4 KiB, their entries as given; data of grain n of the data area is `data[n]`. */
export function seSparse(
  entries: readonly bigint[],
  data: readonly Uint8Array[],
  fields: { readonly flags?: bigint; readonly replayJournal?: bigint; readonly directory?: bigint } = {},
): Uint8Array {
  const [volatileAt, directoryAt, tablesAt, grainsAt] = [1, 2, 3, 3 + 64];
  const out = new Uint8Array((grainsAt + data.length * 8) * SECTOR);
  out.set(
    SeSparseHeader.build({
      ...{ magicNumber: SESPARSE_MAGIC, version: SESPARSE_VERSION, capacity: entries.length * 8, grainSize: 8 },
      ...{ grainTableSize: 64, flags: fields.flags ?? 0n, reserved: [0n, 0n, 0n, 0n] },
      ...{ volatileHeaderOffset: volatileAt, volatileHeaderSize: 1, journalHeaderOffset: 2, journalHeaderSize: 0 },
      ...{ journalOffset: 2, journalSize: 0, grainDirOffset: directoryAt, grainDirSize: 1 },
      ...{ grainTablesOffset: tablesAt, grainTablesSize: 64, freeBitmapOffset: 0, freeBitmapSize: 0 },
      ...{ backmapOffset: 0, backmapSize: 0, grainsOffset: grainsAt, grainsSize: data.length * 8 },
    }),
  );
  const replayJournal = fields.replayJournal ?? 0n;
  out.set(
    SeSparseVolatile.build({ magicNumber: VOLATILE_MAGIC, freeGtNumber: 1n, nextTxnSeqNumber: 0n, replayJournal }),
    volatileAt * SECTOR,
  );
  const view = viewOf(out);
  view.setBigUint64(directoryAt * SECTOR, fields.directory ?? 0x1000_0000_0000_0000n, true);
  for (const [i, entry] of entries.entries()) view.setBigUint64(tablesAt * SECTOR + i * 8, entry, true);
  for (const [i, grain] of data.entries()) out.set(grain, (grainsAt + i * 8) * SECTOR);
  return out;
}

/** Entry of an allocated grain of seSparse. */
export const seSparseEntry = (grain: number): bigint =>
  (3n << 60n) | (BigInt(grain % 4096) << 48n) | BigInt(Math.floor(grain / 4096));
