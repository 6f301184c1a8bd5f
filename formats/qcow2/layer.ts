/** One mapping of a QCOW2 image as a layer: the disk itself, or an internal snapshot of it. */
import type { ByteSource, Bytes, Layer, LayerId, Location } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { roundUp } from '../../src/base/range.ts';
import { Rooms } from '../../src/base/rooms.ts';
import type { Qcow2Header } from './header.ts';
import { L2Tables, offsetOf, type TopTable } from './tables.ts';
import { decompress } from './unpack.ts';

/** What a cluster (or subcluster) is; 'bad' entries cannot be followed and fail when they are read. */
export type Kind = 'absent' | 'zero' | 'plain' | 'packed' | 'bad';

/** Entries that one answer looks at: long enough to merge, short enough to be asked again and again. */
const MOST_STEPS = 8192;
/** Bytes of tables that one `load` reads: small clusters have small tables, and one at a time would take forever. */
const LOAD_BYTES: Bytes = 262_144;

/** For packed clusters. */
const ROOMS = new Rooms();

/** Decodes L2 entries (docs/interop/qcow2.txt, "L2 table entry" and "Extended L2 Entries"). */
export interface Entries {
  readonly entrySize: 8 | 16;
  /** Parts of a cluster that have a kind of their own: 32 with extended entries. */
  readonly parts: 1 | 32;
  kind(page: DataView, entry: number, part: number): Kind;
  /** File offset of a plain cluster. */
  host(page: DataView, entry: number): Bytes;
  /** Where a packed cluster lies: at least one sector, the last one may reach past the file's end. */
  packed(page: DataView, entry: number): { readonly at: Bytes; readonly length: Bytes };
}

export function entriesOf(header: Qcow2Header): Entries {
  const { clusterSize, clusterBits, extendedL2, dataFile, version } = header;
  const entrySize = extendedL2 ? 16 : 8;
  /** A packed entry's offset ends inside its high word: bits 0 to x - 1, x = 62 - (cluster_bits - 8). */
  const offsetBits = 62 - (clusterBits - 8) - 32;
  const offsetUnit = 2 ** offsetBits;
  return {
    entrySize,
    parts: extendedL2 ? 32 : 1,
    kind(page, entry, part) {
      const high = page.getUint32(entry * entrySize);
      const low = page.getUint32(entry * entrySize + 4);
      if ((high & 0x4000_0000) !== 0) return dataFile ? 'bad' : 'packed';
      const host = offsetOf(high, low);
      const there = host !== 0 || (dataFile && (high & 0x8000_0000) !== 0);
      if (there && host % clusterSize !== 0) return 'bad';
      if (extendedL2) {
        const bit = 2 ** part;
        const zero = (page.getUint32(entry * 16 + 8) & bit) !== 0;
        const data = (page.getUint32(entry * 16 + 12) & bit) !== 0;
        if (data) return zero || !there ? 'bad' : 'plain';
        return zero ? 'zero' : 'absent';
      }
      if ((low & 1) !== 0) return version === 2 ? 'bad' : 'zero';
      return there ? 'plain' : 'absent';
    },
    host: (page, entry) => offsetOf(page.getUint32(entry * entrySize), page.getUint32(entry * entrySize + 4)),
    packed(page, entry) {
      const high = page.getUint32(entry * entrySize) & 0x3fff_ffff;
      const at = (high % offsetUnit) * 0x1_0000_0000 + page.getUint32(entry * entrySize + 4);
      const sectors = Math.floor(high / offsetUnit) + 1;
      return { at, length: sectors * 512 - (at % 512) };
    },
  };
}

export interface LayerParts {
  readonly id: LayerId;
  readonly header: Qcow2Header;
  readonly source: ByteSource;
  /** Where guest clusters lie: the image itself, or its external data file. */
  readonly data: ByteSource;
  readonly top: TopTable;
  /** Guest size in bytes. */
  readonly size: Bytes;
  /** The file is known to be cut: a cluster that reaches past its end is then an error, not zeros. */
  readonly cut: boolean;
}

/** The external data file is the disk, byte for byte. */
export function rawDataLayer({ id, header, data, size }: LayerParts): Layer {
  const layerSize = roundUp(size, 512);
  return {
    id,
    size: layerSize,
    blockSize: header.clusterSize,
    locate: (at, limit) =>
      at < size
        ? { kind: 'plain', source: data, at, length: Math.min(limit, size - at) }
        : { kind: 'zero', length: limit },
    async load() {},
    async unpack() {
      throw new ImageError('out-of-range', 'nothing is packed in a raw data file', { file: data.name });
    },
  };
}

/** Guest clusters found through the L1 and L2 tables. */
class Mapping implements Layer {
  readonly id: LayerId;
  readonly size: Bytes;
  readonly blockSize: Bytes;
  readonly #parts: LayerParts;
  readonly #tables: L2Tables;
  readonly #entries: Entries;
  readonly #partSize: Bytes;
  readonly #pagesAtOnce: number;
  /** What lies past the end of the file is an error throughout. */
  readonly #strict: boolean;

  constructor(parts: LayerParts) {
    this.id = parts.id;
    this.size = roundUp(parts.size, 512);
    this.blockSize = parts.header.clusterSize;
    this.#parts = parts;
    this.#tables = new L2Tables(parts.source, parts.header, parts.top);
    this.#entries = entriesOf(parts.header);
    this.#partSize = this.blockSize / this.#entries.parts;
    this.#pagesAtOnce = LOAD_BYTES / (this.#tables.perPage * this.#entries.entrySize);
    this.#strict = parts.cut || parts.data.size % 512 !== 0;
  }

  locate(at: Bytes, limit: Bytes): Location | null {
    const { size } = this.#parts;
    if (at >= size) return { kind: 'zero', length: limit };
    limit = Math.min(limit, size - at);
    const cluster = Math.floor(at / this.blockSize);
    const table = this.#tableOf(cluster);
    if (table === 0) return { kind: 'absent', length: this.#runFrom(at, limit, 'absent', 0, null) };
    const page = table === null ? null : this.#tables.page(cluster);
    if (page === null) return null;
    const entry = cluster % this.#tables.perPage;
    const within = at % this.blockSize;
    const kind = this.#entries.kind(page, entry, Math.floor(within / this.#partSize));
    if (kind === 'packed' || kind === 'bad')
      return { kind: 'packed', unit: cluster, within, length: Math.min(limit, this.blockSize - within) };
    const host = kind === 'plain' ? this.#entries.host(page, entry) : 0;
    const run = this.#runFrom(at, limit, kind, host, page);
    return kind === 'plain' ? this.#plain(at, limit, host, run) : { kind, length: run };
  }

  async load(at: Bytes, limit: Bytes): Promise<void> {
    const perPage = this.#tables.perPage;
    const end = Math.min(at + limit, this.#parts.size);
    const first = Math.floor(at / this.blockSize / perPage);
    const last = Math.min(Math.floor((end - 1) / this.blockSize / perPage), first + this.#pagesAtOnce - 1);
    // The page that was asked for comes last: it is then the one that is dropped last.
    for (let index = last; index >= first; index--) {
      const loading = this.#tables.load(index * perPage);
      // A page read ahead that fails is reported to whoever asks for it.
      await (index === first ? loading : loading.catch(() => {}));
    }
  }

  async unpack(unit: number, into: Uint8Array): Promise<void> {
    const { source, header, size } = this.#parts;
    const where = (): object => ({ file: source.name, at: this.#tableOf(unit) ?? 0, field: 'L2 entry' });
    let page = this.#tables.page(unit);
    while (page === null) {
      await this.#tables.load(unit);
      if (this.#tableOf(unit) === 0) throw new ImageError('out-of-range', `cluster ${unit} is not packed`, where());
      page = this.#tables.page(unit);
    }
    const entry = unit % this.#tables.perPage;
    if (this.#entries.kind(page, entry, 0) !== 'packed')
      throw new ImageError('corrupt', `the L2 entry of cluster ${unit} makes no sense`, where());
    await unpackCluster(source, header, unit, this.#entries.packed(page, entry), into);
    const end = size - unit * this.blockSize;
    if (end < this.blockSize) into.fill(0, end);
  }

  #tableOf(cluster: number): Bytes | null {
    return this.#tables.tableAt(Math.floor(cluster / this.#tables.perTable));
  }

  /**
   * Length of the run of `kind` that starts at `at`; stops at `limit`, and where a page is not resident. `page`: the one that
   * holds the entry of `at`, null where there is no table.
   */
  #runFrom(at: Bytes, limit: Bytes, kind: Kind, host: Bytes, page: DataView | null): Bytes {
    const { perPage, perTable } = this.#tables;
    const entries = this.#entries;
    const lastOfTable = (cluster: number): number => (Math.floor(cluster / perTable) + 1) * perTable - 1;
    let cluster = Math.floor(at / this.blockSize);
    let part = Math.floor((at % this.blockSize) / this.#partSize);
    if (page === null) {
      cluster = lastOfTable(cluster);
      part = entries.parts - 1;
    }
    let entry = cluster % perPage;
    let expected = host;
    let reach = cluster * this.blockSize + (part + 1) * this.#partSize;
    for (let steps = 0; reach - at < limit && steps < MOST_STEPS; steps++) {
      if (++part === entries.parts) {
        part = 0;
        cluster++;
        expected += this.blockSize;
        if (++entry === perPage) {
          entry = 0;
          const table = this.#tableOf(cluster);
          if (table === 0) {
            if (kind !== 'absent') break;
            cluster = lastOfTable(cluster);
            part = entries.parts - 1;
            entry = perPage - 1;
            reach = (cluster + 1) * this.blockSize;
            continue;
          }
          page = table === null ? null : this.#tables.page(cluster);
        }
      }
      if (page === null || entries.kind(page, entry, part) !== kind) break;
      if (kind === 'plain' && entries.host(page, entry) !== expected) break;
      reach += this.#partSize;
    }
    return Math.min(limit, reach - at);
  }

  /**
   * A cluster that starts inside the file may reach past its end, in whole sectors: QEMU need not write trailing zeros.
   * One that starts beyond stays 'plain', and reading it reports that the file ends early.
   */
  #plain(at: Bytes, limit: Bytes, host: Bytes, run: Bytes): Location {
    const { data } = this.#parts;
    const within = at % this.blockSize;
    const fileAt = host + within;
    const left = data.size - fileAt;
    if (left > 0) return { kind: 'plain', source: data, at: fileAt, length: Math.min(left, run) };
    const length = Math.min(limit, this.blockSize - within);
    if (host < data.size && !this.#strict) return { kind: 'zero', length };
    return { kind: 'plain', source: data, at: fileAt, length };
  }
}

export function mappedLayer(parts: LayerParts): Layer {
  const mapping = new Mapping(parts);
  return {
    id: mapping.id,
    size: mapping.size,
    blockSize: mapping.blockSize,
    locate: (at, limit) => mapping.locate(at, limit),
    load: (at, limit) => mapping.load(at, limit),
    unpack: (unit, into) => mapping.unpack(unit, into),
  };
}

/** Reads and decompresses one cluster into `into`; 'corrupt' when exactly one cluster does not come out. */
async function unpackCluster(
  source: ByteSource,
  header: Qcow2Header,
  unit: number,
  { at, length }: { readonly at: Bytes; readonly length: Bytes },
  into: Uint8Array,
): Promise<void> {
  const where = { file: source.name, at };
  if (at >= source.size)
    throw new ImageError('corrupt', `packed cluster ${unit} at ${at} lies past the end of the file`, where);
  const room = ROOMS.take(length);
  const packed = room.subarray(0, Math.min(length, source.size - at));
  await source.read(packed, at);
  try {
    await decompress(packed, header.compression, into.subarray(0, header.clusterSize));
    ROOMS.give(room);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    const message = `packed cluster ${unit} does not decompress (${header.compression}: ${why})`;
    throw new ImageError('corrupt', message, where, { cause });
  }
}
