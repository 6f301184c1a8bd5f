/** QCOW2 as a backup image: what its header says, one restore point per internal snapshot, and the disk itself last. */

import { nameInStore } from '../../src/base/backing.ts';
import type {
  Adapter,
  ByteSource,
  Bytes,
  Image,
  ImagePoint,
  Keyring,
  Layer,
  LayerId,
  ParentRef,
  Store,
} from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { roundUp } from '../../src/base/range.ts';
import type { SectorCipher } from '../../src/base/sector-cipher.ts';
import { listBitmaps } from './bitmaps.ts';
import { decipheredLayer, unlock } from './encrypted.ts';
import { isQcow2, parseHeader, type Qcow2Header, tablesFor } from './header.ts';
import { snapshotIdentity, surveyDisk } from './identity.ts';
import { type LayerParts, mappedLayer, rawDataLayer } from './layer.ts';
import { isCut } from './refcounts.ts';
import { readSnapshots, type Snapshot } from './snapshots.ts';
import { type Mapping, verifyImage } from './verify.ts';

/** The largest cluster, and so the most that a header with its extensions can take. */
const MAX_HEADER: Bytes = 2 ** 21;

async function readAt(source: ByteSource, at: Bytes, length: Bytes): Promise<Uint8Array> {
  const into = new Uint8Array(length);
  await source.read(into, at);
  return into;
}

/** The first cluster, whose length stands at byte 20. */
async function readHead(source: ByteSource): Promise<Uint8Array> {
  const start = await readAt(source, 0, Math.min(source.size, 512));
  if (!isQcow2(start)) throw new ImageError('not-this-format', 'not a QCOW2 image', { file: source.name, at: 0 });
  const bits = start[23] ?? 0;
  return bits <= 9 || bits > 21 ? start : readAt(source, 0, Math.min(source.size, 2 ** bits, MAX_HEADER));
}

interface Found<T> {
  readonly value: T;
  readonly problem: ImageError | null;
}

/** Where the backing file is, by its name in the store. */
function findParent(header: Qcow2Header, file: string, warnings: string[]): Found<ParentRef | null> {
  if (header.backingName === null) return { value: null, problem: null };
  const found = nameInStore(file, header.backingName);
  const where = { file, at: 8, field: 'backing file' };
  const shown = JSON.stringify(header.backingName);
  if (found.kind === 'refused') {
    const value = { by: 'name', name: header.backingName, format: header.backingFormat } as const;
    return { value, problem: new ImageError('unsupported', `the backing file ${shown} ${found.why}`, where) };
  }
  const value = { by: 'name', name: found.name, format: header.backingFormat } as const;
  if (found.name === file) {
    const message = `the backing file ${shown} would be this image itself`;
    return { value, problem: new ImageError('broken-chain', message, where) };
  }
  if (found.warning !== null) warnings.push(`${file}: the backing file ${found.warning}`);
  return { value, problem: null };
}

/** Opens the external data file, when there has to be one. */
async function openData(
  header: Qcow2Header,
  source: ByteSource,
  store: Store,
  warnings: string[],
): Promise<Found<ByteSource | null>> {
  if (!header.dataFile) return { value: source, problem: null };
  const where = { file: source.name, field: 'data file' };
  const fail = (fault: 'unsupported' | 'broken-chain', message: string, cause?: unknown): Found<null> => ({
    value: null,
    problem: new ImageError(fault, message, where, { cause }),
  });
  if (header.dataName === null) return fail('broken-chain', 'the image does not name its external data file');
  const shown = JSON.stringify(header.dataName);
  const found = nameInStore(source.name, header.dataName);
  if (found.kind === 'refused') return fail('unsupported', `the data file ${shown} ${found.why}`);
  if (found.name === source.name) return fail('broken-chain', `the data file ${shown} would be this image itself`);
  try {
    const data = await store.open(found.name);
    if (found.warning !== null) warnings.push(`${source.name}: the data file ${found.warning}`);
    return { value: data, problem: null };
  } catch (cause) {
    if (!(cause instanceof ImageError && cause.fault === 'not-found')) throw cause;
    return fail('broken-chain', `the data file ${shown} is missing; "${found.name}" was tried`, cause);
  }
}

interface PointParts {
  readonly id: LayerId;
  readonly layer: Layer | null;
  readonly size: Bytes;
  readonly stored: Bytes;
  readonly parent: ParentRef | null;
  readonly identity: string;
  readonly problem: ImageError | null;
}

const pointOf = (type: ImagePoint['type'], time: Date | null, parts: PointParts): ImagePoint => ({
  id: parts.id,
  parent: parts.parent,
  set: null,
  time,
  type,
  disks: [{ name: 'disk0', size: roundUp(parts.size, 512), sectorSize: 512, stored: parts.stored, layer: parts.layer }],
  identity: parts.identity,
  problem: parts.problem,
});

function headerWarnings(header: Qcow2Header, file: string, cut: boolean): string[] {
  const out: string[] = [];
  if (header.dirty) out.push(`${file}: not closed cleanly; refcounts may be stale, which reading does not need`);
  if (header.corrupt) out.push(`${file}: marked as corrupt by the program that wrote it; verify it`);
  if (cut) out.push(`${file}: the file ends before clusters that it counts as used; it seems to be cut`);
  if (header.size % 512 !== 0)
    out.push(`${file}: the disk's size of ${header.size} bytes is filled up to whole sectors with zeros`);
  return out;
}

async function survey(
  source: ByteSource,
  header: Qcow2Header,
  head: Uint8Array,
  dataSize: Bytes | null,
  warnings: string[],
): Promise<string> {
  const { identity, cutCluster } = await surveyDisk(source, header, head, dataSize);
  if (cutCluster !== null)
    warnings.push(`${source.name}: the file ends inside cluster ${cutCluster}; the rest of it reads as zeros`);
  return identity;
}

/** The cipher of the clusters: null where there is none. */
async function openCipher(header: Qcow2Header, source: ByteSource, keys: Keyring): Promise<Found<SectorCipher | null>> {
  if (header.encryption !== 'LUKS') return { value: null, problem: null };
  try {
    return { value: await unlock(source, header, keys), problem: null };
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    return { value: null, problem: error };
  }
}

/** Everything the file says about its mappings, the disk's own last. */
async function readPoints(
  source: ByteSource,
  header: Qcow2Header,
  head: Uint8Array,
  store: Store,
  keys: Keyring,
  warnings: string[],
): Promise<{ points: ImagePoint[]; mappings: Mapping[]; data: ByteSource | null }> {
  const file = source.name;
  const cut = await isCut(source, header);
  warnings.push(...headerWarnings(header, file, cut));
  const parent = findParent(header, file, warnings);
  const data = header.unsupported ? { value: null, problem: null } : await openData(header, source, store, warnings);
  const unreadable = header.unsupported ?? parent.problem ?? data.problem;
  const cipher = unreadable === null ? await openCipher(header, source, keys) : { value: null, problem: null };
  const problem = unreadable ?? cipher.problem;
  const points: ImagePoint[] = [];
  const mappings: Mapping[] = [];
  const dataSize = data.value === null || data.value === source ? null : data.value.size;
  const stored = source.size + (dataSize ?? 0);
  const add = async (snapshot: Snapshot | null): Promise<void> => {
    const { l1At, size } = snapshot ?? header;
    const top = { at: l1At, entries: tablesFor(header, size) };
    const id = `qcow2:${file}${snapshot === null ? '' : `@${snapshot.id}`}` as LayerId;
    let layer: Layer | null = null;
    if (unreadable === null && data.value !== null) {
      const parts: LayerParts = { id, header, source, data: data.value, top, size, cut };
      const stored = header.rawData ? rawDataLayer(parts) : mappedLayer(parts);
      const plain = cipher.value === null ? stored : decipheredLayer(stored, cipher.value);
      layer = problem === null ? plain : null;
      mappings.push({ name: id, top, size, layer: plain });
    }
    const identity =
      snapshot === null
        ? await survey(source, header, head, dataSize, warnings)
        : await snapshotIdentity(source, header, snapshot);
    const type = snapshot !== null ? 'snapshot' : parent.value === null ? 'full' : 'incremental';
    points.push(
      pointOf(type, snapshot?.time ?? null, { id, layer, size, stored, parent: parent.value, identity, problem }),
    );
  };
  try {
    const snapshots = header.snapshots === 0 ? [] : await readSnapshots(source, header);
    for (const snapshot of [...snapshots, null]) await add(snapshot);
  } catch (error) {
    if (data.value !== null && data.value !== source) await data.value[Symbol.asyncDispose]();
    throw error;
  }
  return { points, mappings, data: data.value };
}

/** What a damaged directory of bitmaps says about itself is a warning: the disk does not need it. */
async function notesOf(source: ByteSource, header: Qcow2Header, warnings: string[]): Promise<readonly string[]> {
  try {
    return await listBitmaps(source, header);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    warnings.push(`${source.name}: ${error.message}`);
    return [];
  }
}

async function openImage(name: string, store: Store, keys: Keyring): Promise<Image> {
  const source = await store.open(name);
  try {
    const head = await readHead(source);
    const header = parseHeader(head, source.size, name);
    const warnings: string[] = [];
    const { points, mappings, data } = await readPoints(source, header, head, store, keys, warnings);
    const notes = await notesOf(source, header, warnings);
    return {
      adapter: 'qcow2',
      name,
      encrypted: header.encryption !== 'none',
      points,
      warnings,
      notes,
      verify: run =>
        verifyImage({ source, data: data ?? source, header, mappings, problem: points.at(-1)!.problem }, run),
      async [Symbol.asyncDispose]() {
        await source[Symbol.asyncDispose]();
        if (data !== null && data !== source) await data[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await source[Symbol.asyncDispose]();
    throw error;
  }
}

/** Reads QCOW2 versions 2 and 3; see the README for what is refused. Images are never written through it. */
export const qcow2: Adapter = {
  name: 'qcow2',
  title: 'QEMU copy-on-write 2',
  extensions: ['.qcow2', '.qcow'],
  supports: { differencing: true, encryption: true, compression: true, write: false },
  probe: head => (isQcow2(head) ? 'certain' : 'no'),
  open: (name, store, keys) => openImage(name, store, keys),
};
