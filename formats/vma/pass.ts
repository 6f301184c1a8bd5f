/** One pass over the extent headers of an archive: which cluster lies where. */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { viewOf } from '../../src/base/struct.ts';
import type { ArchiveHeader } from './header.ts';
import { ClusterRuns, Offsets, ZEROS } from './runs.ts';
import { CLUSTER, EXTENT_HEADER, Extent, entryAt, md5Holds, PIECE, popcount, SLOTS } from './structs.ts';

/** Other work gets its turn after so many extents. */
const TURN = 64;
/** Runs of all devices: 200 MiB. An archive in order has about one per 4 MiB. */
const MOST_RUNS = 2 ** 24;
const SEARCH: Bytes = 2 ** 20;
const MOST_FAULTS = 100;

export interface ArchiveIndex {
  readonly extents: Offsets;
  /** By the device's number. */
  readonly devices: ReadonlyMap<number, ClusterRuns>;
  /** What is wrong with the archive, in the order of the file. */
  readonly faults: readonly ImageError[];
}

export interface ExtentHeader {
  readonly view: DataView;
  readonly pieces: number;
}

/** The extent header in `raw`, or null when it is not one of this archive, or damaged. */
export function extentOf(raw: Uint8Array, uuid: Uint8Array): ExtentHeader | null {
  const view = viewOf(raw);
  if (view.getUint32(0) !== 0x564d_4145 || Buffer.compare(raw.subarray(8, 24), uuid) !== 0) return null;
  if (!md5Holds(raw, Extent.offsetOf('md5'))) return null;
  const pieces = view.getUint16(Extent.offsetOf('pieces'));
  let listed = 0;
  for (let slot = 0; slot < SLOTS; slot++) {
    if (view.getUint8(entryAt(slot) + 3) !== 0) listed += popcount(view.getUint16(entryAt(slot)));
  }
  return listed === pieces ? { view, pieces } : null;
}

/** The next sound extent header after `from`, where one was damaged; null when there is none. */
async function searchExtent(source: ByteSource, uuid: Uint8Array, from: Bytes): Promise<Bytes | null> {
  for (let at = from; at + EXTENT_HEADER <= source.size; ) {
    const part = new Uint8Array(Math.min(SEARCH, source.size - at));
    await source.read(part, at);
    for (let within = 0; within + EXTENT_HEADER <= part.length; within += EXTENT_HEADER) {
      if (extentOf(part.subarray(within, within + EXTENT_HEADER), uuid) !== null) return at + within;
    }
    at += SEARCH;
    await new Promise<void>(resolve => setImmediate(resolve));
  }
  return null;
}

interface Pass {
  readonly source: ByteSource;
  readonly header: ArchiveHeader;
  readonly extents: Offsets;
  readonly devices: Map<number, ClusterRuns>;
  readonly clusters: ReadonlyMap<number, number>;
  readonly faults: ImageError[];
}

function fault(pass: Pass, message: string, at: Bytes): void {
  if (pass.faults.length < MOST_FAULTS)
    pass.faults.push(new ImageError('corrupt', message, { file: pass.source.name, at }));
}

function addExtent(pass: Pass, { view }: ExtentHeader, at: Bytes): void {
  const extent = pass.extents.length;
  pass.extents.push(at);
  for (let slot = 0; slot < SLOTS; slot++) {
    const entry = entryAt(slot);
    const device = view.getUint8(entry + 3);
    if (device === 0) continue;
    const cluster = view.getUint32(entry + 4);
    const clusters = pass.clusters.get(device);
    if (clusters === undefined || cluster >= clusters) {
      const what = clusters === undefined ? `device ${device}` : `cluster ${cluster} of device ${device}`;
      fault(pass, `an extent lists ${what}, which the header does not have`, at + entry);
      continue;
    }
    const runs = pass.devices.get(device)!;
    runs.add(cluster, view.getUint16(entry) === 0 ? ZEROS : extent, slot);
  }
}

const runsIn = (pass: Pass): number => [...pass.devices.values()].reduce((sum, runs) => sum + runs.length, 0);

async function readExtents(pass: Pass): Promise<void> {
  const { source, header } = pass;
  const raw = new Uint8Array(EXTENT_HEADER);
  let at = header.size;
  for (let turn = 1; at < source.size; turn++) {
    if (at + EXTENT_HEADER > source.size) return fault(pass, 'the archive ends inside an extent header', at);
    await source.read(raw, at);
    const extent = extentOf(raw, header.uuid);
    if (extent === null) {
      fault(pass, 'an extent header is damaged', at);
      const next = await searchExtent(source, header.uuid, at + EXTENT_HEADER);
      if (next === null) return;
      at = next;
      continue;
    }
    addExtent(pass, extent, at);
    at += EXTENT_HEADER + extent.pieces * PIECE;
    if (at > source.size) fault(pass, 'the archive ends inside an extent', source.size);
    if (turn % TURN === 0) {
      if (runsIn(pass) > MOST_RUNS) {
        throw new ImageError('too-big', 'the clusters of the archive are too scattered to be indexed', {
          file: source.name,
          at,
        });
      }
      await new Promise<void>(resolve => setImmediate(resolve));
    }
  }
}

/** Reads every extent header (512 bytes per 3.7 MiB of data) and checks its MD5. Damage is noted and stepped over. */
export async function indexPass(source: ByteSource, header: ArchiveHeader): Promise<ArchiveIndex> {
  const pass: Pass = {
    source,
    header,
    extents: new Offsets(),
    devices: new Map(header.devices.map(({ id }) => [id, new ClusterRuns()])),
    clusters: new Map(header.devices.map(({ id, size }) => [id, Math.ceil(size / CLUSTER)])),
    faults: [],
  };
  await readExtents(pass);
  for (const { id, name } of header.devices) {
    const runs = pass.devices.get(id)!;
    const twice = runs.sort();
    if (twice !== null) fault(pass, `cluster ${twice} of ${name} is in the archive twice`, header.size);
    const missing = pass.clusters.get(id)! - runs.clusters;
    if (twice === null && missing > 0) {
      fault(pass, `${missing} clusters of ${name} are missing from the archive`, source.size);
    }
  }
  return pass;
}
