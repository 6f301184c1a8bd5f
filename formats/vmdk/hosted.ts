/** Sparse extents of hosted products ("KDMV"), plain and stream-optimized. */
import { ABSENT, BAD, ZERO } from '../../src/base/block-layer.ts';
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { isPowerOfTwo } from '../../src/base/range.ts';
import { AT_END, DEFLATE, FLAG, NEW_LINES, refusal, SECTOR, type SparseFields, SparseHeader } from './structs.ts';
import type { GrainTables } from './tables.ts';

/** 16 MiB; the usual grain is 64 KiB. */
export const MOST_GRAIN_SECTORS = 32_768;
const MOST_ENTRIES = 65_536;
/** A sector number beyond this is no safe offset. */
const MOST_SECTORS = Number.MAX_SAFE_INTEGER / SECTOR;

export interface HostedExtent {
  readonly fields: SparseFields;
  /** Offset of the header that counts: the one at the end where there is one. */
  readonly headerAt: Bytes;
  readonly size: Bytes;
  /** The embedded descriptor; null when there is none. */
  readonly descriptor: { readonly at: Bytes; readonly length: Bytes } | null;
  readonly warnings: readonly string[];
}

function checkFields(fields: SparseFields, file: string, at: Bytes): void {
  const refuse = refusal(SparseHeader, file, at);
  const { version, flags, newLines, compressAlgorithm } = fields;
  if (version < 1 || version > 3)
    refuse('unsupported', 'version', `version ${version} of a sparse extent is not known`);
  const unknown = flags - Object.values(FLAG).reduce((sum, flag) => sum + (Math.floor(flags / flag) % 2) * flag, 0);
  if (unknown !== 0) refuse('unsupported', 'flags', `flags 0x${unknown.toString(16)} are not known`);
  if (has(flags, FLAG.newLineTest) && Buffer.compare(newLines, NEW_LINES) !== 0) {
    refuse('corrupt', 'newLines', 'the file was changed by a transfer in text mode');
  }
  if (compressAlgorithm > DEFLATE)
    refuse('unsupported', 'compressAlgorithm', `compression ${compressAlgorithm} is not known`);
  const compressed = compressAlgorithm === DEFLATE;
  if (compressed !== has(flags, FLAG.compressed) || (compressed && !has(flags, FLAG.markers))) {
    refuse('unsupported', 'flags', 'compressed grains without their flag, or without markers, are not known');
  }
}

function checkNumbers(fields: SparseFields, file: string, at: Bytes): void {
  const refuse = refusal(SparseHeader, file, at);
  const { capacity, grainSize, numGTEsPerGT } = fields;
  if (capacity === 0 || capacity > MOST_SECTORS)
    refuse('corrupt', 'capacity', `an extent of ${capacity} sectors cannot be`);
  if (!isPowerOfTwo(grainSize) || grainSize > MOST_GRAIN_SECTORS) {
    refuse('unsupported', 'grainSize', `a grain of ${grainSize} sectors is not known`);
  }
  if (numGTEsPerGT === 0 || numGTEsPerGT > MOST_ENTRIES) {
    refuse('unsupported', 'numGTEsPerGT', `grain tables of ${numGTEsPerGT} entries are not known`);
  }
}

const has = (flags: number, flag: number): boolean => Math.floor(flags / flag) % 2 === 1;

const headerFrom = async (source: ByteSource, at: Bytes): Promise<SparseFields> => {
  const raw = new Uint8Array(SECTOR);
  await source.read(raw, at);
  return SparseHeader.parse(raw, 0, source.name);
};

/** Reads and checks the header, and the one at the end. */
export async function openHosted(source: ByteSource): Promise<HostedExtent> {
  const first = await headerFrom(source, 0);
  checkFields(first, source.name, 0);
  checkNumbers(first, source.name, 0);
  const warnings: string[] = [];
  const refuse = refusal(SparseHeader, source.name, 0);
  let descriptor: HostedExtent['descriptor'] = null;
  if (first.descriptorOffset !== 0) {
    const at = first.descriptorOffset * SECTOR;
    const length = first.descriptorSize * SECTOR;
    if (length === 0 || at + length > source.size)
      refuse('corrupt', 'descriptorOffset', 'the descriptor lies outside the file');
    descriptor = { at, length };
  }
  let fields = first;
  let headerAt = 0;
  if (first.gdOffset === AT_END) {
    headerAt = source.size - 2 * SECTOR;
    if (headerAt < SECTOR) refuse('corrupt', 'gdOffset', 'the file ends before its tables: it was cut off');
    fields = await footerFrom(source, headerAt, first);
  }
  if (fields.uncleanShutdown !== 0) warnings.push('the disk was not closed cleanly by whatever wrote it last');
  return { fields, headerAt, size: first.capacity * SECTOR, descriptor, warnings };
}

/** The footer repeats the header and tells the directory's place. */
async function footerFrom(source: ByteSource, at: Bytes, first: SparseFields): Promise<SparseFields> {
  let footer: SparseFields;
  try {
    footer = await headerFrom(source, at);
  } catch {
    return refusal(SparseHeader, source.name, 0)(
      'corrupt',
      'gdOffset',
      'no footer at the end of the file: it was cut off',
    );
  }
  checkFields(footer, source.name, at);
  const refuse = refusal(SparseHeader, source.name, at);
  for (const field of ['capacity', 'grainSize', 'numGTEsPerGT', 'compressAlgorithm'] as const) {
    if (footer[field] !== first[field]) refuse('corrupt', field, `${field} differs between header and footer`);
  }
  if (footer.gdOffset === AT_END) refuse('corrupt', 'gdOffset', 'the footer does not tell where the tables are');
  return footer;
}

/** 'corrupt' when the directory does not fit into the file. `size`: the share of the disk that is wanted. */
export function hostedTables(source: ByteSource, extent: HostedExtent, size: Bytes): GrainTables {
  const { fields, headerAt } = extent;
  const refuse = refusal(SparseHeader, source.name, headerAt);
  const grain = fields.grainSize * SECTOR;
  const entries = Math.ceil(size / (grain * fields.numGTEsPerGT));
  const gdOffset = Number(fields.gdOffset);
  const directoryAt = gdOffset * SECTOR;
  if (gdOffset === 0 || directoryAt + entries * 4 > source.size) {
    refuse(
      'corrupt',
      'gdOffset',
      `a grain directory of ${entries} entries at ${directoryAt} does not fit into the file`,
    );
  }
  const zeroed = has(fields.flags, FLAG.zeroedGrain);
  return {
    source,
    size,
    grain,
    directoryAt,
    entrySize: 4,
    perTable: fields.numGTEsPerGT,
    table(view, at) {
      const sector = view.getUint32(at, true);
      return sector === 0 ? ABSENT : sector * SECTOR;
    },
    place(view, at) {
      const sector = view.getUint32(at, true);
      if (sector === 0) return ABSENT;
      if (sector === 1) return zeroed ? ZERO : BAD;
      return sector * SECTOR;
    },
    packed: fields.compressAlgorithm === DEFLATE,
  };
}
