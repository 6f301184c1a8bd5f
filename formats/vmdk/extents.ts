/** Opening the files that a disk's parts lie in. */
import { createHash, type Hash } from 'node:crypto';
import type { ByteSource, Bytes, Layer, LayerId } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import type { Descriptor, ExtentLine } from './descriptor.ts';
import { openCowd, openSeSparse } from './esxi.ts';
import { type HostedExtent, hostedTables, openHosted } from './hosted.ts';
import { flatLayer, joinedLayer, zeroLayer } from './layer.ts';
import { findFile, type Opener } from './names.ts';
import { magicOf, SECTOR } from './structs.ts';
import { type GrainTables, grainLayer } from './tables.ts';

/** Pages of tables that one image keeps: 8 MiB, which map 128 GiB of disk in grains of 64 KiB. */
const PAGES = 512;
/** An extent keeps so many even when there are many extents. */
const FEWEST_PAGES = 4;
const SAMPLES = 16;

/** A sparse file before it is known how much of it belongs to the disk. */
export interface SparseFile {
  readonly size: Bytes;
  readonly hosted: HostedExtent | null;
  tables(size: Bytes): GrainTables;
}

/** 'not-this-format' for a file that is no sparse extent. */
export async function openSparse(source: ByteSource): Promise<SparseFile> {
  const head = new Uint8Array(Math.min(SECTOR, source.size));
  await source.read(head, 0);
  switch (magicOf(head)) {
    case 'hosted': {
      const hosted = await openHosted(source);
      return { size: hosted.size, hosted, tables: size => hostedTables(source, hosted, size) };
    }
    case 'cowd':
      return { hosted: null, ...(await openCowd(source)) };
    case 'sesparse':
      return { hosted: null, ...(await openSeSparse(source)) };
    case null:
      throw new ImageError('not-this-format', 'not a sparse extent', { file: source.name, at: 0 });
  }
}

export interface Extents {
  readonly layer: Layer;
  readonly stored: Bytes;
  /** Of the sparse parts, for checks of their structure. */
  readonly tables: readonly { readonly tables: GrainTables; readonly hosted: HostedExtent | null }[];
}

/** What opening a disk gathers on its way. */
export interface Gathered {
  readonly open: Opener;
  /** Everything that was opened; the image closes it. */
  readonly sources: ByteSource[];
  readonly warnings: string[];
  readonly digest: Hash;
}

export const gather = (open: Opener): Gathered => ({
  open,
  sources: [],
  warnings: [],
  digest: createHash('sha256').update('vmdk'),
});

/** The identity covers both ends of a raw part and places between them. */
export async function sample({ digest }: Gathered, source: ByteSource, from: Bytes, length: Bytes): Promise<void> {
  const part = new Uint8Array(Math.min(4096, length));
  const last = length - part.length;
  digest.update(`${source.size} ${from} ${length}`);
  for (let i = 0; i <= SAMPLES && part.length > 0; i++) {
    await source.read(part, from + Math.floor((last * i) / SAMPLES));
    digest.update(part);
  }
}

/** The identity covers the header, the directory and the first table. */
async function sampleTables(gathered: Gathered, tables: GrainTables): Promise<void> {
  const { source, directoryAt } = tables;
  gathered.digest.update(`${source.size} ${tables.size}`);
  for (const at of [0, directoryAt, Math.max(0, source.size - 4096)]) {
    const part = new Uint8Array(Math.min(4096, source.size - at));
    await source.read(part, at);
    gathered.digest.update(part);
  }
}

interface Asked {
  readonly id: LayerId;
  readonly hasParent: boolean;
  readonly extents: number;
}

const missingExtent = (file: string, written: string): ImageError =>
  new ImageError('broken-chain', `the extent ${JSON.stringify(written)} is missing`, { file, field: 'extent' });

/** The layer of one sparse file, for `size` bytes of disk. */
export async function sparseLayer(
  file: SparseFile,
  gathered: Gathered,
  asked: Asked & { readonly at: Bytes; readonly size: Bytes },
): Promise<{ readonly layer: Layer; readonly tables: GrainTables }> {
  const tables = file.tables(asked.size);
  gathered.warnings.push(...(file.hosted?.warnings ?? []));
  await sampleTables(gathered, tables);
  const layer = grainLayer(tables, {
    id: asked.id,
    firstSector: asked.at / SECTOR,
    pages: Math.max(FEWEST_PAGES, Math.floor(PAGES / asked.extents)),
    hasParent: asked.hasParent,
  });
  return { layer, tables };
}

/** What a sparse file says about its length, against what the descriptor says. */
function checkLength(file: SparseFile, line: ExtentLine, name: string, warnings: string[]): void {
  if (file.size < line.size) {
    const message = `the extent has ${file.size} bytes of disk, the descriptor says ${line.size}`;
    throw new ImageError('corrupt', message, { file: name, field: 'capacity' });
  }
  if (file.size > line.size) {
    warnings.push(`${name} has ${file.size} bytes of disk, of which the descriptor uses ${line.size}`);
  }
}

/**
 * Opens the parts that the descriptor in `name` lists. `self`: the file that the descriptor is embedded in, which is its
 * only part. Throws 'broken-chain' for a part that is missing, 'corrupt' for one that ends early or is something else.
 */
export async function openExtents(
  name: string,
  descriptor: Descriptor,
  self: { readonly source: ByteSource; readonly file: SparseFile } | null,
  gathered: Gathered,
  id: LayerId,
): Promise<Extents> {
  const asked = { id, hasParent: descriptor.parentCid !== null, extents: descriptor.extents.length };
  const opened = new Map<string, ByteSource>();
  const layers: Layer[] = [];
  const tables: Extents['tables'][number][] = [];
  let stored = 0;
  let at = 0;

  const sourceOf = async (line: ExtentLine): Promise<ByteSource> => {
    const known = opened.get(line.file);
    if (known !== undefined) return known;
    const found = await findFile(name, line.file, gathered.open);
    if (found === null) throw missingExtent(name, line.file);
    opened.set(line.file, found.source);
    gathered.sources.push(found.source);
    gathered.warnings.push(...found.warnings);
    return found.source;
  };
  const layerOf = async (line: ExtentLine): Promise<Layer> => {
    if (line.type === 'zero') return zeroLayer(id, line.size);
    const source = self?.source ?? (await sourceOf(line));
    if (line.type === 'flat' || line.type === 'vmfs') {
      if (line.fileAt + line.size > source.size) {
        const message = `the file ends early: the extent needs ${line.fileAt + line.size} bytes, ${source.size} are there`;
        throw new ImageError('corrupt', message, { file: source.name, at: source.size });
      }
      await sample(gathered, source, line.fileAt, line.size);
      stored += line.size;
      return flatLayer(id, source, line.fileAt, line.size);
    }
    const file = self?.file ?? (await openSparse(source));
    checkLength(file, line, source.name, gathered.warnings);
    const found = await sparseLayer(file, gathered, { ...asked, at, size: line.size });
    tables.push({ tables: found.tables, hosted: file.hosted });
    stored += Math.max(0, source.size - (file.hosted?.fields.overHead ?? 0) * SECTOR);
    return found.layer;
  };
  for (const line of descriptor.extents) {
    layers.push(await layerOf(line));
    at += line.size;
  }
  return { layer: joinedLayer(id, layers), stored, tables };
}
