/** Devices of an archive: plain pieces of 4 KiB where their bit is set, zeros where it is not. */
import type { ByteSource, Bytes, Layer, LayerId, Location } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import type { ArchiveDevice, ArchiveHeader } from './header.ts';
import { type ArchiveIndex, extentOf, indexPass } from './pass.ts';
import { type ClusterRuns, type Run, ZEROS } from './runs.ts';
import { CLUSTER, EXTENT_HEADER, entryAt, PIECE, PIECES, popcount } from './structs.ts';

/** Extent headers that stay in memory: of 4 GiB of data. */
const MOST_HEADERS = 1024;

/** The archive behind its devices: opened and indexed when the first of them is read. */
export interface Archive extends AsyncDisposable {
  readonly name: string;
  /** null while the archive is not indexed yet. */
  now(): ArchiveIndex | null;
  /** Whether the first `load` unpacks the archive. */
  readonly packed: boolean;
  /** Where the pieces are. Only after `load`. */
  source(): ByteSource;
  /** Indexes the archive; concurrent calls share one pass. */
  load(): Promise<ArchiveIndex>;
  /** The header of an extent, when it is in memory. */
  extent(number: number): DataView | null;
  loadExtent(number: number): Promise<void>;
}

/** `file` is the archive's file, and closed with it; `open` gives what is in a compressed one. */
export function openArchive(
  file: ByteSource,
  header: ArchiveHeader,
  open: (() => Promise<ByteSource>) | null = null,
): Archive {
  const { name } = file;
  let source: ByteSource | null = null;
  let index: ArchiveIndex | null = null;
  let loading: Promise<ArchiveIndex> | null = null;
  const headers = new Map<number, DataView>();
  const coming = new Map<number, Promise<void>>();

  const load = async (): Promise<ArchiveIndex> => {
    source ??= open === null ? file : await open();
    index = await indexPass(source, header);
    return index;
  };
  const readExtent = async (number: number): Promise<void> => {
    const at = index!.extents.get(number);
    const raw = new Uint8Array(EXTENT_HEADER);
    await source!.read(raw, at);
    const extent = extentOf(raw, header.uuid);
    if (extent === null) throw new ImageError('corrupt', 'the extent header is not what it was', { file: name, at });
    headers.set(number, extent.view);
    if (headers.size > MOST_HEADERS) headers.delete(headers.keys().next().value!);
  };
  return {
    name,
    packed: open !== null,
    now: () => index,
    source: () => source!,
    load() {
      if (index !== null) return Promise.resolve(index);
      loading ??= load().finally(() => {
        loading = null;
      });
      return loading;
    },
    extent: number => headers.get(number) ?? null,
    loadExtent(number) {
      if (headers.has(number)) return Promise.resolve();
      const shared = coming.get(number) ?? readExtent(number).finally(() => coming.delete(number));
      coming.set(number, shared);
      return shared;
    },
    async [Symbol.asyncDispose]() {
      await loading?.catch(() => null);
      if (source !== file) await source?.[Symbol.asyncDispose]();
      await file[Symbol.asyncDispose]();
    },
  };
}

/** Stands in for clusters that the archive does not hold: they are data, and reading them is an error. */
function missingSource(archive: Archive, { name, size }: ArchiveDevice): ByteSource {
  return {
    name: archive.name,
    size,
    read(_into, at) {
      const cluster = Math.floor(at / CLUSTER);
      const why = archive.now()?.faults[0]?.message;
      const message = `cluster ${cluster} of ${name} is not in the archive${why === undefined ? '' : `: ${why}`}`;
      throw new ImageError('corrupt', message, { file: archive.name });
    },
    async [Symbol.asyncDispose]() {},
  };
}

const maskAt = (view: DataView, slot: number): number => view.getUint16(entryAt(slot));

/** Pieces of an extent before the given piece of the given slot. */
function piecesBefore(view: DataView, slot: number, piece: number): number {
  let pieces = popcount(maskAt(view, slot) & ((1 << piece) - 1));
  for (let before = 0; before < slot; before++) {
    if (view.getUint8(entryAt(before) + 3) !== 0) pieces += popcount(maskAt(view, before));
  }
  return pieces;
}

/** Pieces from the given one on that are all there, or all zeros, at most `most`, within `slots` slots. */
function sameFor(view: DataView, slot: number, piece: number, slots: number, most: number): number {
  const bit = (maskAt(view, slot) >> piece) & 1;
  let count = 0;
  for (let i = 0, p = piece; i < slots && count < most; i++, p = 0) {
    const mask = maskAt(view, slot + i);
    for (; p < PIECES; p++, count++) if (((mask >> p) & 1) !== bit) return count;
  }
  return count;
}

function locateIn(archive: Archive, index: ArchiveIndex, run: Run, at: Bytes, limit: Bytes): Location | null {
  const view = archive.extent(run.extent);
  if (view === null) return null;
  const cluster = Math.floor(at / CLUSTER);
  const slot = run.slot + cluster - run.first;
  const piece = Math.floor((at - cluster * CLUSTER) / PIECE);
  const within = at % PIECE;
  const same = sameFor(view, slot, piece, run.first + run.count - cluster, Math.ceil((within + limit) / PIECE));
  const length = Math.min(limit, same * PIECE - within);
  if (((maskAt(view, slot) >> piece) & 1) === 0) return { kind: 'zero', length };
  const fileAt = index.extents.get(run.extent) + EXTENT_HEADER + piecesBefore(view, slot, piece) * PIECE + within;
  return { kind: 'plain', source: archive.source(), at: fileAt, length };
}

export function deviceLayer(id: LayerId, archive: Archive, device: ArchiveDevice): Layer {
  const missing = missingSource(archive, device);
  const runsOf = (index: ArchiveIndex): ClusterRuns => index.devices.get(device.id)!;
  return {
    id,
    size: device.size,
    blockSize: CLUSTER,
    locate(at, limit) {
      const index = archive.now();
      if (index === null) return null;
      const cluster = Math.floor(at / CLUSTER);
      const run = runsOf(index).find(cluster);
      if (run === null) {
        const next = runsOf(index).nextAfter(cluster, Math.ceil(device.size / CLUSTER));
        return { kind: 'plain', source: missing, at, length: Math.min(limit, next * CLUSTER - at) };
      }
      if (run.extent !== ZEROS) return locateIn(archive, index, run, at, limit);
      return { kind: 'zero', length: Math.min(limit, (run.first + run.count) * CLUSTER - at) };
    },
    async load(at) {
      const index = await archive.load();
      const run = runsOf(index).find(Math.floor(at / CLUSTER));
      if (run !== null && run.extent !== ZEROS) await archive.loadExtent(run.extent);
    },
    deferred: () => archive.packed && archive.now() === null,
    unpack: () => Promise.reject(new ImageError('unsupported', 'a VMA archive holds no packed blocks')),
  };
}
