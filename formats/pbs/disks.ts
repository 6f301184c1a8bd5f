/** The disks of one snapshot, from its manifest and its index files. */
import type { ByteSource, Bytes, LayerId, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { lazySource } from '../../src/base/lazy.ts';
import { deviceName, inBootOrder } from '../../src/base/proxmox.ts';
import { isPowerOfTwo } from '../../src/base/range.ts';
import { blobContent, readBlob } from './blob.ts';
import type { ChunkShelf } from './chunk.ts';
import { plainZeroDigest } from './keys.ts';
import {
  brokenLayer,
  DYNAMIC_CHUNK,
  DYNAMIC_ENTRY,
  dynamicLayer,
  endAt,
  fixedLayer,
  type IndexLayer,
} from './layer.ts';
import type { Manifest, ManifestFile } from './manifest.ts';
import { DIGEST, DynamicIndex, FixedIndex, hex, INDEX_HEADER } from './structs.ts';

const CHUNK_MIN = 4096;
export const CHUNK_MAX = 16 * 2 ** 20;
const CONFIG_MOST = 2 ** 20;

export interface SnapshotDisk {
  /** As in the machine's configuration: `scsi0`. */
  readonly name: string;
  readonly file: ManifestFile;
  readonly shelf: ChunkShelf;
  readonly size: Bytes;
  /** null when it cannot be used. */
  readonly index: IndexLayer | null;
  readonly layer: IndexLayer['layer'];
  readonly problem: ImageError | null;
  readonly source: ByteSource | null;
}

/** Fixed indexes hold images always; of dynamic ones those whose name says so, the others are file archives. */
const isImage = ({ filename }: ManifestFile): boolean => filename.endsWith('.fidx') || filename.endsWith('.img.didx');

export const imagesOf = (manifest: Manifest): readonly ManifestFile[] => manifest.files.filter(isImage);

const diskName = (filename: string): string => deviceName(filename.replace(/(\.img)?\.[fd]idx$/, ''));

interface Opened {
  readonly index: IndexLayer;
  readonly size: Bytes;
  readonly source: ByteSource;
}

function refuse(file: string, at: Bytes, field: string, message: string): never {
  throw new ImageError('corrupt', message, { file, at, field });
}

function checkTable(file: string, fileSize: Bytes, entries: number, entrySize: Bytes): void {
  if (INDEX_HEADER + entries * entrySize > fileSize) {
    refuse(file, INDEX_HEADER, 'digests', `an index of ${entries} chunks does not fit into ${fileSize} bytes`);
  }
}

async function openIndex(id: LayerId, name: string, entry: ManifestFile, shelf: ChunkShelf): Promise<Opened> {
  const { store } = shelf;
  await using source = await store.open(name);
  const fileSize = source.size;
  const head = new Uint8Array(INDEX_HEADER);
  await source.read(head, 0);
  const isFixed = name.endsWith('.fidx');
  const header = isFixed ? FixedIndex.parse(head, 0, name) : DynamicIndex.parse(head, 0, name);
  if (hex(header.checksum) !== entry.csum) {
    refuse(name, FixedIndex.offsetOf('checksum'), 'checksum', 'the index is not the one that the manifest lists');
  }
  const later = lazySource(store, name, fileSize);
  if (!isFixed) {
    const entries = Math.floor((fileSize - INDEX_HEADER) / DYNAMIC_ENTRY);
    if (entries === 0) return refuse(name, INDEX_HEADER, 'chunks', 'the index lists no chunks');
    const end = new Uint8Array(8);
    await source.read(end, INDEX_HEADER + (entries - 1) * DYNAMIC_ENTRY);
    const size = endAt(end, 0);
    if (size !== entry.size || size > entries * DYNAMIC_CHUNK) {
      refuse(name, fileSize - DYNAMIC_ENTRY, 'end', `the index ends at ${size}, the manifest says ${entry.size}`);
    }
    return { index: dynamicLayer(id, later, size, entries, shelf), size, source: later };
  }
  const { imageSize, chunkSize } = FixedIndex.parse(head, 0, name);
  if (!isPowerOfTwo(chunkSize) || chunkSize < CHUNK_MIN || chunkSize > CHUNK_MAX) {
    const where = { file: name, at: FixedIndex.offsetOf('chunkSize'), field: 'chunkSize' };
    throw new ImageError('unsupported', `chunks of ${chunkSize} bytes are not known`, where);
  }
  if (imageSize !== entry.size) {
    const message = `the index is of ${imageSize} bytes, the manifest says ${entry.size}`;
    refuse(name, FixedIndex.offsetOf('imageSize'), 'imageSize', message);
  }
  checkTable(name, fileSize, Math.ceil(imageSize / chunkSize), DIGEST);
  const zero = await (shelf.key?.zeroDigest(chunkSize) ?? plainZeroDigest(chunkSize));
  return { index: fixedLayer(id, later, imageSize, chunkSize, shelf, zero), size: imageSize, source: later };
}

/** One disk; what is wrong with its index becomes its `problem`, and the disk's answer to every read. */
export async function openDisk(
  id: LayerId,
  folder: string,
  entry: ManifestFile,
  shelf: ChunkShelf,
): Promise<SnapshotDisk> {
  const name = diskName(entry.filename);
  const file = `${folder}${entry.filename}`;
  try {
    const { index, size, source } = await openIndex(id, file, entry, shelf);
    return { name, file: entry, shelf, size, index, layer: index.layer, problem: null, source };
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    const problem =
      error.fault === 'not-found'
        ? new ImageError('corrupt', `${entry.filename} is missing`, { file }, { cause: error })
        : new ImageError(error.fault, error.message, { ...error.where, file }, { cause: error });
    return {
      name,
      file: entry,
      shelf,
      size: entry.size,
      index: null,
      layer: brokenLayer(id, entry.size, problem),
      problem,
      source: null,
    };
  }
}

async function configOf(store: Store, folder: string, manifest: Manifest, shelf: ChunkShelf): Promise<string> {
  const entry = manifest.files.find(({ filename }) => filename === 'qemu-server.conf.blob');
  if (entry === undefined) return '';
  try {
    const blob = await readBlob(store, `${folder}${entry.filename}`, CONFIG_MOST);
    return new TextDecoder().decode(await blobContent(blob, shelf.key, CONFIG_MOST, true));
  } catch (error) {
    // The order is a convenience: a snapshot can be read without its configuration.
    if (!(error instanceof ImageError)) throw error;
    return '';
  }
}

/** The images of the snapshot, the one that the machine boots from first. */
export async function orderedImages(
  store: Store,
  folder: string,
  manifest: Manifest,
  shelf: ChunkShelf,
): Promise<readonly ManifestFile[]> {
  const files = imagesOf(manifest);
  if (files.length < 2) return files;
  const config = await configOf(store, folder, manifest, shelf);
  return inBootOrder(files, ({ filename }) => diskName(filename), config);
}
