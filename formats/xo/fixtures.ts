/** VHD directories for tests, as vhd-lib of xen-orchestra writes them. */
import { brotliCompressSync, gzipSync } from 'node:zlib';
import { viewOf } from '../../src/base/struct.ts';
import { DIFFERENCING, DYNAMIC, Footer, Header } from './structs.ts';

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

export function withSum<T extends Uint8Array>(raw: T, at: number): T {
  viewOf(raw).setUint32(at, 0);
  const sum = raw.reduce((total, byte) => total + byte, 0);
  viewOf(raw).setUint32(at, 0xffff_ffff - sum);
  return raw;
}

function footerOf({ uuid, parent, size }: DirectorySpec): Uint8Array {
  const diskType = parent === undefined ? DYNAMIC : DIFFERENCING;
  const times = { features: 2, fileFormatVersion: 0x10000, timeStamp: 1000 };
  const uniqueId = new Uint8Array(16).fill(uuid);
  const fields = { cookie: 'conectix', ...times, currentSize: size, diskType, checksum: 0, uniqueId } as const;
  return withSum(Footer.build(fields), 64);
}

function headerOf({ parent, size, blockSize }: DirectorySpec): Uint8Array {
  const name = new Uint8Array(512);
  name.set(Buffer.from(parent?.name ?? '', 'utf16le').swap16());
  const none = { platformCode: new Uint8Array(4), platformDataLength: 0 };
  const locator = { platformCode: Buffer.from('W2ku'), platformDataLength: (parent?.name.length ?? 0) * 2 };
  const parentLocators = Array.from({ length: 8 }, (_, i) => (i === 0 && parent !== undefined ? locator : none));
  const fields = {
    cookie: 'cxsparse',
    headerVersion: 0x10000,
    maxTableEntries: Math.ceil(size / blockSize),
    blockSize,
    checksum: 0,
    parentUniqueId: new Uint8Array(16).fill(parent?.uuid ?? 0),
    parentUnicodeName: name,
    parentLocators,
  } as const;
  return withSum(Header.build(fields), 36);
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
