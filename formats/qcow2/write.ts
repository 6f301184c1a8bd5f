/** Writing a QCOW2 file: only clusters with data are stored, one after another. */
import { promisify } from 'node:util';
import { deflateRaw, zstdCompress } from 'node:zlib';
import type { ByteFile, Bytes, Disk } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { filledRuns, roundDown, roundUp } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import { type Compression, INCOMPATIBLE, tablesFor } from './header.ts';
import { clusterBitsFor, plainHeader, putEntry } from './layout.ts';
import { HostSpace } from './space.ts';

const deflate = promisify<Uint8Array, object, Buffer>(deflateRaw);
const zstd = promisify<Uint8Array, Buffer>(zstdCompress);

/** QEMU's window for reading compressed clusters is 4 KiB. */
const WINDOW_BITS = 12;
/** L2 tables that stay in memory while a disk is written in any order. */
const TABLE_BYTES: Bytes = 16 * 2 ** 20;
/** Read from the disk at a time. */
const CHUNK: Bytes = 2 ** 21;

export interface Qcow2Writer {
  readonly clusterSize: Bytes;
  /** Length of the file so far. */
  readonly stored: Bytes;
  /**
   * Stores the clusters from `cluster` on, in any order but each only once ('usage' otherwise). `data` is a whole number
   * of clusters, at most 2 MiB or one cluster; behind the disk's end it is zeros. It may be reused afterwards.
   */
  put(cluster: number, data: Uint8Array): Promise<void>;
  /** Writes tables, refcounts and, after everything else is durable, the header. Before that the file is no image. */
  finish(): Promise<void>;
}

/** L2 tables by number; those not used lately rest in the file. */
function tableStore(file: ByteFile, space: HostSpace, clusterSize: Bytes, count: number) {
  const l1 = new Uint8Array(count * 8);
  const l1View = viewOf(l1);
  const places = new Float64Array(count);
  const resident = new Map<number, Uint8Array>();
  const most = Math.max(2, TABLE_BYTES / clusterSize);
  return {
    l1,
    async table(index: number): Promise<DataView> {
      let bytes = resident.get(index);
      if (bytes === undefined) {
        bytes = new Uint8Array(clusterSize);
        if (places[index] !== 0) await file.read(bytes, places[index]!);
        else {
          places[index] = await space.take(1);
          putEntry(l1View, index * 8, places[index]!);
        }
        if (resident.size >= most) {
          const [oldest, table] = resident.entries().next().value!;
          await file.write(table, places[oldest]!);
          resident.delete(oldest);
        }
      } else resident.delete(index);
      resident.set(index, bytes);
      return viewOf(bytes);
    },
    async flush(): Promise<void> {
      for (const [index, bytes] of resident) await file.write(bytes, places[index]!);
    },
  };
}

function checkPut(cluster: number, length: Bytes, clusterSize: Bytes, blocks: number, file: string): void {
  const count = length / clusterSize;
  if (!Number.isInteger(count) || length > Math.max(CHUNK, clusterSize) || cluster + count > blocks)
    throw new ImageError('out-of-range', `${length} bytes at cluster ${cluster} are not clusters of the disk`, {
      file,
    });
}

class Writer implements Qcow2Writer {
  readonly clusterSize: Bytes;
  readonly #file: ByteFile;
  readonly #size: Bytes;
  readonly #compression: Compression | null;
  readonly #clusterBits: number;
  readonly #l1Entries: number;
  readonly #space: HostSpace;
  readonly #tables: ReturnType<typeof tableStore>;
  #headerTaken = false;

  constructor(file: ByteFile, size: Bytes, compression: Compression | null) {
    this.#file = file;
    this.#size = roundUp(size, 512);
    this.#compression = compression;
    this.#clusterBits = clusterBitsFor(this.#size);
    this.clusterSize = 2 ** this.#clusterBits;
    this.#l1Entries = tablesFor({ clusterSize: this.clusterSize, extendedL2: false }, this.#size);
    this.#space = new HostSpace(file, this.clusterSize);
    this.#tables = tableStore(file, this.#space, this.clusterSize, this.#l1Entries);
  }

  get stored(): Bytes {
    return this.#space.end;
  }

  async put(cluster: number, data: Uint8Array): Promise<void> {
    const { clusterSize } = this;
    await this.#takeHeader();
    checkPut(cluster, data.length, clusterSize, Math.ceil(this.#size / clusterSize), this.#file.name);
    if (this.#compression === null) return this.#putPlain(cluster, data);
    for (let i = 0; i * clusterSize < data.length; i++) {
      const part = data.subarray(i * clusterSize, (i + 1) * clusterSize);
      const packed = await pack(part, this.#compression);
      if (packed.length < clusterSize) await this.#putPacked(cluster + i, packed);
      else await this.#putPlain(cluster + i, part);
    }
  }

  async finish(): Promise<void> {
    await this.#takeHeader();
    await this.#tables.flush();
    const l1At = await this.#space.take(Math.ceil((this.#l1Entries * 8) / this.clusterSize));
    await this.#file.write(this.#tables.l1, l1At);
    const refcounts = await this.#space.finish();
    await this.#file.truncate(this.#space.end);
    await this.#file.sync();
    const isZstd = this.#compression === 'zstd';
    const header = plainHeader({
      clusterBits: this.#clusterBits,
      size: this.#size,
      l1Entries: this.#l1Entries,
      l1At,
      ...refcounts,
      incompatible: isZstd ? INCOMPATIBLE.compressionType : 0n,
      compressionType: isZstd ? 1 : 0,
    });
    await this.#file.write(header, 0);
    await this.#file.sync();
  }

  /** The first cluster is the header's. */
  async #takeHeader(): Promise<void> {
    if (this.#headerTaken) return;
    this.#headerTaken = true;
    await this.#space.take(1);
  }

  /** Where the L2 entry of `cluster` goes. */
  async #entry(cluster: number): Promise<{ view: DataView; at: number }> {
    const perTable = this.clusterSize / 8;
    const view = await this.#tables.table(Math.floor(cluster / perTable));
    const at = (cluster % perTable) * 8;
    if (view.getUint32(at) !== 0 || view.getUint32(at + 4) !== 0)
      throw new ImageError('usage', `cluster ${cluster} was put before`, { file: this.#file.name });
    return { view, at };
  }

  async #putPacked(cluster: number, packed: Uint8Array): Promise<void> {
    const { view, at } = await this.#entry(cluster);
    const offset = await this.#space.takePacked(packed.length);
    await this.#file.write(packed, offset);
    const sectors = Math.floor((offset + packed.length - 1) / 512) - Math.floor(offset / 512);
    const unit = 2 ** (62 - (this.#clusterBits - 8) - 32);
    view.setUint32(at, 0x4000_0000 + sectors * unit + Math.floor(offset / 0x1_0000_0000));
    view.setUint32(at + 4, offset % 0x1_0000_0000);
  }

  async #putPlain(cluster: number, data: Uint8Array): Promise<void> {
    const count = data.length / this.clusterSize;
    // Tables take their clusters first, so that the data stays in one piece.
    for (let i = 0; i < count; i++) await this.#entry(cluster + i);
    const offset = await this.#space.take(count);
    await this.#file.write(data, offset);
    for (let i = 0; i < count; i++) {
      const { view, at } = await this.#entry(cluster + i);
      putEntry(view, at, offset + i * this.clusterSize);
    }
  }
}

const pack = (data: Uint8Array, compression: Compression): Promise<Uint8Array> =>
  compression === 'zstd' ? zstd(data) : deflate(data, { windowBits: WINDOW_BITS });

/**
 * A writer over the empty file `file`, for a disk of `size` bytes. With `compression` a cluster is stored packed when that
 * is shorter. One call at a time.
 */
export const createQcow2 = (
  file: ByteFile,
  size: Bytes,
  options: { readonly compression?: Compression | null } = {},
): Qcow2Writer => new Writer(file, size, options.compression ?? null);

/**
 * Writes all of `disk` into the empty file `file`, without its zeros. `onProgress` gets guest bytes. When it fails or
 * `signal` aborts it, the file is no image and should be removed.
 */
export async function writeQcow2(
  disk: Disk,
  file: ByteFile,
  onProgress?: (bytesDone: Bytes, bytesTotal: Bytes) => void,
  signal?: AbortSignal,
  options: { readonly compression?: Compression | null } = {},
): Promise<void> {
  const writer = createQcow2(file, disk.size, options);
  const { clusterSize } = writer;
  const buffer = new Uint8Array(Math.max(CHUNK, clusterSize));
  for (let at = 0; at < disk.size; ) {
    signal?.throwIfAborted();
    const extent = disk.extent(at, disk.size - at);
    if (extent === null) {
      await disk.load(at, disk.size - at);
      continue;
    }
    const end = at + extent.length;
    const skipTo = end >= disk.size ? disk.size : roundDown(end, clusterSize);
    if (extent.kind === 'zero' && skipTo > at) at = skipTo;
    else {
      const length = Math.min(
        buffer.length,
        disk.size - at,
        Math.max(clusterSize, roundUp(extent.length, clusterSize)),
      );
      await disk.read(buffer.subarray(0, length), at);
      const padded = roundUp(length, clusterSize);
      buffer.fill(0, length, padded);
      await putRuns(writer, at / clusterSize, buffer.subarray(0, padded));
      at += length;
    }
    onProgress?.(at, disk.size);
  }
  signal?.throwIfAborted();
  await writer.finish();
}

/** Puts what is not zero, neighbours together. */
async function putRuns(writer: Qcow2Writer, first: number, data: Uint8Array): Promise<void> {
  const { clusterSize } = writer;
  for (const [from, to] of filledRuns(data, clusterSize))
    await writer.put(first + from / clusterSize, data.subarray(from, to));
}
