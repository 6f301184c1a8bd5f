/**
 * The JSON document of an image file, as far as reading needs it: `schema/required_schema.json` of
 * github.com/macrium/mrimgx_file_layout, with the defaults of its reference code. The rest (paths of the backed-up
 * machine, mail addresses) is never looked at.
 */
import type { Bytes, PointType } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import type { Encryption } from './keys.ts';

export interface PartitionDescription {
  readonly number: number;
  readonly blockSize: Bytes;
  readonly blockCount: number;
  /** Bytes on the disk. */
  readonly start: Bytes;
  /** 0: not said. */
  readonly length: Bytes;
  /** Where block 0 lies on the disk. */
  readonly blocksAt: Bytes;
  /** Reserved sectors of a FAT volume: where they lie on the disk, and how many bytes of them count. */
  readonly reservedAt: Bytes;
  readonly reservedLength: Bytes;
  /** `NTFS`, `FAT32`, … */
  readonly fileSystem: string;
}

export interface DiskDescription {
  readonly number: number;
  readonly format: string;
  readonly sectorSize: 512 | 4096;
  readonly size: Bytes;
  readonly partitions: readonly PartitionDescription[];
}

export interface Description {
  /** 16 hexadecimal digits, the same in every file of a set. */
  readonly imageId: string;
  readonly fileNumber: number;
  readonly incrementNumber: number;
  /** Only the blocks that changed are indexed; the others are those of the files before. */
  readonly delta: boolean;
  /** Numbers of files that were merged into this one. */
  readonly merged: readonly number[];
  /** Data of a split backup, without an index. */
  readonly split: boolean;
  readonly indexAt: Bytes;
  readonly type: PointType;
  readonly time: Date | null;
  readonly machine: string | null;
  readonly version: number;
  readonly compressed: boolean;
  readonly encryption: Encryption | null;
  readonly disks: readonly DiskDescription[];
  /** Files of the set up to this one, by number, with the names that they had. */
  readonly history: ReadonlyMap<number, string>;
}

const MOST_DISKS = 256;
const MOST_PARTITIONS = 1024;
const MOST_FILES = 65_536;
const MOST_ITERATIONS = 10_000_000;
const MAX_BLOCK = 16_777_216;
const TYPES: ReadonlyMap<string, PointType> = new Map([
  ['full', 'full'],
  ['inc', 'incremental'],
  ['diff', 'differential'],
]);
const AES: ReadonlyMap<string, Encryption['bits']> = new Map([
  ['aes-128', 128],
  ['aes-192', 192],
  ['aes-256', 256],
]);

/** A value of the document with its path, so that a fault can name it. */
interface Json {
  readonly value: unknown;
  readonly path: string;
  refuse(fault: 'corrupt' | 'unsupported', why: string): never;
  get(name: string): Json;
  number(fallback?: number): number;
  text(fallback?: string): string;
  flag(fallback: boolean): boolean;
  list(most: number): readonly Json[];
}

function json(value: unknown, path: string, file: string, at: number): Json {
  const refuse = (fault: 'corrupt' | 'unsupported', why: string): never => {
    throw new ImageError(fault, `description: ${path} ${why}`, { file, at, field: path });
  };
  const inside = (name: string): unknown =>
    typeof value === 'object' && value !== null && Object.hasOwn(value, name)
      ? (value as Record<string, unknown>)[name]
      : undefined;
  return {
    value,
    path,
    refuse,
    get: name => json(inside(name), path === '' ? name : `${path}.${name}`, file, at),
    number(fallback) {
      const got = value ?? fallback;
      return Number.isSafeInteger(got) && (got as number) >= 0
        ? (got as number)
        : refuse('corrupt', got === undefined ? 'is missing' : 'is not a whole number from 0 on');
    },
    text(fallback) {
      const got = value ?? fallback;
      return typeof got === 'string' ? got : refuse('corrupt', got === undefined ? 'is missing' : 'is not a text');
    },
    flag(fallback) {
      const got = value ?? fallback;
      return typeof got === 'boolean' ? got : refuse('corrupt', 'is neither true nor false');
    },
    list(most) {
      if (value === undefined || value === null) return [];
      if (!Array.isArray(value)) return refuse('corrupt', 'is not a list');
      if (value.length > most) return refuse('corrupt', `has ${value.length} entries; at most ${most} are read`);
      return value.map((entry, i) => json(entry, `${path}[${i}]`, file, at));
    },
  };
}

/**
 * Where block 0 lies on the disk. Both offsets of a volume count from the start of the disk it was on; in a backup of
 * files and folders, whose volume is on no disk, `start` means nothing.
 */
function blocksAtOf(fs: Json, start: Bytes, ofFiles: boolean): Bytes {
  const lcn0 = fs.get('lcn0_offset');
  const at = ofFiles ? lcn0.number(0) : start + lcn0.number(0) - fs.get('start').number(0);
  return at >= 0 ? at : lcn0.refuse('corrupt', 'lies before the disk');
}

function partitionOf(node: Json, ofFiles: boolean): PartitionDescription {
  const header = node.get('_header');
  const geometry = node.get('_geometry');
  const fs = node.get('_file_system');
  const blockSize = header.get('block_size').number();
  if (blockSize < 512 || blockSize > MAX_BLOCK || blockSize % 512 !== 0)
    header.get('block_size').refuse('unsupported', `of ${blockSize} bytes is not known`);
  const start = geometry.get('start').number();
  if (start % 512 !== 0) geometry.get('start').refuse('corrupt', 'is not the start of a sector');
  const partition = {
    number: header.get('partition_number').number(),
    blockSize,
    blockCount: header.get('block_count').number(0),
    start,
    length: geometry.get('length').number(0),
    blocksAt: blocksAtOf(fs, start, ofFiles),
    reservedAt: start + geometry.get('boot_sector_offset').number(0),
    reservedLength: fs.get('reserved_sectors_byte_length').number(0),
    fileSystem: fs.get('type').text('unknown'),
  };
  const { blocksAt, blockCount, reservedAt, reservedLength, length } = partition;
  const end = Math.max(blocksAt + blockCount * blockSize, reservedAt + reservedLength, start + length);
  if (!Number.isSafeInteger(end)) geometry.refuse('corrupt', 'reaches beyond what a disk can hold');
  return partition;
}

function diskOf(node: Json, ofFiles: boolean): DiskDescription {
  const geometry = node.get('_geometry');
  const sector = geometry.get('bytes_per_sector');
  const sectorSize = sector.number(512);
  if (sectorSize !== 512 && sectorSize !== 4096) sector.refuse('unsupported', `of ${sectorSize} is not known`);
  return {
    number: node.get('_header').get('disk_number').number(),
    format: node.get('_header').get('disk_format').text('mbr'),
    sectorSize: sectorSize as 512 | 4096,
    size: geometry.get('disk_size').number(0),
    partitions: node
      .get('partitions')
      .list(MOST_PARTITIONS)
      .map(partition => partitionOf(partition, ofFiles)),
  };
}

function encryptionOf(node: Json): Encryption | null {
  const aes = node.get('aes_type');
  const type = aes.text('none');
  if (type === 'none') {
    if (node.get('enable').flag(false)) aes.refuse('corrupt', 'is missing although the backup is encrypted');
    return null;
  }
  const bits = AES.get(type);
  if (bits === undefined) return aes.refuse('unsupported', `is ${JSON.stringify(type)}, which is not known`);
  const derivation = node.get('key_derivation');
  if (derivation.text('pbkdf2') !== 'pbkdf2') derivation.refuse('unsupported', 'is not known');
  const count = node.get('key_iterations');
  const iterations = count.number();
  if (iterations < 1 || iterations > MOST_ITERATIONS) count.refuse('unsupported', `cannot be ${iterations}`);
  const hmac = node.get('hmac');
  if (!/^[0-9a-f]{64}$/i.test(hmac.text())) hmac.refuse('corrupt', 'is not 64 hexadecimal digits');
  return { bits, iterations, check: Buffer.from(hmac.text(), 'hex') };
}

function isCompressed(node: Json): boolean {
  const level = node.get('compression_level');
  const text = level.text('medium');
  if (text === 'none') return false;
  if (text !== 'medium' && text !== 'high') level.refuse('unsupported', `${JSON.stringify(text)} is not known`);
  const method = node.get('compression_method');
  if (method.text('zstd') !== 'zstd') method.refuse('unsupported', `${JSON.stringify(method.value)} is not known`);
  return true;
}

/** The last part of a path of any system. */
const baseName = (file: string): string => file.slice(Math.max(file.lastIndexOf('/'), file.lastIndexOf('\\')) + 1);

function historyOf(disks: Json): ReadonlyMap<number, string> {
  const files = new Map<number, string>();
  for (const disk of disks.list(MOST_DISKS)) {
    for (const partition of disk.get('partitions').list(MOST_PARTITIONS)) {
      for (const entry of partition.get('_header').get('file_history').list(MOST_FILES))
        files.set(entry.get('file_number').number(), baseName(entry.get('file_name').text('')));
    }
  }
  return files;
}

/** `file` and `at` say where the document stands, for messages. Faults: 'corrupt', 'unsupported'. */
export function parseDescription(text: string, file: string, at: number): Description {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // The parser's own words quote the document, which holds addresses.
    throw new ImageError('corrupt', 'the description is not valid JSON', { file, at, field: '$JSON' });
  }
  const root = json(value, '', file, at);
  const header = root.get('_header');
  const id = header.get('imageid');
  const imageId = id.text().toUpperCase();
  if (!/^[0-9A-F]{16}$/.test(imageId)) id.refuse('corrupt', 'is not 16 hexadecimal digits');
  const kind = header.get('backup_type');
  const type = TYPES.get(kind.text('full'));
  if (type === undefined) return kind.refuse('unsupported', 'is not known');
  const ofFiles = header.get('backup_format').text('partition') === 'file_and_folder';
  const seconds = header.get('backup_time').number(0);
  return {
    imageId,
    fileNumber: header.get('file_number').number(),
    incrementNumber: header.get('increment_number').number(0),
    delta: header.get('delta_index').flag(true),
    merged: header
      .get('merged_files')
      .list(MOST_FILES)
      .map(entry => entry.number()),
    split: header.get('split_file').flag(false),
    indexAt: header.get('index_file_position').number(),
    type,
    time: seconds > 0 && seconds <= 8.64e12 ? new Date(seconds * 1000) : null,
    machine: header.get('netbios_name').text('') || null,
    version: header.get('json_version').number(1),
    compressed: isCompressed(root.get('_compression')),
    encryption: encryptionOf(root.get('_encryption')),
    disks: root
      .get('disks')
      .list(MOST_DISKS)
      .map(disk => diskOf(disk, ofFiles)),
    history: historyOf(root.get('disks')),
  };
}
