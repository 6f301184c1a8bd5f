/** One mapping of a QCOW2 image as a layer: the disk itself, or an internal snapshot of it. */
import type { ByteSource, Bytes, Layer, LayerId, Location } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { roundUp } from '../../src/base/range.ts';
import type { Qcow2Header } from './header.ts';
import { L2Tables, offsetOf } from './tables.ts';
import { decompress } from './unpack.ts';

/** What a cluster (or subcluster) is; 'bad' entries cannot be followed and fail when they are read. */
export type Kind = 'absent' | 'zero' | 'plain' | 'packed' | 'bad';

/** Entries that one answer looks at: long enough to merge, short enough to be asked again and again. */
const MOST_STEPS = 8192;
/** Bytes of tables that one `load` reads: small clusters have small tables, and one at a time would take forever. */
const LOAD_BYTES: Bytes = 262_144;

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
  readonly l1: Uint8Array;
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

export function mappedLayer(parts: LayerParts): Layer {
  const { id, header, source, data, size, cut } = parts;
  const { clusterSize } = header;
  const tables = new L2Tables(source, header, parts.l1);
  const entries = entriesOf(header);
  const { perPage, perTable } = tables;
  const partSize = clusterSize / entries.parts;
  const pagesAtOnce = LOAD_BYTES / (perPage * entries.entrySize);
  const layerSize = roundUp(size, 512);
  const strict = cut || data.size % 512 !== 0;

  /** Length of the run of `kind` that starts at `at`; stops at `limit`, and where a page is not resident. */
  function runFrom(at: Bytes, limit: Bytes, kind: Kind, host: Bytes): Bytes {
    const first = Math.floor(at / clusterSize);
    let reach = (Math.floor(at / partSize) + 1) * partSize;
    for (let steps = 0; reach - at < limit && steps < MOST_STEPS; steps++) {
      const cluster = Math.floor(reach / clusterSize);
      const table = Math.floor(cluster / perTable);
      if (tables.tableAt(table) === 0) {
        if (kind !== 'absent') break;
        reach = (table + 1) * perTable * clusterSize;
        continue;
      }
      const page = tables.page(cluster);
      if (page === null) break;
      const entry = cluster % perPage;
      if (entries.kind(page, entry, (reach % clusterSize) / partSize) !== kind) break;
      if (kind === 'plain' && entries.host(page, entry) !== host + (cluster - first) * clusterSize) break;
      reach += partSize;
    }
    return Math.min(limit, reach - at);
  }

  /**
   * A cluster that starts inside the file may reach past its end, in whole sectors: QEMU need not write trailing zeros.
   * One that starts beyond stays 'plain', and reading it reports that the file ends early.
   */
  function plain(at: Bytes, limit: Bytes, host: Bytes, run: Bytes): Location {
    const within = at % clusterSize;
    const fileAt = host + within;
    const left = data.size - fileAt;
    if (left >= run) return { kind: 'plain', source: data, at: fileAt, length: run };
    if (left > 0) return { kind: 'plain', source: data, at: fileAt, length: left };
    const length = Math.min(limit, clusterSize - within);
    return host < data.size && !strict ? { kind: 'zero', length } : { kind: 'plain', source: data, at: fileAt, length };
  }

  function locate(at: Bytes, limit: Bytes): Location | null {
    if (at >= size) return { kind: 'zero', length: limit };
    limit = Math.min(limit, size - at);
    const cluster = Math.floor(at / clusterSize);
    if (tables.tableAt(Math.floor(cluster / perTable)) === 0)
      return { kind: 'absent', length: runFrom(at, limit, 'absent', 0) };
    const page = tables.page(cluster);
    if (page === null) return null;
    const entry = cluster % perPage;
    const within = at % clusterSize;
    const kind = entries.kind(page, entry, Math.floor(within / partSize));
    if (kind === 'packed' || kind === 'bad')
      return { kind: 'packed', unit: cluster, within, length: Math.min(limit, clusterSize - within) };
    const host = kind === 'plain' ? entries.host(page, entry) : 0;
    const run = runFrom(at, limit, kind, host);
    return kind === 'plain' ? plain(at, limit, host, run) : { kind, length: run };
  }

  async function entryPage(cluster: number): Promise<DataView> {
    for (;;) {
      const page = tables.page(cluster);
      if (page !== null) return page;
      await tables.load(cluster);
    }
  }

  return {
    id,
    size: layerSize,
    blockSize: clusterSize,
    locate,
    async load(at, limit) {
      const end = Math.min(at + limit, size);
      const first = Math.floor(at / clusterSize / perPage);
      const last = Math.min(Math.floor((end - 1) / clusterSize / perPage), first + pagesAtOnce - 1);
      // The page that was asked for comes last: it is then the one that is dropped last.
      for (let index = last; index >= first; index--) {
        const cluster = index * perPage;
        if (tables.tableAt(Math.floor(cluster / perTable)) === 0) continue;
        const loading = tables.load(cluster);
        // A page read ahead that fails is reported to whoever asks for it.
        await (index === first ? loading : loading.catch(() => {}));
      }
    },
    async unpack(unit, into) {
      const where = { file: source.name, at: tables.tableAt(Math.floor(unit / perTable)), field: 'L2 entry' };
      if (where.at === 0) throw new ImageError('out-of-range', `cluster ${unit} is not packed`, where);
      const page = await entryPage(unit);
      const entry = unit % perPage;
      if (entries.kind(page, entry, 0) !== 'packed') throw badEntry(unit, where);
      const packed = entries.packed(page, entry);
      await unpackCluster(source, header, unit, packed, into);
      if ((unit + 1) * clusterSize > size) into.fill(0, size - unit * clusterSize);
    },
  };
}

const badEntry = (unit: number, where: { file: string; at: Bytes; field: string }): ImageError =>
  new ImageError('corrupt', `the L2 entry of cluster ${unit} makes no sense`, where);

/** Reads and decompresses one cluster into `into`; 'corrupt' when exactly one cluster does not come out. */
export async function unpackCluster(
  source: ByteSource,
  header: Qcow2Header,
  unit: number,
  { at, length }: { readonly at: Bytes; readonly length: Bytes },
  into: Uint8Array,
): Promise<void> {
  const where = { file: source.name, at };
  if (at >= source.size)
    throw new ImageError('corrupt', `packed cluster ${unit} at ${at} lies past the end of the file`, where);
  const packed = new Uint8Array(Math.min(length, source.size - at));
  await source.read(packed, at);
  try {
    into.set(await decompress(packed, header.compression, header.clusterSize));
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    const message = `packed cluster ${unit} does not decompress (${header.compression}: ${why})`;
    throw new ImageError('corrupt', message, where, { cause });
  }
}
