/** Files of a VHD directory, as xen-orchestra, packages/vhd-lib, VhdDirectory, writes them. */
import { promisify } from 'node:util';
import { brotliDecompress, gunzip } from 'node:zlib';
import type { ByteSource, Bytes, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';

type Unpack = (packed: Uint8Array, options: object) => Promise<Buffer>;
const FILTERS: ReadonlyMap<string, Unpack> = new Map([
  ['gzip', promisify<Uint8Array, object, Buffer>(gunzip)],
  ['brotli', promisify<Uint8Array, object, Buffer>(brotliDecompress)],
]);
const LONGEST_FILTERS = 1024;

export interface Directory {
  /** Its name in the store. */
  readonly name: string;
  /** Whether the files can be read in parts. */
  readonly plain: boolean;
  fileName(member: string): string;
  /** The content of a member, which has to have `length` bytes, or at least `least`. Else, and when it is missing: 'corrupt'. */
  read(member: string, length: Bytes, least?: Bytes): Promise<Uint8Array>;
  /** Fills `into` from offset `at` of a member of `whole` bytes; the whole is read where it is compressed. */
  readPart(member: string, into: Uint8Array, at: Bytes, whole: Bytes): Promise<void>;
}

async function openMember(store: Store, file: string): Promise<ByteSource> {
  try {
    return await store.open(file);
  } catch (cause) {
    if (!(cause instanceof ImageError) || cause.fault !== 'not-found') throw cause;
    throw new ImageError('corrupt', `${file} is missing`, { file }, { cause });
  }
}

/** Names of the filters that every other file went through; none when there is no list. */
async function filtersOf(store: Store, file: string): Promise<readonly unknown[]> {
  let source: ByteSource;
  try {
    source = await store.open(file);
  } catch (error) {
    if (error instanceof ImageError && error.fault === 'not-found') return [];
    throw error;
  }
  await using list = source;
  const bad = (cause?: unknown): ImageError =>
    new ImageError('corrupt', 'the list of filters cannot be read', { file, at: 0 }, { cause });
  if (list.size > LONGEST_FILTERS) throw bad();
  const raw = new Uint8Array(list.size);
  await list.read(raw, 0);
  try {
    const filters: unknown = JSON.parse(new TextDecoder().decode(raw));
    if (Array.isArray(filters)) return filters as readonly unknown[];
  } catch (cause) {
    throw bad(cause);
  }
  throw bad();
}

export async function openDirectory(store: Store, name: string): Promise<Directory> {
  const fileName = (member: string): string => `${name}/${member}`;
  const list = fileName('chunk-filters.json');
  const filters = await filtersOf(store, list);
  const filter = filters[0] ?? 'none';
  const unpack = typeof filter === 'string' ? FILTERS.get(filter) : undefined;
  if (filters.length > 1 || (filter !== 'none' && unpack === undefined)) {
    throw new ImageError('unsupported', `the filters ${JSON.stringify(filters)} are not known`, { file: list, at: 0 });
  }
  const unpacked = async (file: string, raw: Uint8Array, length: Bytes): Promise<Uint8Array> => {
    try {
      return await unpack!(raw, { maxOutputLength: length });
    } catch (cause) {
      throw new ImageError('corrupt', `${file} cannot be unpacked`, { file, at: 0 }, { cause });
    }
  };
  const read = async (member: string, length: Bytes, least = length): Promise<Uint8Array> => {
    const file = fileName(member);
    const wrong = (size: Bytes): ImageError =>
      new ImageError('corrupt', `${file} has ${size} bytes and should have ${length}`, { file, at: 0 });
    await using source = await openMember(store, file);
    // Compression never makes much more of it.
    if (source.size > (unpack === undefined ? length : length * 2 + 1024)) throw wrong(source.size);
    const raw = new Uint8Array(source.size);
    await source.read(raw, 0);
    const content = unpack === undefined ? raw : await unpacked(file, raw, length);
    if (content.length < least) throw wrong(content.length);
    return content;
  };
  return {
    name,
    plain: unpack === undefined,
    fileName,
    read,
    async readPart(member, into, at, whole) {
      if (unpack !== undefined) {
        into.set((await read(member, whole)).subarray(at, at + into.length));
        return;
      }
      const file = fileName(member);
      await using source = await openMember(store, file);
      if (source.size !== whole) {
        throw new ImageError('corrupt', `${file} has ${source.size} bytes and should have ${whole}`, { file, at: 0 });
      }
      await source.read(into, at);
    },
  };
}
