/** One Parallels image file: a header, a table with one u32 per cluster, and clusters. */
import { ABSENT, BAD, type Blocks, blockLayer, ZERO } from '../../src/base/block-layer.ts';
import type { ByteSource, Bytes, Layer, LayerId } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { pages } from '../../src/base/pages.ts';
import { viewOf } from '../../src/base/struct.ts';
import {
  FLAG_EMPTY,
  HEADER_SIZE,
  Header,
  type HeaderFields,
  IN_USE,
  SECTOR,
  sizeOf,
  type TableUnit,
  tableUnitOf,
  VERSION,
} from './structs.ts';

/** Part of the table that is read at once: 4096 entries, 4 GiB of disk in clusters of 1 MiB. */
const PAGE = 16_384;
const PAGES = 64;
const PER_PAGE = PAGE / 4;
/** Clusters are 1 MiB as a rule, and a track of 63 sectors in old images. */
const LARGEST_CLUSTER = 2 ** 28;

export interface OpenedFile {
  readonly layer: Layer;
  readonly stored: Bytes;
  /** Metadata that stands for the content in an image's identity. */
  readonly witness: readonly Uint8Array[];
  readonly warnings: readonly string[];
}

function checkHeader(header: HeaderFields, size: Bytes, source: ByteSource): void {
  const refuse = (fault: 'unsupported' | 'corrupt', message: string, field: keyof HeaderFields): never => {
    throw new ImageError(fault, message, { file: source.name, at: Header.offsetOf(field), field });
  };
  const { version, clusterSectors, tableEntries, flags } = header;
  if (version !== VERSION) refuse('unsupported', `Parallels version ${version} is not known`, 'version');
  if (flags > FLAG_EMPTY) refuse('unsupported', `Parallels flags 0x${flags.toString(16)} are not known`, 'flags');
  if (clusterSectors === 0 || clusterSectors * SECTOR > LARGEST_CLUSTER) {
    refuse('unsupported', `clusters of ${clusterSectors} sectors are not known`, 'clusterSectors');
  }
  if (size === 0 || !Number.isSafeInteger(size)) refuse('corrupt', `a disk of ${size} bytes cannot be`, 'sectors');
  if (HEADER_SIZE + tableEntries * 4 > source.size) {
    refuse('corrupt', `a table of ${tableEntries} clusters does not fit into the file`, 'tableEntries');
  }
  if (tableEntries * clusterSectors * SECTOR < size) {
    const message = `${tableEntries} clusters of ${clusterSectors} sectors are too few for ${size} bytes`;
    refuse('corrupt', message, 'tableEntries');
  }
}

interface ClusterTable {
  readonly size: Bytes;
  readonly clusterSize: Bytes;
  readonly entries: number;
  /** What an entry counts. */
  readonly unit: Bytes;
  /** A cluster without a place belongs to the image below. */
  readonly hasParent: boolean;
}

function clusterLayer(id: LayerId, source: ByteSource, spec: ClusterTable): Layer {
  const { size, clusterSize, unit } = spec;
  const table = pages(source, PAGES);
  const tableEnd = HEADER_SIZE + spec.entries * 4;
  const free = spec.hasParent ? ABSENT : ZERO;
  const pageOf = (cluster: number): Bytes => HEADER_SIZE + Math.floor(cluster / PER_PAGE) * PAGE;
  const placeOf = (cluster: number): number | null => {
    const page = table.resident(pageOf(cluster));
    return page === null ? null : viewOf(page).getUint32((cluster % PER_PAGE) * 4, true);
  };
  const blocks: Blocks = {
    at(cluster) {
      const place = placeOf(cluster);
      if (place === null) return null;
      if (place === 0) return free;
      const at = place * unit;
      // The disk may end inside its last cluster.
      const end = at + Math.min(clusterSize, size - cluster * clusterSize);
      return at < tableEnd || end > source.size ? BAD : at;
    },
    async load(cluster) {
      const page = pageOf(cluster);
      await table.load(page, Math.min(PAGE, tableEnd - page));
    },
    fault(cluster) {
      const at = placeOf(cluster)! * unit;
      const where = at < tableEnd ? "in the file's metadata" : 'beyond the end of the file';
      const message = `cluster ${cluster} of the disk lies ${where}, at ${at}`;
      return new ImageError('corrupt', message, { file: source.name, at: HEADER_SIZE + cluster * 4, field: 'table' });
    },
  };
  return blockLayer({ id, source, size, blockSize: clusterSize, blocks });
}

/** Opens an expanding image. The source stays the caller's. 'not-this-format' when it is none. */
export async function openExpanding(id: LayerId, source: ByteSource, hasParent: boolean): Promise<OpenedFile> {
  const raw = new Uint8Array(Math.min(HEADER_SIZE, source.size));
  await source.read(raw, 0);
  const kind: TableUnit | null = tableUnitOf(raw);
  if (kind === null) throw new ImageError('not-this-format', 'not a Parallels image', { file: source.name, at: 0 });
  const header = Header.parse(raw, 0, source.name);
  const size = sizeOf(header, kind);
  checkHeader(header, size, source);
  const clusterSize = header.clusterSectors * SECTOR;
  const entries = Math.ceil(size / clusterSize);
  const tableStart = new Uint8Array(Math.min(entries * 4, 4096));
  await source.read(tableStart, HEADER_SIZE);
  const unit = kind === 'sectors' ? SECTOR : clusterSize;
  return {
    layer: clusterLayer(id, source, { size, clusterSize, entries, unit, hasParent }),
    stored: Math.max(0, Math.min(entries * clusterSize, source.size - HEADER_SIZE - entries * 4)),
    witness: [raw, tableStart],
    warnings: header.inUse === IN_USE ? [`${source.name}: not closed cleanly by the program that wrote it`] : [],
  };
}

/** Opens a fixed image inside a bundle: the bytes of the disk. */
export async function openPlain(id: LayerId, source: ByteSource): Promise<OpenedFile> {
  const ends = [0, Math.max(0, source.size - 4096)].map(at => ({
    at,
    part: new Uint8Array(Math.min(4096, source.size)),
  }));
  for (const { at, part } of ends) await source.read(part, at);
  const size = source.size - (source.size % SECTOR);
  return {
    layer: {
      id,
      size,
      blockSize: 65_536,
      locate(at, limit) {
        const { kind, length } = source.extent?.(at, limit) ?? { kind: 'data', length: limit };
        return kind === 'zero' ? { kind, length } : { kind: 'plain', source, at, length };
      },
      async load() {},
      unpack: () => Promise.reject(new ImageError('out-of-range', 'nothing is packed here', { file: source.name })),
    },
    stored: size,
    witness: ends.map(({ part }) => part),
    warnings: [],
  };
}
