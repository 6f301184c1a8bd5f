/** VHD directories for tests, as vhd-lib of xen-orchestra writes them. */
import { brotliCompressSync, gzipSync } from 'node:zlib';
import { viewOf } from '../../src/base/struct.ts';
import {
  buildFooter,
  buildHeader,
  DISK_TYPE,
  DynamicHeader,
  FORMAT_VERSION,
  geometryFor,
  headerSum,
} from '../../src/base/vhd.ts';

export interface DirectorySpec {
  /** One byte, repeated. */
  readonly uuid: number;
  readonly parent?: { readonly uuid: number; readonly name: string };
  readonly size: number;
  readonly blockSize: number;
  /** Content of the blocks that are there; of a sector whose bit is not set, the parent's is shown. */
  readonly blocks: ReadonlyMap<number, { readonly data: Uint8Array; readonly bits?: (sector: number) => boolean }>;
  readonly filter?: 'none' | 'gzip' | 'brotli' | null;
}

export type Files = Record<string, Uint8Array>;

function footerOf({ uuid, parent, size }: DirectorySpec): Uint8Array {
  return buildFooter({
    features: 2,
    fileFormatVersion: FORMAT_VERSION,
    dataOffset: 512n,
    timeStamp: 1000,
    creatorApplication: Buffer.from('xo  '),
    creatorVersion: 0,
    creatorHostOs: 0,
    originalSize: size,
    currentSize: size,
    diskGeometry: geometryFor(size / 512),
    diskType: parent === undefined ? DISK_TYPE.dynamic : DISK_TYPE.differencing,
    uniqueId: new Uint8Array(16).fill(uuid),
    savedState: 0,
  });
}

function headerOf({ parent, size, blockSize }: DirectorySpec): Uint8Array {
  const raw = buildHeader(1536, Math.ceil(size / blockSize), blockSize);
  if (parent === undefined) return raw;
  const view = viewOf(raw);
  raw.fill(parent.uuid, DynamicHeader.offsetOf('parentUniqueId'), DynamicHeader.offsetOf('parentTimeStamp'));
  raw.set(Buffer.from(parent.name, 'utf16le').swap16(), DynamicHeader.offsetOf('parentUnicodeName'));
  raw.set(Buffer.from('W2ku'), DynamicHeader.offsetOf('parentLocators'));
  view.setUint32(DynamicHeader.offsetOf('parentLocators') + 8, parent.name.length * 2);
  view.setUint32(DynamicHeader.offsetOf('checksum'), headerSum(raw));
  return raw;
}

/** The directory `name`, and `alias` beside it when that is given: `[name of the alias, its content]`. */
export function directoryFiles(name: string, spec: DirectorySpec, alias?: readonly [string, string]): Files {
  const { blockSize, blocks, filter = null, parent } = spec;
  const pack = filter === 'gzip' ? gzipSync : filter === 'brotli' ? brotliCompressSync : (raw: Uint8Array) => raw;
  const files: Files = {};
  const put = (member: string, raw: Uint8Array): void => {
    files[`${name}/${member}`] = pack(raw);
  };
  const table = new Uint8Array(Math.ceil(spec.size / blockSize));
  for (const [block, { data, bits = () => true }] of blocks) {
    table[Math.floor(block / 8)]! |= 0x80 >> (block % 8);
    const bitmap = new Uint8Array(Math.ceil(blockSize / 512 / 8 / 512) * 512);
    for (let i = 0; i < blockSize / 512; i++) if (bits(i)) bitmap[Math.floor(i / 8)]! |= 0x80 >> (i % 8);
    put(`blocks/${Math.floor(block / 1000)}/${block % 1000}`, Buffer.concat([bitmap, data]));
  }
  put('footer', footerOf(spec));
  put('header', headerOf(spec));
  put('bat', table);
  if (parent !== undefined) put('parentLocatorEntry0', Buffer.from(parent.name, 'utf16le'));
  if (filter !== null) files[`${name}/chunk-filters.json`] = Buffer.from(JSON.stringify([filter]));
  if (alias !== undefined) files[alias[0]] = Buffer.from(alias[1]);
  return files;
}
