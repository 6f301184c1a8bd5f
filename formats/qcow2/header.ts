/** The QCOW2 header and its extensions (QEMU docs/interop/qcow2.txt, "Header" and "Header extensions"). */
import type { Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { bits64be, magic, struct, u8, u32be, u64be, viewOf } from '../../src/base/struct.ts';

/** The part that versions 2 and 3 share. */
const HeaderV2 = struct('QCOW2 header', 72, {
  magic: [0, magic('QFI\xfb')],
  version: [4, u32be],
  backingAt: [8, u64be],
  backingLength: [16, u32be],
  clusterBits: [20, u32be],
  size: [24, u64be],
  encryption: [32, u32be],
  l1Entries: [36, u32be],
  l1At: [40, u64be],
  refcountsAt: [48, u64be],
  refcountClusters: [56, u32be],
  snapshots: [60, u32be],
  snapshotsAt: [64, u64be],
});

/** Version 3 as it is written here; readers accept the shorter 104 bytes, without the compression type. */
export const HeaderV3 = struct('QCOW2 header', 112, {
  magic: [0, magic('QFI\xfb')],
  version: [4, u32be],
  backingAt: [8, u64be],
  backingLength: [16, u32be],
  clusterBits: [20, u32be],
  size: [24, u64be],
  encryption: [32, u32be],
  l1Entries: [36, u32be],
  l1At: [40, u64be],
  refcountsAt: [48, u64be],
  refcountClusters: [56, u32be],
  snapshots: [60, u32be],
  snapshotsAt: [64, u64be],
  incompatible: [72, bits64be],
  compatible: [80, bits64be],
  autoclear: [88, bits64be],
  refcountOrder: [96, u32be],
  headerLength: [100, u32be],
  compressionType: [104, u8],
});

export const INCOMPATIBLE = { dirty: 1n, corrupt: 2n, dataFile: 4n, compressionType: 8n, extendedL2: 16n } as const;
const AUTOCLEAR_BITMAPS = 1n;
export const AUTOCLEAR_RAW_DATA = 2n;
const KNOWN = 31n;

export const EXTENSION = {
  end: 0,
  backingFormat: 0xe2792aca,
  featureNames: 0x6803f857,
  bitmaps: 0x23852875,
  luks: 0x0537be77,
  dataFile: 0x44415441,
} as const;

const LuksPointer = struct('QCOW2 LUKS pointer', 16, { at: [0, u64be], length: [8, u64be] });

/** QEMU's own limits; a larger count is refused before anything is read or allocated for it. */
const MAX_L1_BYTES = 32 * 2 ** 20;
const MAX_REFCOUNT_TABLE_BYTES = 8 * 2 ** 20;
const MAX_SNAPSHOTS = 65536;

const LUKS = 2;

export type Compression = 'zlib' | 'zstd';

/** The header after every check that needs nothing but the header and the file's size. */
export interface Qcow2Header {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly clusterSize: Bytes;
  /** Guest size in bytes, as the file says it. */
  readonly size: Bytes;
  readonly l1Entries: number;
  readonly l1At: Bytes;
  readonly refcountsAt: Bytes;
  readonly refcountClusters: number;
  readonly refcountBits: number;
  readonly snapshots: number;
  readonly snapshotsAt: Bytes;
  readonly encryption: 'none' | 'AES' | 'LUKS';
  /** Where the header of LUKS lies; length 0: nowhere. */
  readonly luksAt: Bytes;
  readonly luksLength: Bytes;
  /** Data of the bitmaps extension; null: none, or a program that does not know bitmaps has changed the image since. */
  readonly bitmaps: Uint8Array | null;
  readonly dirty: boolean;
  readonly corrupt: boolean;
  readonly extendedL2: boolean;
  readonly dataFile: boolean;
  /** The external data file is a raw image: no table is needed to read it. */
  readonly rawData: boolean;
  readonly compression: Compression;
  /** Names of the backing and data files as they are written in the image. */
  readonly backingName: string | null;
  readonly backingFormat: string | null;
  readonly dataName: string | null;
  /** Feature that this reader does not know, if any: the guest's data cannot be trusted to mean what it seems. */
  readonly unsupported: ImageError | null;
}

export const isQcow2 = (head: Uint8Array): boolean => {
  if (head.length < 8) return false;
  const view = viewOf(head);
  return view.getUint32(0) === 0x514649fb && view.getUint32(4) !== 1;
};

/** L2 entries per table. */
export const entriesPerTable = (h: Pick<Qcow2Header, 'clusterSize' | 'extendedL2'>): number =>
  h.clusterSize / (h.extendedL2 ? 16 : 8);

/** L1 entries that a disk of `size` bytes needs. */
export const tablesFor = (h: Pick<Qcow2Header, 'clusterSize' | 'extendedL2'>, size: Bytes): number =>
  Math.ceil(size / h.clusterSize / entriesPerTable(h));

interface Extensions {
  backingFormat: string | null;
  dataName: string | null;
  luksAt: Bytes;
  luksLength: Bytes;
  bitmaps: Uint8Array | null;
  readonly incompatibleNames: Map<number, string>;
}

const UTF8 = new TextDecoder('utf-8', { fatal: true });

function text(bytes: Uint8Array, field: string, file: string, at: Bytes): string {
  try {
    return UTF8.decode(bytes);
  } catch (cause) {
    throw new ImageError('unsupported', `the ${field} is not UTF-8 text`, { file, at, field }, { cause });
  }
}

function parseExtensions(head: Uint8Array, start: number, end: number, file: string): Extensions {
  const out: Extensions = {
    backingFormat: null,
    dataName: null,
    luksAt: 0,
    luksLength: 0,
    bitmaps: null,
    incompatibleNames: new Map(),
  };
  const view = viewOf(head);
  for (let at = start; at + 8 <= end; ) {
    const type = view.getUint32(at);
    const length = view.getUint32(at + 4);
    if (type === EXTENSION.end) break;
    if (length > end - at - 8) {
      const name = `0x${type.toString(16)}`;
      throw new ImageError('corrupt', `header extension ${name} of ${length} bytes leaves the header`, { file, at });
    }
    const data = head.subarray(at + 8, at + 8 + length);
    if (type === EXTENSION.backingFormat) out.backingFormat = text(data, 'backing file format', file, at);
    else if (type === EXTENSION.dataFile) out.dataName = text(data, 'name of the data file', file, at);
    else if (type === EXTENSION.bitmaps) out.bitmaps = data;
    else if (type === EXTENSION.luks) {
      const pointer = LuksPointer.parse(data, 0, file);
      out.luksAt = pointer.at;
      out.luksLength = pointer.length;
    } else if (type === EXTENSION.featureNames) {
      for (let i = 0; i + 48 <= length; i += 48) {
        if (data[i] !== 0) continue;
        const name = Buffer.from(data.subarray(i + 2, i + 48)).toString('latin1');
        out.incompatibleNames.set(data[i + 1]!, name.replace(/\0.*$/s, '').replace(/[^\x20-\x7e]/g, '?'));
      }
    }
    at += 8 + Math.ceil(length / 8) * 8;
  }
  return out;
}

type Raw = ReturnType<typeof HeaderV3.parse>;

function parseRaw(head: Uint8Array, file: string): Raw {
  const v2 = HeaderV2.parse(head, 0, file);
  if (v2.version !== 2 && v2.version !== 3) {
    const message = `QCOW version ${v2.version} is not known; versions 2 and 3 are`;
    throw new ImageError('unsupported', message, { file, at: 4, field: 'version' });
  }
  if (v2.version === 2) {
    const none = { incompatible: 0n, compatible: 0n, autoclear: 0n, refcountOrder: 4, headerLength: 72 };
    return { ...v2, ...none, compressionType: 0 };
  }
  const raw = HeaderV3.parse(head, 0, file);
  return raw.headerLength > 104 ? raw : { ...raw, compressionType: 0 };
}

function checkTable(at: Bytes, length: Bytes, clusterSize: Bytes, fileSize: Bytes, file: string, field: string): void {
  if (at % clusterSize !== 0 || at + length > fileSize) {
    const why = at % clusterSize === 0 ? 'leaves the file' : 'is not at the start of a cluster';
    throw new ImageError('corrupt', `the ${field} at ${at} (${length} bytes) ${why}`, { file, at, field });
  }
}

function checkCounts(raw: Raw, clusterSize: Bytes, fileSize: Bytes, file: string): void {
  const refuse = (fault: 'unsupported' | 'corrupt', message: string, field: string, at: Bytes): never => {
    throw new ImageError(fault, message, { file, at, field });
  };
  if (raw.l1Entries * 8 > MAX_L1_BYTES)
    refuse('unsupported', `an L1 table of ${raw.l1Entries} entries is beyond 32 MiB`, 'L1 size', 36);
  const needed = tablesFor({ clusterSize, extendedL2: (raw.incompatible & INCOMPATIBLE.extendedL2) !== 0n }, raw.size);
  if (raw.l1Entries < needed)
    refuse('corrupt', `the disk needs ${needed} L1 entries, the header says ${raw.l1Entries}`, 'L1 size', 36);
  checkTable(raw.l1At, raw.l1Entries * 8, clusterSize, fileSize, file, 'L1 table');
  if (raw.refcountClusters * clusterSize > Math.max(MAX_REFCOUNT_TABLE_BYTES, clusterSize))
    refuse(
      'unsupported',
      `a refcount table of ${raw.refcountClusters} clusters is beyond 8 MiB`,
      'refcount clusters',
      56,
    );
  if (raw.refcountOrder > 6)
    refuse('unsupported', `refcounts of 2^${raw.refcountOrder} bits are not known`, 'refcount order', 96);
  if (raw.snapshots > MAX_SNAPSHOTS)
    refuse('unsupported', `${raw.snapshots} snapshots are beyond ${MAX_SNAPSHOTS}`, 'snapshots', 60);
  if (raw.snapshots > 0) checkTable(raw.snapshotsAt, raw.snapshots * 40, 8, fileSize, file, 'snapshot table');
}

function unsupportedFeature(raw: Raw, names: Map<number, string>, file: string): ImageError | null {
  const refuse = (message: string, field: string, at: Bytes): ImageError =>
    new ImageError('unsupported', message, { file, at, field });
  for (let bit = 0; bit < 64; bit++) {
    if (((raw.incompatible & ~KNOWN) >> BigInt(bit)) & 1n) {
      const name = names.get(bit);
      const what = name ? `"${name}" (bit ${bit})` : `bit ${bit}`;
      return refuse(`the image uses the unknown incompatible feature ${what}`, 'incompatible features', 72);
    }
  }
  if (raw.encryption !== 0 && raw.encryption !== LUKS) {
    const name = raw.encryption === 1 ? 'AES in its old form' : `method ${raw.encryption}`;
    return refuse(`the image is encrypted with ${name}, which is not read`, 'encryption', 32);
  }
  if (raw.compressionType > 1)
    return refuse(`compression type ${raw.compressionType} is not known`, 'compression type', 104);
  return null;
}

/** Everything that must hold before any field is used; gives the cluster size. */
function checkHeader(raw: Raw, head: Uint8Array, fileSize: Bytes, file: string): Bytes {
  const { version, clusterBits } = raw;
  if (clusterBits < 9 || clusterBits > 21) {
    const message = `clusters of 2^${clusterBits} bytes are outside 512 bytes to 2 MiB`;
    throw new ImageError('unsupported', message, { file, at: 20, field: 'cluster bits' });
  }
  const clusterSize = 2 ** clusterBits;
  const end = Math.min(head.length, clusterSize);
  const least = version === 2 ? 72 : 104;
  if (raw.headerLength < least || raw.headerLength > end) {
    const message = `a header of ${raw.headerLength} bytes is not possible`;
    throw new ImageError('corrupt', message, { file, at: 100, field: 'header length' });
  }
  checkCounts(raw, clusterSize, fileSize, file);
  const extendedL2 = (raw.incompatible & INCOMPATIBLE.extendedL2) !== 0n;
  if (extendedL2 && clusterBits < 14)
    throw new ImageError('corrupt', 'extended L2 entries need clusters of 16 KiB', { file, at: 20 });
  if (
    raw.backingAt !== 0 &&
    raw.backingLength !== 0 &&
    (raw.backingLength > 1023 || raw.backingAt + raw.backingLength > end)
  ) {
    const message = `a backing file name of ${raw.backingLength} bytes at ${raw.backingAt} leaves the header`;
    throw new ImageError('corrupt', message, { file, at: 8, field: 'backing file' });
  }
  return clusterSize;
}

/**
 * Reads the header from `head`, the file's first cluster (or all of a shorter file).
 * Throws 'not-this-format' for another magic, 'unsupported' for a version or size that is not known, 'corrupt' for what
 * contradicts itself; a feature that is not known is left in `unsupported`.
 */
export function parseHeader(head: Uint8Array, fileSize: Bytes, file: string): Qcow2Header {
  if (!isQcow2(head)) throw new ImageError('not-this-format', 'not a QCOW2 image', { file, at: 0 });
  const raw = parseRaw(head, file);
  const clusterSize = checkHeader(raw, head, fileSize, file);
  const { version, clusterBits } = raw;
  const end = Math.min(head.length, clusterSize);
  const hasBacking = raw.backingAt !== 0 && raw.backingLength !== 0;
  const extensions = parseExtensions(head, raw.headerLength, hasBacking ? raw.backingAt : end, file);
  const extendedL2 = (raw.incompatible & INCOMPATIBLE.extendedL2) !== 0n;
  const dataFile = (raw.incompatible & INCOMPATIBLE.dataFile) !== 0n;
  return {
    version: version as 2 | 3,
    clusterBits,
    clusterSize,
    size: raw.size,
    l1Entries: raw.l1Entries,
    l1At: raw.l1At,
    refcountsAt: raw.refcountsAt,
    refcountClusters: raw.refcountClusters,
    refcountBits: 2 ** raw.refcountOrder,
    snapshots: raw.snapshots,
    snapshotsAt: raw.snapshotsAt,
    encryption: raw.encryption === 0 ? 'none' : raw.encryption === LUKS ? 'LUKS' : 'AES',
    luksAt: extensions.luksAt,
    luksLength: extensions.luksLength,
    bitmaps: (raw.autoclear & AUTOCLEAR_BITMAPS) === 0n ? null : extensions.bitmaps,
    dirty: (raw.incompatible & INCOMPATIBLE.dirty) !== 0n,
    corrupt: (raw.incompatible & INCOMPATIBLE.corrupt) !== 0n,
    extendedL2,
    dataFile,
    rawData: dataFile && (raw.autoclear & AUTOCLEAR_RAW_DATA) !== 0n,
    compression: raw.compressionType === 1 ? 'zstd' : 'zlib',
    backingName: hasBacking
      ? text(head.subarray(raw.backingAt, raw.backingAt + raw.backingLength), 'backing file name', file, raw.backingAt)
      : null,
    backingFormat: extensions.backingFormat,
    dataName: extensions.dataName,
    unsupported: unsupportedFeature(raw, extensions.incompatibleNames, file),
  };
}
